"""README and docs: the cheap commands run, the flags of the others exist, the files they name are there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from autograder.__main__ import get_args_parser
from conftest import CODE, ROOT

from demo import __main__ as demo
from labs.__main__ import LABS, import_lab
from libs import arguments

README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*DOCS, *sorted((ROOT / "results").rglob("README.md")), *sorted((ROOT / "autograder").glob("*.md")),
         ROOT / "benchmarks/README.md", ROOT / "data/README.md", *sorted((ROOT / "writeup").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """The lines of a page's sh blocks, without comments, and the commands in its tables and sentences."""
    text = page.read_text()
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks
             for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return lines + re.findall(r"`((?:python|sh|make|torchrun) [^`]*)`", prose.replace("\n", " "))


EVERY = [pytest.param(command, id=f"{page.relative_to(ROOT)}: {command[:70]}") for page in PAGES
         for command in dict.fromkeys(commands(page))]


def every(pattern: str) -> list:
    found = [param for param in EVERY if re.search(pattern, param.values[0])]
    assert found, pattern
    return found


def test_the_readme_is_short_and_its_two_commands_come_first():
    assert len(README.read_text().splitlines()) <= 125
    first = commands(README)
    assert first[0].startswith("git clone")
    assert first[2:4] == ["make demo", "make test"]


@pytest.mark.parametrize("command", every(r"^make \w"))
def test_make_targets_exist(command):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {word for word in command.split()[1:] if "=" not in word} <= targets


@pytest.mark.parametrize("command", every(r"^(python|torchrun) .*main\.py"))
def test_flags_of_main(command):
    words = shlex.split(re.sub(r" \.\.\.(?= |$)", "", command))
    words = words[words.index("main.py" if "main.py" in words else "./main.py") + 1 :]
    if "--help" not in words and words[:1] != ["DIR"] and "[flags]" not in words:
        arguments.parse_args(words)


@pytest.mark.parametrize("command", every(r"^python -m labs "))
def test_flags_of_the_labs(command):
    name, *flags = shlex.split(re.sub(r"^.*-m labs|\.\.\.", "", command))
    if name in LABS:
        parser = import_lab(name).get_args_parser()
        parser.parse_args(flags) if flags else parser.prog
    else:
        assert name == "NAME", command


@pytest.mark.parametrize("command", every(r"^python -m autograder "))
def test_flags_of_the_autograder(command):
    get_args_parser().parse_args(shlex.split(command.split("-m autograder ")[1]))


@pytest.mark.parametrize("command", every(r"^(python|sh) [^-].*\.(py|sh)"))
def test_scripts_exist(command):
    for word in shlex.split(command)[:2]:
        if word.endswith((".py", ".sh")):
            assert (CODE / word).exists() or (ROOT / word).exists(), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_pages_of_docs_are_linked_from_the_readme_and_name_files_that_exist(page):
    assert page is README or f"docs/{page.name}" in README.read_text()
    for name in re.findall(r"`((?:code|libs|extras|autograder|tests|docs|benchmarks)/[\w/.]+\.py)`", page.read_text()):
        assert (ROOT / name).exists() or (CODE / name).exists(), name


def test_every_lab_is_documented():
    text = "".join(page.read_text() for page in DOCS)
    assert not [name for name in LABS if f"labs {name}" not in text]


def test_pictures_are_small():
    pictures = [*(ROOT / "docs/pictures").glob("*")]
    assert pictures
    assert not [path.name for path in pictures if path.stat().st_size > 200_000]


def test_the_data_path_names_files_that_exist():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import draw
    finally:
        sys.path.pop(0)
    stops = [stop[1] for stop in (*draw.DATA, *draw.STEP, *draw.DECIDED)]
    assert not [name for name in stops if name.endswith(".py") and not (CODE / name).exists()]


def test_help():
    done = subprocess.run([sys.executable, "main.py", "--help"], cwd=CODE, capture_output=True, text=True)
    assert done.returncode == 0
    for flag in ("--epochs", "--learning-rate", "--use-custom-conv", "--resume"):
        assert flag in done.stdout


@pytest.mark.slow
def test_the_demo_in_small(tmp_path):
    """What `make demo` runs, with fewer images."""
    done = subprocess.run([sys.executable, "-m", "demo", "--data", str(tmp_path / "data"), "--out",
                           str(tmp_path / "out"), "--logs", str(tmp_path / "logs"), "--train", "60", "--val",
                           "20", "--epochs", "1", "--sweep", "4"],
                          cwd=CODE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    named = {Path(line.strip()).name for line in done.stdout.splitlines() if line.startswith("  ") and ".png" in line}
    assert {f"{name}.png" for name in demo.PICTURES} < named
    assert named <= {path.name for path in (tmp_path / "out").iterdir()}
    for part in ("clean images", "with horizontal flip averaged", "attacked: 10 steps, 18 of 255 levels",
                 "tensorboard --logdir", "Guessing would get 10 %"):
        assert part in done.stdout
    assert len(list((tmp_path / "logs").glob("exp_*"))) == 3


@pytest.mark.slow
def test_the_demo_stops_with_the_step_that_fails(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("precious")
    flags = "--data", str(tmp_path / "data"), "--logs", str(tmp_path / "logs")
    done = subprocess.run([sys.executable, "-m", "demo", *flags], cwd=CODE, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is there and is not the demo data" in done.stderr
