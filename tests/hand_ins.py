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


def check_gradescope(results: dict, points: float) -> None:
    """Check results.json against Gradescope's specification, and its score."""
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
