"""Helpers for the grader's tests: build a submission, validate Gradescope's results.json."""

import zipfile


def make_submission(folder, source: str, name="h.zip"):
    """A complete zip with `source` as student_code.py."""
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code/student_code.py", source)
        archive.writestr("writeup/report.pdf", "%PDF")
        archive.writestr("results/a.txt", "x")
    return path


TOP = {"score": (int, float), "execution_time": (int, float), "output": str, "output_format": str,
       "test_output_format": str, "visibility": str, "stdout_visibility": str, "extra_data": dict, "tests": list}
TEST = {"score": (int, float), "max_score": (int, float), "status": str, "name": str, "number": str, "output": str,
        "output_format": str, "tags": list, "visibility": str}
FORMATS = {"text", "html", "simple_format", "md", "ansi"}
VISIBILITIES = {"visible", "hidden", "after_due_date", "after_published"}


def check_gradescope(results: dict, points: float, visibility: str = "visible") -> None:
    """Check results.json against Gradescope's specification, its score, and which tests have one."""
    assert not set(results) - set(TOP), "a key that Gradescope does not know"
    for entry, kinds in [(results, TOP), *((test, TEST) for test in results["tests"])]:
        assert not set(entry) - set(kinds), entry
        for name, value in entry.items():
            assert isinstance(value, kinds[name]), (name, value)
            assert not isinstance(value, bool), (name, value)
        assert entry.get("output_format", "text") in FORMATS
        assert entry["visibility"] in VISIBILITIES
        assert entry["output"], entry
    assert results["score"] == points
    assert {test["visibility"] for test in results["tests"]} == {visibility}
    numbers = [test["number"] for test in results["tests"]]
    assert len(set(numbers)) == len(numbers)
    for test in results["tests"]:
        scored = {"score", "max_score", "status"} & set(test)
        assert len(scored) in (0, 3), f"without a status or with one of the scores it is shown as failed: {test}"
        assert not scored or "manual" not in test.get("tags", [])
        assert test.get("status", "passed") in ("passed", "failed")
        assert (test.get("status") == "passed") <= (test.get("score") == test.get("max_score"))
    assert abs(sum(test.get("score", 0) for test in results["tests"]) - points) < 0.02
