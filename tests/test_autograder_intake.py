"""Reading odd, damaged and hostile submissions, and the note or error that each gets. No worker is started."""

import os
import stat
import struct
import zipfile

import pytest
from autograder import hand_in, syntax
from autograder.intake import MAX_SOURCE, CannotGrade, read_submission
from autograder.solution import MarkerError, strip_solution
from conftest import CODE

GIVEN = {"utils.py": "x = 0\n", "custom_blocks.py": "", "main.py": "", "libs/engine.py": ""}
GOOD = "import torch\n\nclass A:\n    pass\n"


def zipped(tmp_path, files: dict[str, str | bytes], name="h.zip"):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return path


def read(tmp_path, path):
    into = tmp_path / "into"
    into.mkdir()
    return read_submission(path, into, GIVEN)


WHOLE = {"code/student_code.py": GOOD, "writeup/report.pdf": "%PDF", "results/a.png": "x"}


def test_a_proper_zip(tmp_path):
    submission = read(tmp_path, zipped(tmp_path, {**WHOLE, "code/mine.py": "x = 1", "code/utils.py": "x = 0\r\n",
                                                  "code/deep/er.py": "y = 1"}))
    assert (submission.fatal, submission.notes, hand_in.violations(submission)) == ("", [], [])
    assert copied_files(tmp_path) == ["deep/er.py", "mine.py", "student_code.py"]


def copied_files(tmp_path) -> list[str]:
    into = tmp_path / "into"
    return sorted(path.relative_to(into).as_posix() for path in into.rglob("*.py"))


def test_modules_of_a_students_own_are_never_dropped_silently(tmp_path):
    """models.py, attacks.py, figures.py were left out without a note: the solution had files of these names."""
    own = ["attacks.py", "explain.py", "extras/attacks.py", "figures.py", "labs/mine.py", "models.py"]
    files = {f"code/{name}": "x = 1" for name in [*own, "libs/mine.py"]}
    submission = read(tmp_path, zipped(tmp_path, {**WHOLE, **files, "code/utils.py": "x = 1"}))
    assert copied_files(tmp_path) == sorted([*own, "student_code.py"])
    assert [note.split(":")[0] for note in submission.notes] == [
        "code/libs/mine.py is in libs/, a folder of the starter", "changed starter files"]
    assert "utils.py. The grader uses the originals" in submission.notes[1]


def test_a_file_of_settings_beside_the_code_is_there(tmp_path):
    files = {"code/config.json": "{}", "code/conf/net.yaml": "depth: 4", "code/weights.bin": "x",
             "results/r.json": "{}", "code/huge.txt": "x" * 70_000}
    submission = read(tmp_path, zipped(tmp_path, {**WHOLE, **files}))
    into = tmp_path / "into"
    copied = sorted(path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file())
    assert copied == ["conf/net.yaml", "config.json", "student_code.py"]
    assert submission.notes == ["code/huge.txt has more than 64 kB: left out"]


def test_own_modules_beside_student_code_at_the_root(tmp_path):
    """tests.py was left out without a note, and so were the modules of a package data/ in a folder."""
    own = ["benchmarks/time.py", "data/loader.py", "tests.py"]
    for name, text in {"student_code.py": GOOD, "data/a.jpg": "x", **dict.fromkeys(own, "x = 1")}.items():
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text(text)
    submission = read(tmp_path, tmp_path / "work")
    assert submission.notes == []
    assert copied_files(tmp_path) == sorted([*own, "student_code.py"])


@pytest.mark.parametrize(("files", "words"), [
    ({"hw2/" + name: text for name, text in WHOLE.items()}, "all files are in a folder 'hw2'"),
    ({**WHOLE, "__MACOSX/code/._student_code.py": "junk", "code/.DS_Store": "junk"}, None),
    ({**WHOLE, "code/random.py": "x = 1"}, "code/random.py has the name of an installed module"),
    ({**WHOLE, "code/torch/__init__.py": "x = 1"}, "name of an installed module, torch"),
    ({**WHOLE, "../../evil.py": "x"}, "points outside it: left out"),
    ({**WHOLE, "/etc/evil.py": "x"}, "points outside it: left out"),
    ({**WHOLE, "C:\\evil.py": "x"}, "points outside it: left out"),
    ({"code\\student_code.py": GOOD, "writeup\\r.pdf": "%PDF", "results\\x": "x"}, None),
    ({**WHOLE, "old/code/student_code.py": "x = 2"}, "there are 2 files student_code.py; code/student_code.py is "
                                                     "graded"),
    ({"a/b/student_code.py": GOOD}, "it belongs in code/"),
    ({**WHOLE, "code/ünïcödé-文.py": "x = 1"}, None),
    ({**WHOLE, "code/a\x01b.py": "x"}, "is not a valid file name"),
])
def test_odd_zips_are_graded_with_a_note(tmp_path, files, words):
    submission = read(tmp_path, zipped(tmp_path, files))
    assert submission.fatal == ""
    assert (tmp_path / "into/student_code.py").read_text() == GOOD
    assert not list(tmp_path.rglob("evil.py"))
    notes = submission.notes
    assert notes == [] if words is None else any(words in note for note in notes), notes


