"""The Gradescope bundle, from setup.sh to results.json, and results.json itself."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from autograder import __main__ as cli
from autograder import gradescope, report, starter
from autograder.grade import Mark, PartMark, Verdict, grade
from autograder.variants import changed
from conftest import CODE
from hand_ins import check_gradescope, make_submission

VENV = Path(sys.executable).parent.parent


def mark(bonus: str = "is not written yet", violations=()) -> Mark:
    return Mark("x", 5, parts=[
        PartMark("vit", "3.2.2 SimpleViT", 1.0, [Verdict("shape", 1 / 3, 1 / 3), Verdict("batch", 0.0, 2 / 3, "is 2")]),
        PartMark("adversarial", "3.3", 2.0, [Verdict("a", 0.0, 1.0, bonus), Verdict("b", 0.0, 1.0, bonus)], bonus=True),
        PartMark("simplenet", "3.1.2 SimpleNet", 1.0, [Verdict("graded by hand", 0.0, 1.0)], manual=True),
        PartMark("pgd-writeup", "3.3 writeup", 0.0, [Verdict("read by hand", 0.0, 0.0)], manual=True)],
        violations=list(violations))


def test_each_check_is_a_test_and_what_is_not_graded_here_has_no_score():
    results = report.gradescope(mark())
    check_gradescope(results, 0.33)
    found = {test["number"]: test for test in results["tests"]}
    assert list(found) == ["1.1", "1.2", "2", "3", "4"]
    assert [found[number].get("status") for number in found] == ["passed", "failed", None, None, None]
    assert found["1.2"]["name"] == "3.2.2 SimpleViT: batch"
    assert (found["1.2"]["output"], found["1.2"]["max_score"]) == ("is 2", 0.6667)
    assert found["2"]["output"] == "not attempted: is not written yet"
    assert found["3"]["tags"] == ["manual"]


def test_a_wrong_bonus_is_failed_and_broken_rules_are_a_test():
    results = report.gradescope(mark(bonus="in evaluation mode it attacks, too"))
    assert [test["status"] for test in results["tests"] if test["number"].startswith("2.")] == ["failed", "failed"]
    rules = report.gradescope(mark(violations=["no PDF", "data/ is in the zip"]))["tests"][-1]
    assert (rules["name"], rules["number"], rules["status"]) == ("submission rules", "5", "failed")
    assert "no PDF" in rules["output"]


@pytest.mark.parametrize("visibility", gradescope.VISIBILITIES)
def test_hidden_checks_leave_no_points_in_the_output(visibility):
    results = report.gradescope(mark(), visibility, "Late by 1 day.")
    check_gradescope(results, 0.33, visibility)
    assert results["visibility"] == "visible"
    assert ("0.33 points" in results["output"]) == (visibility == "visible")
    assert "Late by 1 day." in results["output"]


def metadata(path, created: str, due: str | None = "2026-03-01T23:59:00.000000-06:00", **user) -> Path:
    path.write_text(json.dumps({"created_at": created, "assignment": {"due_date": due}, "users": [{"id": 1, **user}]}))
    return path


@pytest.mark.parametrize("facts, note", [
    ({"created": "2026-03-01T23:58:59.000000-06:00"}, ""),
    ({"created": "2026-03-03T02:04:30.365935-06:00"}, "Late by 1 d 2 h 5 min (due 2026-03-01 23:59 -0600)."),
    ({"created": "2026-03-02T06:00:00.000000Z"}, "Late by 0 d 0 h 1 min (due 2026-03-01 23:59 -0600)."),
    ({"created": "2026-03-09T00:00:00.000000Z", "due": None}, ""),
    ({"created": "2026-03-03T00:00:00.000000Z", "assignment": {"due_date": "2026-03-04T00:00:00.000000Z"}}, ""),
    ({"created": "yesterday"}, "Whether it was in time is not known: m.json cannot be read (ValueError)."),
])
def test_the_note_of_a_late_submission(tmp_path, facts, note):
    assert gradescope.late_note(metadata(tmp_path / "m.json", **facts)) == note


def test_metadata_that_is_missing_or_of_another_shape_is_said(tmp_path):
    assert "cannot be read (FileNotFoundError)" in gradescope.late_note(tmp_path / "none.json")
    for text in ("[]", "{}", '{"assignment": {"due_date": 3}, "created_at": ""}', "\x00"):
        (tmp_path / "m.json").write_text(text)
        assert "is not known" in gradescope.late_note(tmp_path / "m.json"), text


# ------------------------------------------------------------------------------------------ the bundle, unpacked


def unpack_bundle(base: Path, *flags: str) -> Path:
    """The folder `base` as Gradescope makes it: the bundle in source/, run_autograder beside it."""
    bundle = base.with_name("bundle.zip")
    assert cli.main(["gradescope", str(bundle), *flags]) == 0
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(base / "source")
        for name in ("setup.sh", "run_autograder"):
            assert archive.getinfo(name).external_attr >> 16 & 0o111, "has to be executable"
    shutil.copy(base / "source/run_autograder", base)
    return base


def submit(base: Path, source: str) -> Path:
    path = make_submission(base.parent, source)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(base / "submission")
    return path


def run_autograder(base: Path, venv: Path = VENV) -> dict:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(base), "AUTOGRADER": str(base), "GRADER_VENV": str(venv)}
    done = subprocess.run(["bash", str(base / "run_autograder")], env=environment, cwd=base, capture_output=True,
                          text=True)
    assert done.returncode == 0 or venv != VENV, done.stdout + done.stderr
    return json.loads((base / "results/results.json").read_text())


@pytest.mark.slow
def test_the_bundle_has_no_solution_and_grades_as_here(tmp_path):
    base = unpack_bundle(tmp_path / "autograder", "--seed", "6")
    names = {path.relative_to(base / "source").as_posix() for path in (base / "source").rglob("*")}
    text = " ".join(path.read_text() for path in (base / "source").rglob("*.py"))
    assert not [line for line in starter.solution_lines() if line in text.splitlines()]
    assert not [name for name in names if "student_code" in name or name.startswith(("autograder/variants", "tests"))]
    assert re.search(r"^torch==\d", (base / "source/requirements.txt").read_text(), re.M)
    reference = (CODE / "student_code.py").read_text()
    path = submit(base, reference + changed("pgd", ("output - self.step_size", "output + self.step_size")))
    metadata(base / "submission_metadata.json", "2026-03-02T07:00:00.000000Z")
    results = run_autograder(base)
    local = grade(path, 6)
    check_gradescope(results, local.points)
    assert 7 < local.points < 10
    assert "Late by 0 d 1 h 1 min" in results["output"]
    assert [test["output"] for test in results["tests"] if test["output"].startswith("the attack climbs")]


@pytest.mark.slow
def test_gradescope_gets_results_when_nothing_can_be_graded(tmp_path):
    base = unpack_bundle(tmp_path / "autograder")
    (base / "submission").mkdir()
    assert "there is no code/student_code.py" in json.dumps(run_autograder(base))
    (base / "results/results.json").unlink()
    assert "did not start" in run_autograder(base, tmp_path / "no-venv")["output"]


# ------------------------------------------------------------------------------------------ setup.sh

REPLACED = {  # what installs; each writes down what it was asked. Neither apt, venv, pip nor any download is tested
    "apt-get": 'echo "apt-get $*" >> "$LOG"\n',
    "python3": """echo "python3 $*" >> "$LOG"
