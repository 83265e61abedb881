"""zip_submission.py: what it packs, what it leaves out and reports, and that it writes nothing on errors."""

import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT


@pytest.fixture
def work(tmp_path):
    root = tmp_path / "hw2"
    files = {"code/student_code.py": "x = 1\n", "code/main.py": "import student_code\n", "code/labs/cam.py": "",
             "writeup/report.pdf": "%PDF", "results/curves.png": "png"}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def pack(root, *flags):
    done = subprocess.run([sys.executable, str(ROOT / "zip_submission.py"), "--root", str(root), "-o",
                           str(root / "out.zip"), *flags], capture_output=True, text=True)
    names = zipfile.ZipFile(root / "out.zip").namelist() if (root / "out.zip").exists() else None
    return done.returncode, done.stdout + done.stderr, names


def test_packed_files(work):
    code, out, names = pack(work)
    assert code == 0
    assert names == ["code/labs/cam.py", "code/main.py", "code/student_code.py", "results/curves.png",
                     "writeup/report.pdf"]
    assert "5 files" in out
    assert "code/" in out
    assert "3 .py" in out


@pytest.mark.parametrize("name", [
    "code/__pycache__/a.pyc", "code/models/model_best.pth.tar", "code/net.pth", "results/logs/x.txt", "code/data/a.jpg",
    "results/events.out.tfevents.1.x", "code/.ipynb_checkpoints/a.ipynb", "results/old.zip", "writeup/.DS_Store"])
def test_files_that_are_left_out_are_reported(work, name):
    (work / name).parent.mkdir(parents=True, exist_ok=True)
    (work / name).write_text("x")
    code, out, names = pack(work)
    assert code == 0
    assert name not in names
    assert "left out: " in out
    assert name.split("/")[1] in out


def test_a_package_called_models_is_packed(work):
    for name in ("code/models/__init__.py", "code/models/unet.py", "code/models/best.pth"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("x = 1\n")
    names = pack(work)[2]
    assert "code/models/unet.py" in names
    assert "code/models/best.pth" not in names


def test_large_files_and_links(work):
    (work / "results/video.mp4").write_bytes(b"0" * 200_000)
    (work / "results/link").symlink_to(work / "code/main.py")
    _, out, names = pack(work, "--max-mb", "0.1")
    assert not {"results/video.mp4", "results/link"} & set(names)
    assert "results/video.mp4 (0.2 MB: over --max-mb)" in out
    assert "results/link (a link)" in out


def test_other_folders_are_not_packed(work):
    for name in ("data/a.jpg", "logs/b.txt", "notes.txt"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("x")
    assert all(name.split("/")[0] in ("code", "writeup", "results") for name in pack(work)[2])


@pytest.mark.parametrize(("missing", "sentence"), [
    ("code/student_code.py", "code/student_code.py is missing"), ("writeup/report.pdf", "writeup/ contains no PDF"),
    ("results", "results/ is missing"), ("writeup", "writeup/ is missing")])
def test_missing_files_give_exit_status_1_and_no_zip(work, missing, sentence):
    path = work / missing
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink()
    (work / "out.zip").write_bytes(b"existing")
    done = subprocess.run([sys.executable, str(ROOT / "zip_submission.py"), "--root", str(work), "-o",
                           str(work / "out.zip")], capture_output=True, text=True)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "nothing was written" in done.stderr
    assert (work / "out.zip").read_bytes() == b"existing"


def test_a_student_file_that_does_not_parse(work):
    (work / "code/student_code.py").write_text("def f(:\n")
    code, out, names = pack(work)
    assert (code, names) == (1, None)
    assert "code/student_code.py is not valid Python" in out


def test_absolute_paths_are_reported_with_file_and_line(work):
    lines = 'a = 1', 'path = "/home/me/proj1/x"', 'ok = "../data"', 'w = "C:/me"', 'category = "/a/abbey"'
    (work / "code/main.py").write_text("\n".join(lines))
    code, out, _ = pack(work)
    assert code == 0
    assert "code/main.py:2: '/home/me/proj1/x'" in out
    assert "code/main.py:4:" in out
    assert "code/main.py:3" not in out
    assert "code/main.py:5" not in out


def test_warnings_for_empty_results_and_a_tiny_report(work):
    (work / "results/curves.png").rename(work / "results/README.md")
    out = pack(work)[1]
    assert "writeup/report.pdf has only 4 bytes" in out
    assert "results/ contains no results" in out


def test_output_that_cannot_be_written(work):
    code, out, _ = pack(work, "-o", str(work / "nowhere" / "out.zip"))
    assert code == 1
    assert "cannot be written" in out


def test_the_reference_contains_no_absolute_path(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "zip_submission.py"), "-o", str(tmp_path / "out.zip")],
                          capture_output=True, text=True)
    assert "absolute path" not in done.stdout


def test_a_draft_needs_no_report_and_names_what_is_not_written(work):
    (work / "writeup/report.pdf").unlink()
    (work / "code/student_code.py").write_text(
        "class PGDAttack:\n    def perturb(self):\n        raise NotImplementedError('write me')\n"
        "def helper():\n    raise ValueError('NotImplementedError')\n")
    code, out, names = pack(work)
    assert (code, names) == (1, None)
    assert "--draft packs without it" in out
    code, out, names = pack(work, "--draft")
    assert code == 0
    assert "code/student_code.py" in names
    assert out.count("is not written yet") == 1
    assert "warning: code/student_code.py:3: PGDAttack.perturb is not written yet" in out


@pytest.mark.parametrize(("line", "absolute"), [
    ('x = "/home/me/images/"', True), ('x = "/home/me/" + name', True), ('x = f"/home/{me}/images"', True),
    ('f(root="/data/miniplaces/")', True), ('open("~/images/a.jpg")', True), (r'x = "C:\\Users\\me"', True),
    ('x = f"{args.data}/images/train.txt"', False), ('x = sys.argv[1] + "/images/" + name', False),
    ('x = root + "/images/"', False), ('x = name.replace("/images/", "/objects/")', False),
    ('if "/train/" in name: pass', False), ('x = name.split("/val/")[1]', False),
    ('x = os.path.join(args.data, "images/train.txt")', False), ('x = name.startswith("/home/")', False)])
def test_a_path_joined_from_arguments_is_not_absolute(work, line, absolute):
    (work / "code/student_code.py").write_text(line + "\n")
    assert ("an absolute path? code/student_code.py:1" in pack(work)[1]) == absolute
