"""The README's commands: the cheap ones run, the flags of the others exist, the files it names are there."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from autograder.__main__ import get_args_parser
from conftest import CODE, ROOT

from demo import __main__ as demo
from labs import common
from libs import arguments

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(?:sh|bash)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS
            for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def test_the_two_commands_come_first():
    assert COMMANDS[:4] == [COMMANDS[0], COMMANDS[1], "make demo", "make test"]
    assert COMMANDS[0].startswith("git clone")


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = [command for command in COMMANDS if command.startswith("make ")]
    named = {word for command in commands for word in command.split()[1:] if "=" not in word}
    assert named
    assert named <= targets


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.match(r"(python|torchrun) .*main\.py", c)])
def test_flags_of_main(command):
    words = shlex.split(command)
    words = words[words.index("main.py" if "main.py" in words else "./main.py") + 1 :]
    if "--help" not in words:
        args = arguments.get_args_parser().parse_args(words)
        args.given = arguments.flags_given(words)
        assert arguments.wrong_combination(args) is None


def lab_commands(text: str) -> list[str]:
    """What stands behind `python -m labs.`, in blocks of commands and in tables."""
    blocks = "\n".join(re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    in_blocks = re.findall(r"^python -m labs\.(.*?)(?: +#.*)?$", blocks, flags=re.MULTILINE)
    return in_blocks + re.findall(r"`python -m labs\.([a-z_]+ [^`]*)`", text)


@pytest.mark.parametrize("readme", ["README.md", "results/miniplaces10/README.md", "results/labs/README.md"])
def test_flags_of_the_labs(readme, monkeypatch):
    """Every command is parsed by its lab; what it would then do is left out."""
    commands = lab_commands((ROOT / readme).read_text())
    assert commands
    monkeypatch.setattr(common, "run", lambda name, job, parser, argv: parser.parse_args(argv))
    for command in commands:
        name, *flags = shlex.split(command)
        if name != "cost":  # what it does has no --help of its own to stop before
            importlib.import_module(f"labs.{name}").main(flags)


@pytest.mark.parametrize("readme", ["README.md", "autograder/README.md"])
def test_flags_of_the_autograder(readme):
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", (ROOT / readme).read_text(), flags=re.DOTALL)
    commands = re.findall(r"^python -m autograder (.*?)(?: +#.*)?$", "\n".join(blocks), flags=re.MULTILINE)
    assert commands
    for command in commands:
        get_args_parser().parse_args(shlex.split(command))


def test_every_python_file_that_is_named_exists():
    for command in COMMANDS:
        words = shlex.split(command)
        for word in words:
            if word.endswith((".py", ".sh")):
                assert (CODE / word).exists() or (ROOT / word).exists(), command


def test_the_tree_names_what_is_there():
    blocks = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
    tree = next(block for block in blocks if "student_code.py" in block)
    named = re.findall(r"[\w.]+\.(?:py|sh|toml|txt|md)\b", tree)
    assert len(named) > 20
    for name in named:
        assert any(list(ROOT.glob(pattern + name)) for pattern in ("", "*/", "code/labs/")), name
    for path in CODE.glob("*.py"):
        assert path.name in tree, f"{path.name} is missing in the README's tree"
    for path in (CODE / "labs").glob("[a-z]*.py"):
        assert f"labs.{path.stem}" in README or path.stem in tree, f"labs/{path.name} is missing in the README"


def test_help():
    assert "python main.py --help" in COMMANDS
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
