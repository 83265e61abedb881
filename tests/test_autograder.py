"""Grading whole submissions: points, feedback, output formats, years."""

import json
import re
import subprocess
import sys
import textwrap
import zipfile

import pytest
from autograder import __main__ as cli
from autograder import batch, process, report, rubric
from autograder.checks import CHECKS
from autograder.grade import grade
from autograder.variants import changed, textbook
from conftest import CODE, ROOT
from hand_ins import check_gradescope, make_submission
from test_years import YEARS


@pytest.fixture(scope="module")
def reference() -> str:
    return (CODE / "student_code.py").read_text()


def test_the_rubric_matches_the_sheet():
    assert rubric.REGULAR == 12
    assert sum(points for name, (points, _) in rubric.PARTS.items() if name in rubric.BONUS) == 2
    assert {check.part for check in CHECKS} == set(rubric.PARTS)
    assert len({(check.part, check.title) for check in CHECKS}) == len(CHECKS)


@pytest.mark.slow
def test_the_reference_gets_every_point_and_a_table(reference, tmp_path, capsys):
    path, out = make_submission(tmp_path, reference), tmp_path / "results.json"
    assert cli.main(["grade", str(path), "--seed", "11", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^total +10.00 +8  and 2 bonus; 4 more are graded by hand", printed, re.M), printed
    assert "seed 11" in printed
    check_gradescope(json.loads(out.read_text()), 10.0)


@pytest.mark.slow
def test_a_seed_reproduces_the_result_and_mistakes_cost_once(reference, tmp_path):
    """With a wrong attention, block and ViT keep their points; the same seed gives the same feedback."""
    path = make_submission(tmp_path, reference + changed("attention", (" * self.scale", "")))
    first, second = (grade(path, 3, ["attention", "block", "vit"]) for _ in range(2))
    assert [part.points for part in first.parts][1:] == [1.0, 1.0]
    assert 0 < first.parts[0].points < 2
    assert [part.verdicts for part in first.parts] == [part.verdicts for part in second.parts]


def test_each_broken_rule_after_the_first_costs_five_per_cent(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(rubric, "PARTS", {"attention": rubric.PARTS["attention"]})
    path = tmp_path / "h.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code/student_code.py", reference)
        archive.writestr("logs/x/models/model_best.pth.tar", "x")
    mark = grade(path, 0)
    assert len(mark.violations) == 3  # no writeup, no results, a model
    assert mark.points == pytest.approx(2 - 2 * 0.6)
    assert [line.split()[1] for line in report.broken_rules(mark)] == ["0.00", "-0.60", "-0.60"]


def test_a_submission_is_graded_with_its_own_modules(tmp_path):
    """The starter has no modules of these names, though the solution once had."""
    path = make_submission(tmp_path, "import attacks\nimport figures\nfrom models import Attention\n")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("code/models.py", "import torch\nfrom torch import nn\n" + textbook.ATTENTION)
        archive.writestr("code/attacks.py", "from figures import NAME\n")
        archive.writestr("code/figures.py", "NAME = 'curves.png'\n")
    mark = grade(path, 0, ["attention"])
    assert (mark.points, mark.notes) == (2.0, [])


@pytest.mark.parametrize(("source", "words"), [
    ("import time\ntime.sleep(1000)\n", "took longer than"),
    ("raise ValueError('boo')\n", r"importing student_code.py raises ValueError: boo \(student_code.py:1\)"),
    ("import not_there\n", "No module named 'not_there'.*put your own modules"),
    ("def f(:\n", "not valid Python"),
    ("import torch\n", "student_code.py has no Attention")])
def test_files_that_cannot_be_graded_get_one_reason(source, words, tmp_path, monkeypatch):
    monkeypatch.setattr("autograder.process.REPLY_TIMEOUT", 3.0)
    mark = grade(make_submission(tmp_path, source), 0, ["attention"])
    assert mark.points == 0
    shown = report.show(mark)
    assert re.search(words, shown), shown
    assert shown.count("all checks:") == 1


@pytest.mark.slow
@pytest.mark.parametrize("year", YEARS)
def test_files_of_every_year(year, tmp_path):
    """Attention was helper code until 2023 and the block until 2024: what the sheet gives is not graded."""
    source = textwrap.dedent(YEARS[year])
    mark = grade(make_submission(tmp_path, source), 1, ["attention", "block", "pgd"], year=year)
    by_name = {part.name: part for part in mark.parts}
    assert by_name["attention"].manual == (year <= 2023)
    assert by_name["block"].manual == (year <= 2024)
    assert by_name["attention"].points == (2 if year >= 2024 else 0)
    assert by_name["block"].points == by_name["block"].out_of == (1 if year >= 2025 else 0)
    assert 1.5 < by_name["pgd"].points < 2  # those files leave gradients on the parameters
    assert any("gradients on the parameters" in verdict.feedback for verdict in by_name["pgd"].verdicts)


@pytest.mark.slow
@pytest.mark.parametrize("year", [2022, 2023])
def test_an_older_file_is_graded_as_one_under_a_wrong_year(year, tmp_path):
    path = make_submission(tmp_path, textwrap.dedent(YEARS[year]))
    wrong, right = (grade(path, 1, ["block", "pgd"], year=given) for given in (2025, 2023))
    assert [part.points for part in wrong.parts] == [part.points for part in right.parts]
    assert "graded with --year 2023" in wrong.notes[-1]


def test_a_submission_that_cannot_be_graded_gives_exit_status_2(tmp_path, capsys):
    (tmp_path / "h.zip").write_bytes(b"Rar!")
    out = tmp_path / "results.json"
    assert cli.main(["grade", str(tmp_path / "h.zip"), "--json", str(out)]) == 2
    assert "RAR archive" in capsys.readouterr().err
    assert "RAR archive" in json.loads(out.read_text())["output"]
    assert cli.main(["grade", str(tmp_path / "nowhere")]) == 2


def test_the_graders_own_failure_is_never_a_mark(reference, tmp_path, capsys, monkeypatch):
    """A worker that dies before student code runs, as under a Python without torch: exit code 2, nothing cached."""
    (tmp_path / "no_torch.py").write_text("import a_module_that_is_not_installed")
    monkeypatch.setattr(process, "WORKER", tmp_path / "no_torch.py")
    out = tmp_path / "results.json"
    path = make_submission(tmp_path, reference)
    assert cli.main(["grade", str(path), "--part", "pgd", "--json", str(out)]) == 2
    assert "ended the process (exit status 1)" in capsys.readouterr().err
    results = json.loads(out.read_text())
    assert results["output"].startswith("could not be graded")
    assert results["extra_data"]["hand_in_at_fault"] is False
    monkeypatch.setattr(batch, "grade_in_subprocess", lambda *_: results)
    (tmp_path / "marks").mkdir()
    assert batch.grade_one(path, tmp_path / "marks", {}) == (results, True)
    assert not list((tmp_path / "marks").iterdir())


def test_cached_marks_depend_on_the_versions(reference, tmp_path, monkeypatch):
    path = make_submission(tmp_path, reference)
    before = batch.cache_key(path, {})
    monkeypatch.setattr(batch, "installed_version", lambda package: "0.0")
    assert batch.cache_key(path, {}) != before


def test_the_grading_process_imports_neither_code_nor_torch():
    script = "import sys, autograder.__main__, autograder.selftest; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(re.findall(r"'([^']+)'", done.stdout))
    assert not loaded & {path.stem for path in CODE.glob("*.py")}
    assert "torch" not in loaded