[ "$1" = --version ] && exec "$PYTHON" --version
[ "$1 $2" = "-m venv" ] || exit 9
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho "pip $*" >> "$LOG"\\ncase "$*" in *"$UNREACHABLE"*) exit 1;; esac\\n' > "$3/bin/pip"
printf '#!/bin/sh\\nexec "%s" "$@"\\n' "$PYTHON" > "$3/bin/python"
chmod +x "$3/bin/pip" "$3/bin/python"
"""}


def setup(base: Path, unreachable: str = "nothing") -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run setup.sh as a container would, in a clean environment, and the commands that it gave."""
    tools = base.with_name("tools")
    tools.mkdir(exist_ok=True)
    for name, script in REPLACED.items():
        (tools / name).write_text("#!/bin/sh\n" + script)
        (tools / name).chmod(0o755)
    log = base.with_name("log")
    log.write_text("")
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(base), "AUTOGRADER": str(base), "LOG": str(log),
                   "GRADER_VENV": str(base / "venv"), "PYTHON": sys.executable, "UNREACHABLE": unreachable}
    done = subprocess.run(["bash", str(base / "source/setup.sh")], env=environment, cwd=base, capture_output=True,
                          text=True)
    return done, log.read_text().splitlines()


@pytest.mark.slow
def test_setup_in_a_clean_folder_and_then_a_submission(tmp_path):
    base = unpack_bundle(tmp_path / "autograder", "--visibility", "after_published")
    done, asked = setup(base)
    assert done.returncode == 0, done.stderr
    assert asked[:2] == ["apt-get update", "apt-get install -y --no-install-recommends python3 python3-venv"]
    assert asked[2] == f"python3 -m venv {base}/venv"
    pins = (base / "source/requirements.txt").read_text().split()
    assert asked[3:] == [f"pip install --no-cache-dir --index-url {gradescope.CPU_WHEELS} {pins[0]} {pins[1]}",
                         f"pip install --no-cache-dir -r {base}/source/requirements.txt"]
    assert [pin.split("==")[0] for pin in pins[:2]] == ["torch", "torchvision"]
    submit(base, "def f(:\n")
    results = run_autograder(base, base / "venv")
    check_gradescope(results, 0, "after_published")
    assert "is not valid Python" in json.dumps(results)
    assert "submission_metadata.json cannot be read" in results["output"]


@pytest.mark.slow
def test_setup_takes_the_default_wheels_where_those_for_cpus_cannot_be_reached(tmp_path):
    base = unpack_bundle(tmp_path / "autograder")
    done, asked = setup(base, unreachable="download.pytorch.org")
    assert done.returncode == 0, done.stderr
    assert "cannot be reached" in done.stderr
    assert asked[-1].endswith("-r " + str(base / "source/requirements.txt"))
    done, _ = setup(base, unreachable="requirements.txt")
    assert done.returncode == 1
    assert "choose a newer image" in done.stderr