@pytest.mark.parametrize(("files", "words"), [
    ({"code/main.py": "x", "writeup/r.pdf": "x"}, "no code/student_code.py; the submission contains code/main.py"),
    ({"code/Student_Code.py": GOOD}, "is it code/Student_Code.py?"),
    ({"hw.ipynb": "{}"}, "but a notebook, hw.ipynb"),
    ({}, "the submission contains no file"),
    ({"code/student_code.py": "def f(:\n    pass\n"}, r"student_code.py:1 is not valid Python"),
    ({"code/student_code.py": "a = 1\n<<<<<<< HEAD\nb = 2\n>>>>>>> mine\n"}, "git merge conflict markers"),
    ({"code/student_code.py": b"# caf\xe9\nx = 1\n"}, "is not UTF-8"),
    ({"code/student_code.py": b"#\n#\nx = '\xe9'\n"}, "is not UTF-8 (line 3)"),
    ({"code/student_code.py": "x = 1\n".encode("utf-16")}, "UTF-"),
    ({"code/student_code.py": b"x = 1\0\n"}, "null|cannot be parsed"),
    ({"code/student_code.py": "x = " + "(" * 5000 + ")" * 5000}, "student_code.py"),
    ({"code/student_code.py": "if True:\nprint 'a'\n"}, "student_code.py:2"),
])
def test_files_that_cannot_be_parsed_get_a_reason(tmp_path, files, words):
    fatal = read(tmp_path, zipped(tmp_path, files)).fatal
    assert any(word in fatal for word in words.split("|")), fatal


def test_a_byte_order_mark_and_a_declared_encoding_are_accepted(tmp_path):
    assert read(tmp_path, zipped(tmp_path, {"code/student_code.py": b"\xef\xbb\xbfx = 1\n"})).fatal == ""
    (tmp_path / "into").rename(tmp_path / "first")
    latin = b"# -*- coding: latin-1 -*-\nx = '\xe9'\n"
    assert read(tmp_path, zipped(tmp_path, {"code/student_code.py": latin})).fatal == ""


def test_each_byte_of_the_code_changes_the_test_cases(tmp_path):
    versions = [{"code/student_code.py": GOOD}, {"code/student_code.py": GOOD}, {"code/student_code.py": GOOD + " "},
                {"code/student_code.py": GOOD, "code/own.py": "x = 1"},
                {"code/student_code.py": GOOD, "code/other.py": "x = 1"},
                {"code/student_code.py": GOOD, "code/answers.json": "[1]"}]
    folders = [tmp_path / str(n) for n in range(len(versions))]
    for folder in folders:
        folder.mkdir()
    digests = [read(folder, zipped(folder, files)).digest for folder, files in zip(folders, versions)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == len(versions) - 1


def test_a_link_is_left_out(tmp_path):
    path = tmp_path / "h.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("code/student_code.py")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    submission = read(tmp_path, path)
    assert "is a link, not a file" in submission.notes[0]
    assert "there is no code/student_code.py" in submission.fatal


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = zipped(tmp_path, {"code/student_code.py": b"#" * (MAX_SOURCE + 10),
                             **{f"code/m{n}.bin": b"\0" * (10 << 20) for n in range(5)}})
    with pytest.raises(CannotGrade, match=r"student_code\.py has more than 256 kB"):
        read(tmp_path, path)


def test_a_zip_bomb_with_a_false_size(tmp_path):
    path = zipped(tmp_path, {"code/student_code.py": b"#" * (64 << 20)})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = data.index(signature) + offset
        data[at:at + 4] = struct.pack("<I", 100)
    path.write_bytes(data)
    into = tmp_path / "into"
    into.mkdir()
    try:
        read_submission(path, into, GIVEN)
    except CannotGrade as error:
        assert "damaged" in str(error) or "more than" in str(error)
    assert sum(file.stat().st_size for file in into.rglob("*")) <= MAX_SOURCE + 1


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"), (b"Rar!\x1a\x07\x00", "RAR archive"), (b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (b"\x1f\x8b\x08\x00", "gzip"), (b"%PDF-1.5", "a PDF"), (b"hello", "a file of another kind"),
    (b"PK\x03\x04cut off", "cut off, perhaps while it was uploaded")])
def test_files_that_are_not_zips_are_identified(tmp_path, content, words):
    path = tmp_path / "h.zip"
    path.write_bytes(content)
    with pytest.raises(CannotGrade, match=words):
        read(tmp_path, path)


def test_a_damaged_zip(tmp_path):
    path = zipped(tmp_path, {"code/student_code.py": os.urandom(200).hex()})
    data = bytearray(path.read_bytes())
    data[60:90] = b"\0" * 30
    path.write_bytes(data)
    with pytest.raises(CannotGrade, match=r"is damaged.*zip and upload it again"):
        read(tmp_path, path)


