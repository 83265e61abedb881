"""batch, the starter."""

import csv
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from autograder import __main__ as cli
from autograder import batch, report, starter
from autograder.intake import CannotGrade, read_submission
from autograder.variants import changed
from conftest import CODE
from hand_ins import make_submission

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference() -> str:
    return (CODE / "student_code.py").read_text()


def test_batch_writes_its_tables_and_resumes_from_the_cache(reference, tmp_path, capsys, monkeypatch):
    folder, table = tmp_path / "in", tmp_path / "out" / "class.csv"
    folder.mkdir()
    flipped = reference + changed("convolution", ("weight.reshape(Co, -1)\n        out",
                                                  "weight.flip(2, 3).reshape(Co, -1)\n        out"))
    for name, source in {"ann.zip": flipped, "bob.zip": "def f(:\n", "=eve.zip": "exit(0)\n"}.items():
        make_submission(folder, source, name)
    (folder / "dan.zip").write_bytes(b"PK\x03\x04 cut")
    assert cli.main(["batch", str(folder), "--csv", str(table), "--jobs", "2", "--seed", "4"]) == 2
    with table.open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"ann.zip", "bob.zip", "'=eve.zip", "dan.zip"}
    assert "student_code.py:1 is not valid Python" in rows["bob.zip"]["why"]
    assert rows["ann.zip"]["failed"].startswith("convolution: ")
    assert 9 < float(rows["ann.zip"]["points"]) < 10
    assert (rows["bob.zip"]["points"], rows["dan.zip"]["status"]) == ("0.0", "not graded")
    assert rows["dan.zip"]["points"] == ""
    page = table.with_suffix(".md").read_text()
    assert "kernel flipped" in page
    assert "dan.zip: dan.zip is cut off" in page
    assert f"| {rows['ann.zip']['failed'].split('; ')[0]} | 0 | 3 |" in page

    capsys.readouterr()
    (folder / "bob.zip").unlink()
    make_submission(folder, "import torch\n", "bob.zip")
    assert cli.main(["batch", str(folder), "--csv", str(table), "--jobs", "2", "--seed", "4"]) == 2
    printed = capsys.readouterr().out
    assert printed.count("(cached)") == 3, printed
    assert not [line for line in printed.splitlines() if "bob.zip" in line and "(cached)" in line]


def test_everything_in_the_folder_gets_a_row_that_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "grade_in_subprocess", lambda path, _: report.not_graded(path.name, refusal(path)))
    folder = tmp_path / "in"
    (folder / "empty").mkdir(parents=True)
    (folder / "Ann" / "Code").mkdir(parents=True)
    for name, start in {"a.tar.xz": b"\xfd7zXZ", "b.7z": b"7z\xbc\xaf", "c.ipynb": b"{}", "d.pdf": b"%PDF",
                        "e.docx": b"PK", ".hidden": b"", "two .zip": b"Rar!", "two\n.zip": b"Rar!"}.items():
        (folder / name).write_bytes(start)
    (folder / "link.zip").symlink_to("d.pdf")
    os.mkfifo(folder / "pipe.zip")
    command = ["batch", str(folder), "--csv", str(folder / "class.csv"), "--jobs", "1"]
    for _ in range(2):
        assert cli.main(command) == 2
        with (folder / "class.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 11, "two names that print alike are two rows; the table itself is none"
    why = {row["name"]: row["why"] for row in rows}
    for name, words in {"a.tar.xz": "an xz file", "b.7z": "a 7z archive", "c.ipynb": "a notebook", "d.pdf": "a PDF",
                        "e.docx": "cut off", "link.zip": "is a link, not", "pipe.zip": "is a named pipe, not",
                        "empty": "the submission contains no file", "Ann": "contains no file"}.items():
        assert words in why[name], (name, why[name])


def refusal(path) -> str:
    with tempfile.TemporaryDirectory() as into:
        try:
            return read_submission(path, Path(into), {}).fatal
        except CannotGrade as refused:
            return str(refused)


def test_batch_on_an_empty_folder(tmp_path, capsys):
    assert cli.main(["batch", str(tmp_path), "--csv", str(tmp_path / "c.csv")]) == 2
    assert "contains no zip and no folder with code/ in it" in capsys.readouterr().err


def test_the_starter_passes_its_checks(tmp_path, capsys):
    """The checks of starter.py pass; folder and zip hold the same files, none of extras/, labs/ or the grader."""
    assert cli.main(["starter", str(tmp_path / "hw2")]) == 0
    assert capsys.readouterr().out.count("ok  ") == len(starter.CHECKS)
    tree = tmp_path / "hw2"
    names = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    assert {"README.md", "requirements.txt", "zip_submission.py", "code/main.py", "code/test_conv.py"} <= names
    assert not [name for name in names if re.match("autograder|tests/|code/extras|code/labs", name)]
    with zipfile.ZipFile(tmp_path / "hw2.zip") as archive:
        assert set(archive.namelist()) == {f"hw2/{name}" for name in names}
    assert cli.main(["starter", str(tmp_path / "hw2")]) == 2
    assert "exists: remove it" in capsys.readouterr().err


def test_flags_that_need_the_solution_have_an_error_message(tmp_path):
    starter.write(tmp_path / "hw2")
    for flags, words in (("--use-custom-conv flat", "needs extras/flat_conv.py, which belongs to the reference"),
                         ("--adversarial fast", "needs extras/adversarial_training.py, which belongs")):
        script = ("import demo.data, main\ndemo.data.main(['../d', '--train', '20', '--val', '10'])\n"
                  f"main.main(['../d', '--epochs', '1', '-b', '10', '--logs', '../logs', *{flags.split()!r}])")
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "hw2/code", capture_output=True, text=True)
        assert words in done.stderr, done.stderr


def test_a_grader_timeout_gives_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "TIMEOUT", 0.2)
    results = batch.grade_in_subprocess(make_submission(tmp_path, "x = 1"), {"seed": 1})
    assert "took longer" in results["output"]
