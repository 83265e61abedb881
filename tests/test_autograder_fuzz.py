"""Whatever a submission contains, the grader reads it or says in a sentence why it cannot: nothing else is raised.

FUZZ_CASES=10000 python -m pytest tests/test_autograder_fuzz.py    runs more cases than `make test` does
"""

import os
import random
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest
from autograder import hand_in, syntax
from autograder.intake import CannotGrade, read_submission
from autograder.process import WorkerDied, parse_student_error
from conftest import CODE

CASES = int(os.environ.get("FUZZ_CASES", "300"))
REFERENCE = (CODE / "student_code.py").read_text()
FOLDERS = ["", "code/", "hw2/code/", "Code/", "code/student_code/", "code/data/", "../", "/", "C:\\", "code\\",
           "a/" * 40, "code/" + "b/" * 300, "__MACOSX/code/", "code/libs/", "code/ü/", "code/\x07/", ".git/",
           "backup/code/"]
NAMES = ["student_code.py", "student_code (1).py", "Student_Code.py", "models.py", "torch.py", "utils.py", "main.py",
         "student_code.ipynb", "report.pdf", "model_best.pth.tar", "._student_code.py", "x" * 300 + ".py", "a\nb.py",
         "\udce4.py", "con.py", "student_code.py.txt", "", "."]
SOURCES = [REFERENCE.encode(), b"", b"\xff\xfe\x00", "# -*- coding: latin-1 -*-\nx = 'ä'".encode("latin-1"),
           b"# coding: nonsense\n", b"def f(:\n", b"x = " + b"(" * 3000 + b")" * 3000, b"x = " + b"-" * 5000 + b"1",
           b"a" + b".a" * 4000, b"x = 1" + b"+1" * 4000, b"\x00" * 50, b"x = '/" + b"y/" * 900 + b"'", b"match x:\n",
           b"x = 0x" + b"f" * 5000, b"x = " + b"9" * 6000, REFERENCE.replace("\n", "\r\n").encode(), b"f'{" * 300]


def files(rng: random.Random) -> dict[str, bytes]:
    """Some files by path, odd ones among them."""
    some = {rng.choice(FOLDERS) + rng.choice(NAMES): mutated(rng, rng.choice(SOURCES))
            for _ in range(rng.randint(0, 6))}
    return some | ({"code/student_code.py": mutated(rng, rng.choice(SOURCES))} if rng.random() < 0.6 else {})


def mutated(rng: random.Random, data: bytes) -> bytes:
    """`data`, every second time with a few bytes changed, cut off or repeated."""
    if not data or rng.random() < 0.5:
        return data
    changed, place = bytearray(data), rng.randrange(len(data))
    if rng.random() < 0.3:
        return bytes(changed[:place])
    for _ in range(rng.randint(1, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def make_zip(rng: random.Random, folder: Path) -> Path:
    path = folder / rng.choice(["h.zip", "ä b.zip", "h"])
    with zipfile.ZipFile(path, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, data in files(rng).items():
            info = zipfile.ZipInfo(name.encode(errors="replace").decode() or "a")
            if rng.random() < 0.1:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, data)
    if rng.random() < 0.5:
        path.write_bytes(mutated(rng, path.read_bytes()))
    return path


def make_tree(rng: random.Random, folder: Path) -> Path:
    root = folder / "tree"
    root.mkdir()
    for name, data in files(rng).items():
        path = root / name.lstrip("/.").replace("\\", "_")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except (OSError, ValueError):  # a name that this file system does not take
            continue
    if rng.random() < 0.2:
        (root / "loop").symlink_to(rng.choice([root, Path("nowhere"), root / "code"]))
    if rng.random() < 0.1 and hasattr(os, "mkfifo"):
        os.mkfifo(root / "pipe.py")
    return root


def read(path: Path, folder: Path) -> None:
    """What grade() does before a worker starts."""
    code = folder / "unpacked"
    code.mkdir()
    submission = read_submission(path, code, {"main.py": "", "libs/engine.py": ""})
    assert submission.fatal or (code / "student_code.py").exists()
    assert all(path.resolve().is_relative_to(code.resolve()) for path in code.rglob("*"))
    hand_in.violations(submission)
    syntax.review(code)
    if submission.tree:
        syntax.forbidden_convolutions(submission.tree)


@pytest.mark.parametrize("make", [make_zip, make_tree])
def test_intake_reads_or_refuses_with_a_sentence(make, tmp_path):
    for seed in range(CASES // 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        path = make(random.Random(seed), folder)
        try:
            read(path, folder)
        except CannotGrade as refused:
            assert str(refused), seed
        except Exception as error:
            raise AssertionError(f"{make.__name__}, seed {seed}") from error
        shutil.rmtree(folder)


def test_fifteen_hundred_nested_folders(tmp_path):
    """os.walk met its recursion limit in trees that deep, and so did removing them."""
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1500):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(here)
    (tmp_path / "unpacked").mkdir()
    try:
        read_submission(tmp_path / "d", tmp_path / "unpacked", {})
    except CannotGrade as refused:
        assert "cannot be read" in str(refused)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")])  # pytest's own cleaning up would meet its recursion limit


@pytest.mark.parametrize("line", [float("inf"), float("nan"), None, "x", [], 10**400])
def test_a_line_number_that_is_none_is_a_malformed_reply(line):
    try:
        parse_student_error({"type": "E", "text": "t", "where": [["student_code.py", line, ""]]})
    except WorkerDied as died:
        assert "malformed reply" in str(died)