def test_a_missing_path(tmp_path):
    with pytest.raises(CannotGrade, match="there is no such file or folder"):
        read(tmp_path, tmp_path / "nowhere.zip")


def test_a_working_folder_may_hold_data_and_logs(tmp_path):
    work = tmp_path / "work"
    for name, text in {**WHOLE, "data/images/a.jpg": "x", "logs/exp/models/model_best.pth.tar": "x"}.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    submission = read(tmp_path, work)
    assert hand_in.violations(submission) == []


def test_submission_rules(tmp_path):
    code = 'import torch\nx = torch.load("/home/me/model.pth")\n"""/home/in/a/docstring"""\n# "/home/in/a/comment"\n'
    path = zipped(tmp_path, {"code/student_code.py": code, "writeup/report.docx": "x", "logs/a.txt": "x",
                             "models/model_best.pth.tar": "x"})
    found = hand_in.violations(read(tmp_path, path))
    assert [line.split(":")[0] for line in found] == [
        "results/ is missing or empty", "writeup/ contains no PDF", "data, logs or models are in the "
                                                                 "zip", "absolute paths"]
    assert "student_code.py:2: '/home/me/model.pth'" in found[-1]
    assert "docstring" not in found[-1]


CAPITALS = {"Code/student_code.py": GOOD, "Code/mine.py": "x = 1", "WriteUp/report.pdf": "%PDF", "results/a.png": "x"}


@pytest.mark.parametrize("prefix", ["", "hw2/"])
def test_capitals_break_one_rule_and_the_code_is_graded(tmp_path, prefix):
    """Code/ for code/ cost a penalty for each folder, without a word of capitals."""
    submission = read(tmp_path, zipped(tmp_path, {prefix + name: text for name, text in CAPITALS.items()}))
    assert hand_in.violations(submission) == ["capitals in the names of folders: Code, WriteUp; the sheet's names are "
                                              "code/, writeup/, which are other folders on Linux"]
    assert copied_files(tmp_path) == ["mine.py", "student_code.py"]
    assert not [note for note in submission.notes if "belongs in code" in note]


@pytest.mark.parametrize("folder", ["backup/code", "a_backup/code", "Backup", "code/old", "bak/code",
                                    "My copy/code"])
@pytest.mark.parametrize("prefix", ["", "hw2/"])
def test_a_backup_does_not_hide_the_real_files(tmp_path, folder, prefix):
    """A backup that comes first in the zip counted as the root: the report was missing, then."""
    real = {prefix + name: text for name, text in WHOLE.items()}
    submission = read(tmp_path, zipped(tmp_path, {f"{folder}/student_code.py": "x = 2", **real}))
    assert (tmp_path / "into/student_code.py").read_text() == GOOD
    assert hand_in.violations(submission) == []
    assert any("is graded, not" in note for note in submission.notes)


def test_the_student_file_beside_a_report_is_graded(tmp_path):
    files = {"code/student_code.py": "x = 2", **{f"final/{name}": text for name, text in WHOLE.items()}}
    read(tmp_path, zipped(tmp_path, files))
    assert (tmp_path / "into/student_code.py").read_text() == GOOD


def test_forbidden_and_suspicious_names_in_the_syntax_tree():
    import ast
    text = (CODE / "student_code.py").read_text()
    assert syntax.forbidden_convolutions(ast.parse(text)) == []
    assert syntax.suspicious_lines(ast.parse(text)) == []
    unfolded = "columns = unfold(input_feats.to(ctx.dtype), **geometry)"
    bad = text.replace(unfolded, "columns = helper(input_feats)")
    bad += "\ndef helper(x):\n    import ctypes\n    F.conv2d = None\n    return nn.functional.conv2d(x, x)\n"
    assert {name for _, name in syntax.forbidden_convolutions(ast.parse(bad))} == {"conv2d"}
    said = "\n".join(syntax.suspicious_lines(ast.parse(bad)))
    assert "imports ctypes" in said
    assert "replaces F.conv2d" in said


@pytest.mark.parametrize(("text", "words"), [
    ("# BEGIN SOLUTION\nx\n", "f.py:1: BEGIN SOLUTION without END SOLUTION"),
    ("x\n# END SOLUTION\n", "f.py:2: END SOLUTION without BEGIN SOLUTION"),
    ("# BEGIN SOLUTION\n# BEGIN SOLUTION\n", "f.py:2: BEGIN SOLUTION inside the solution that begins on line 1"),
    ("x = 1  # BEGIN SOLUTION\n", "f.py:1: a marker must be alone"),
    ("# BEGIN SOLUTION\n# STARTER: x\n# END SOLUTION\n", "f.py:2: STARTER inside a solution")])
def test_markers_that_do_not_match(text, words):
    with pytest.raises(MarkerError, match=words):
        strip_solution(text, "f.py")


def test_strip():
    text = "def f():\n    # BEGIN SOLUTION\n    return 1\n    # END SOLUTION\n    # STARTER: raise KeyError\n"
    assert strip_solution(text, "f.py") == "def f():\n    raise KeyError\n"
