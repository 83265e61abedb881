"""Grading whole hand-ins: marks, formats, the class, Gradescope's container, the starter; and the grader's own test."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile

import pytest
from autograder import __main__ as cli
from autograder import batch, doctor, report, rubric, selftest, starter
from autograder.grade import grade
from autograder.parts import CHECKS
from autograder.variants import changed
from autograder.variants.cheats import CHEATS
from autograder.variants.right import RIGHT
from autograder.variants.wrong import WRONG
from conftest import CODE, ROOT
from test_years import YEARS

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has what confines a worker")


def hand_in(folder, source: str, name="h.zip"):
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code/student_code.py", source)
        archive.writestr("writeup/report.pdf", "%PDF")
        archive.writestr("results/a.txt", "x")
    return path


@pytest.fixture(scope="module")
def reference() -> str:
    return (CODE / "student_code.py").read_text()


def test_the_rubric_is_the_sheets():
    assert rubric.REGULAR == 12
    assert sum(points for name, (points, _) in rubric.PARTS.items() if name in rubric.BONUS) == 2
    assert {check.part for check in CHECKS} == set(rubric.PARTS)
    assert len({(check.part, check.title) for check in CHECKS}) == len(CHECKS)


def test_the_reference_gets_every_point_and_a_table(reference, tmp_path, capsys):
    path, out = hand_in(tmp_path, reference), tmp_path / "results.json"
    assert cli.main(["grade", str(path), "--seed", "11", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^total +10.00 +8  and 2 bonus; 4 more are graded by hand", printed, re.M), printed
    assert "seed 11" in printed
    check_gradescope(json.loads(out.read_text()), 10.0)


def check_gradescope(results: dict, points: float) -> None:
    """results.json against what Gradescope documents."""
    kinds = {"score": (int, float), "execution_time": (int, float), "output": str, "output_format": str,
             "test_output_format": str, "visibility": str, "stdout_visibility": str, "extra_data": dict, "tests": list,
             "leaderboard": list}
    assert all(isinstance(value, kinds[name]) for name, value in results.items())
    assert results["score"] == points
    test_kinds = {"score": (int, float), "max_score": (int, float), "status": str, "name": str, "number": str,
                  "output": str, "output_format": str, "tags": list, "visibility": str}
    for test in results["tests"]:
        assert all(isinstance(value, test_kinds[name]) for name, value in test.items()), test
        assert test.get("status", "passed") in ("passed", "failed")
        assert test["visibility"] == "visible", "one hidden test hides the student's total"
    assert abs(sum(test["score"] for test in results["tests"]) - points) < 0.02


def test_a_mark_can_be_reproduced_and_mistakes_cost_once(reference, tmp_path):
    """A wrong attention: block and ViT keep their points, and the same seed says the same."""
    path = hand_in(tmp_path, reference + changed("attention", (" * self.scale", "")))
    first, second = (grade(path, 3, ["attention", "block", "vit"]) for _ in range(2))
    assert [part.points for part in first.parts][1:] == [1.0, 1.0]
    assert 0 < first.parts[0].points < 2
    assert [part.verdicts for part in first.parts] == [part.verdicts for part in second.parts]


def test_hand_in_rules_cost_five_per_cent_each(reference, tmp_path):
    path = tmp_path / "h.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code/student_code.py", reference)
        archive.writestr("logs/x/models/model_best.pth.tar", "x")
    mark = grade(path, 0, ["attention"])
    assert len(mark.violations) == 3  # no writeup, no results, a model
    assert mark.points == pytest.approx(2 - 3 * 0.6)


@pytest.mark.parametrize(("source", "words"), [
    ("import time\ntime.sleep(1000)\n", "took longer than"),
    ("raise ValueError('boo')\n", r"importing student_code.py raises ValueError: boo \(student_code.py:1\)"),
    ("import not_there\n", "No module named 'not_there'.*bring your own modules"),
    ("def f(:\n", "not valid Python"),
    ("from custom_blocks import Attention\n", "staff grade files of before with --year 2023"),
    ("import torch\n", "student_code.py has no Attention")])
def test_files_that_cannot_be_graded_get_one_sentence(source, words, tmp_path, monkeypatch):
    monkeypatch.setattr("autograder.process.ANSWER", 3.0)
    monkeypatch.setattr("autograder.process.Worker.__init__.__defaults__", (3.0,), raising=False)
    mark = grade(hand_in(tmp_path, source), 0, ["attention"])
    assert mark.points == 0
    shown = report.show(mark)
    assert re.search(words, shown), shown
    assert shown.count("all checks:") == 1


@pytest.mark.parametrize("year", YEARS)
def test_files_of_every_year(year, tmp_path):
    """2022 and 2023 have attention and block from the helpers: nothing of theirs to grade. The rest is as any other."""
    source = textwrap.dedent(YEARS[year])
    mark = grade(hand_in(tmp_path, source), 1, ["attention", "block", "pgd"], year=year)
    by_name = {part.name: part for part in mark.parts}
    assert by_name["attention"].manual == by_name["block"].manual == (year <= 2023)
    if year >= 2024:
        assert by_name["attention"].points == 2
        assert by_name["block"].points == 1
    assert 1.5 < by_name["pgd"].points < 2  # those files leave gradients on the parameters
    assert any("gradients on the parameters" in verdict.feedback for verdict in by_name["pgd"].verdicts)


def test_what_could_not_be_graded_ends_in_2(tmp_path, capsys):
    (tmp_path / "h.zip").write_bytes(b"Rar!")
    out = tmp_path / "results.json"
    assert cli.main(["grade", str(tmp_path / "h.zip"), "--json", str(out)]) == 2
    assert "RAR archive" in capsys.readouterr().err
    assert "RAR archive" in json.loads(out.read_text())["output"]
    assert cli.main(["grade", str(tmp_path / "nowhere")]) == 2


def test_a_class_is_graded_goes_on_and_is_told_about(reference, tmp_path, capsys, monkeypatch):
    folder, table = tmp_path / "in", tmp_path / "out" / "class.csv"
    folder.mkdir()
    flipped = reference + changed("convolution", ("weight.reshape(Co, -1)\n        out",
                                                  "weight.flip(2, 3).reshape(Co, -1)\n        out"))
    for name, source in {"ann.zip": flipped, "bob.zip": "def f(:\n", "=eve.zip": "exit(0)\n"}.items():
        hand_in(folder, source, name)
    (folder / "dan.zip").write_bytes(b"PK\x03\x04 cut")
    assert cli.main(["batch", str(folder), "--csv", str(table), "--jobs", "2", "--seed", "4"]) == 2
    with table.open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"ann.zip", "bob.zip", "'=eve.zip", "dan.zip"}
    assert 9 < float(rows["ann.zip"]["points"]) < 10
    assert (rows["bob.zip"]["points"], rows["dan.zip"]["status"]) == ("0.0", "not graded")
    page = table.with_suffix(".md").read_text()
    assert "kernel flipped" in page
    assert "dan.zip: dan.zip is cut off" in page
    assert "| convolution: forward: padding | 0 | 3 |" in page

    capsys.readouterr()
    (folder / "bob.zip").unlink()
    hand_in(folder, "import torch\n", "bob.zip")
    assert cli.main(["batch", str(folder), "--csv", str(table), "--jobs", "2", "--seed", "4"]) == 2
    printed = capsys.readouterr().out
    assert printed.count("(from before)") == 3, printed
    assert not [line for line in printed.splitlines() if "bob.zip" in line and "(from before)" in line]


def test_an_empty_class(tmp_path, capsys):
    assert cli.main(["batch", str(tmp_path), "--csv", str(tmp_path / "c.csv")]) == 2
    assert "holds no zip, and no folder with code/ in it" in capsys.readouterr().err


def test_gradescope_bundle_in_a_folder_shaped_like_the_container(reference, tmp_path):
    """No solution travels; the mark is the local one."""
    bundle = tmp_path / "bundle.zip"
    assert cli.main(["gradescope", str(bundle), "--seed", "6"]) == 0
    base = tmp_path / "autograder"
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        archive.extractall(base / "source")
        assert {"setup.sh", "run_autograder", "requirements.txt"} <= set(names)
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111, "has to be executable"
    text = " ".join(path.read_text() for path in (base / "source").rglob("*.py"))
    assert not [line for line in starter.solution_lines() if line in text.splitlines()]
    assert not [name for name in names if "student_code" in name or "variants" in name or name.startswith("tests")]
    assert re.search(r"^torch==\d", (base / "source/requirements.txt").read_text(), re.M)
    shutil.copy(base / "source/run_autograder", base)
    source = reference + changed("pgd", ("output - self.step_size", "output + self.step_size"))
    path = hand_in(tmp_path, source)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(base / "submission")
    environment = {**os.environ, "AUTOGRADER": str(base), "GRADER_PYTHON": sys.executable}
    done = subprocess.run(["bash", str(base / "run_autograder")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((base / "results/results.json").read_text())
    local = grade(path, 6)
    check_gradescope(results, local.points)
    assert 7 < local.points < 10
    assert results["extra_data"]["mark"]["parts"][4]["verdicts"][0]["feedback"].startswith("the attack climbs")


def test_gradescope_shows_something_when_there_is_nothing_to_grade(tmp_path):
    base = tmp_path / "autograder"
    assert cli.main(["gradescope", str(tmp_path / "b.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        archive.extractall(base / "source")
    (base / "submission").mkdir()
    environment = {**os.environ, "AUTOGRADER": str(base), "GRADER_PYTHON": sys.executable}
    command = ["bash", str(base / "source/run_autograder")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((base / "results/results.json").read_text())
    assert "there is no code/student_code.py" in json.dumps(results)
    environment["GRADER_PYTHON"] = "/bin/false"
    (base / "results/results.json").unlink()
    subprocess.run(command, env=environment, capture_output=True)
    assert "did not start" in (base / "results/results.json").read_text()


def test_the_starter_is_fit_to_be_handed_out(tmp_path, capsys):
    """Its own checks: it parses, keeps signatures, leaks nothing, imports, runs to the first hole, grades to 0."""
    assert cli.main(["starter", str(tmp_path / "hw2")]) == 0
    assert capsys.readouterr().out.count("ok  ") == len(starter.CHECKS)
    tree = tmp_path / "hw2"
    names = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    assert {"README.md", "requirements.txt", "zip_submission.py", "code/main.py", "code/test_conv.py"} <= names
    assert not [name for name in names if "autograder" in name or name.startswith("tests/") or "flat_conv" in name]
    with zipfile.ZipFile(tmp_path / "hw2.zip") as archive:
        assert set(archive.namelist()) == names
    assert cli.main(["starter", str(tmp_path / "hw2")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_flags_that_need_the_solution_say_so(tmp_path):
    starter.write(tmp_path / "hw2")
    for flags, words in (("--use-custom-conv flat", "needs flat_conv.py, which is part of the solution"),
                         ("--adversarial fast", "needs attacks.py, which is part of the solution")):
        script = ("import demo_data, main\ndemo_data.main(['../d', '--train', '20', '--val', '10'])\n"
                  f"main.main(['../d', '--epochs', '1', '-b', '10', '--logs', '../logs', *{flags.split()!r}])")
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "hw2/code", capture_output=True, text=True)
        assert words in done.stderr, done.stderr


@LINUX
def test_doctor(capsys):
    assert doctor.examine() == 0
    printed = capsys.readouterr().out
    assert re.search("use a convolution +refused: Forbidden", printed)
    assert re.search("take three gigabytes +refused", printed)


def test_there_are_enough_of_them():
    assert len(WRONG) >= 60
    assert len(RIGHT) >= 20
    assert len(CHEATS) >= 30
    names = [(variant.part, variant.name) for variant in [*WRONG, *RIGHT, *CHEATS]]
    assert len(set(names)) == len(names)


@LINUX
@pytest.mark.parametrize(("kind", "variant"), selftest.select(every=18), ids=lambda it: getattr(it, "name", it))
def test_the_grader_on_wrong_right_and_hostile_solutions(kind, variant):
    """A sample; python -m autograder selftest grades them all."""
    outcome = selftest.judge(kind, variant, seed=21)
    assert outcome.as_it_should_be, outcome


def test_nothing_of_code_is_in_the_process_that_decides():
    script = "import sys, autograder.__main__, autograder.selftest; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(re.findall(r"'([^']+)'", done.stdout))
    assert not loaded & {path.stem for path in CODE.glob("*.py")}
    assert "torch" not in loaded


def test_one_bad_hand_in_never_stops_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "SECONDS", 0.2)
    results = batch.in_a_process(hand_in(tmp_path, "x = 1"), {"seed": 1})
    assert "took longer" in results["output"]
