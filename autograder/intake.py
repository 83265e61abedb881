"""Copy the Python files of code/ out of a submission, a zip or a folder, and small files of settings.

Nothing else is unpacked; each file is read into memory up to a size limit and written under a checked name: links,
absolute paths, `..` and zip bombs have no effect. Whatever is left out or unusual gets a note.
"""

import ast
import functools
import hashlib
import io
import lzma
import os
import re
import stat
import sys
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

MAX_FILES = 20_000
MAX_ZIP, MAX_SOURCE, MAX_TOTAL_SOURCE = 100 << 20, 256 << 10, 1 << 20  # bytes: the zip, one Python file, all of them
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}, the grader's version"
SETTINGS = {".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".txt"}  # which student code may read
MAX_SETTINGS = 64 << 10  # bytes, of one such file
IGNORED_FOLDERS = {"__MACOSX", ".git", ".venv", "venv", "__pycache__", "node_modules", ".ipynb_checkpoints"}
# Names of folders with an earlier version of the work.
BACKUP = re.compile(r"(?i)(^|[^a-z])(back-?ups?|old(er)?|bak|cop(y|ies)|orig(inals?)?|archived?|drafts?|prev(ious)?|"
                    r"unused|deprecated|trash|te?mp)([^a-z]|$)")
RESERVED_MODULES = {"torch", "torchvision", "numpy", "cv2", "autograder", "matplotlib", "sklearn", "scipy", "PIL",
                    "tqdm"}
OTHER_ARCHIVES = {b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"\x1f\x8b": "a gzip file, as tar.gz is",
                  b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"%PDF": "a PDF"}


class CannotGrade(Exception):
    """The submission cannot be graded; the message says why and what to do. Never a fault of the grader."""


@dataclass
class Submission:
    """A submission whose Python files are in the folder `code`."""

    name: str
    code: Path
    files: list[tuple[str, int]] = field(default_factory=list)  # all files: path in the submission, bytes
    notes: list[str] = field(default_factory=list)  # for student and staff
    fatal: str = ""  # why nothing can be graded automatically: the feedback of every check
    is_zip: bool = False
    student: PurePosixPath | None = None  # path of the student_code.py that is graded
    tree: ast.Module | None = None  # syntax tree of student_code.py

    @functools.cached_property
    def digest(self) -> int:
        """A number that every byte of the code goes into. With the seed it draws the test cases, so that answers
        stored for a printed seed are answers to other questions."""
        content = hashlib.sha256()
        for path in sorted(self.code.rglob("*")):
            if path.is_file():
                content.update(str(path.relative_to(self.code)).encode("utf-8", "surrogatepass") + b"\0")
                content.update(hashlib.sha256(path.read_bytes()).digest())
        return int.from_bytes(content.digest()[:8], "little")


def read_submission(path: Path, into: Path, starter_files: dict[str, str]) -> Submission:
    """Read the submission at `path` and write its Python files below `into`. Raises CannotGrade.

    `starter_files`: {path below code/: text} of the starter's files, which a submission cannot replace.
    """
    if not path.exists():
        raise CannotGrade(f"{path}: there is no such file or folder")
    try:
        return _read_submission(path, into, starter_files)
    except (OSError, ValueError, LookupError, RecursionError, MemoryError, RuntimeError, EOFError, zlib.error,
            zipfile.BadZipFile, lzma.LZMAError) as error:  # archives can be broken in more ways than can be listed
        raise CannotGrade(f"{path.name} cannot be read ({type(error).__name__}: {error}): make it again with "
                          "python zip_submission.py") from None


def _read_submission(path: Path, into: Path, starter_files: dict[str, str]) -> Submission:
    source = FolderSource(path) if path.is_dir() else ZipSource(path)
    submission = Submission(path.stem if source.is_zip else path.resolve().name, into, is_zip=source.is_zip)
    submission.notes += source.notes
    submission.files = [(str(name), size) for name, size in source.files.items()]
    submission.student = find_student_file(source.files, submission)
    if submission.student is not None:
        copy_sources(source, submission.student.parent, into, starter_files, submission)
        copy_settings(source, submission.student.parent, into, submission)
        parse_student_file(into / "student_code.py", submission)
    return submission


class ZipSource:
    """The files of a zip with valid names. Raises CannotGrade if it is not a zip or too large."""

    is_zip = True

    def __init__(self, path: Path):
        self.notes: list[str] = []
        self.files: dict[PurePosixPath, int] = {}
        self.infos: dict[PurePosixPath, zipfile.ZipInfo] = {}
        try:
            if path.stat().st_size > MAX_ZIP:
                raise CannotGrade(f"{path.name} has {path.stat().st_size >> 20} MB, more than {MAX_ZIP >> 20}: leave "
                                  "data, logs and models out; python zip_submission.py does")
            self.archive = zipfile.ZipFile(path)
        except OSError as error:
            raise CannotGrade(f"{path.name} cannot be read: {error.strerror}") from None
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise CannotGrade(f"{path.name} is {file_kind(path)}, not a readable zip ({error}): make it with "
                              "python zip_submission.py") from None
        if len(self.archive.infolist()) > MAX_FILES:
            raise CannotGrade(f"{path.name} holds {len(self.archive.infolist())} files, more than {MAX_FILES}")
        for info in self.archive.infolist():
            self._add(info)

    def _add(self, info: zipfile.ZipInfo) -> None:
        text = info.filename.replace("\\", "/")
        name = PurePosixPath(text)
        if info.is_dir() or text.endswith("/") or not name.parts or is_ignored(name):
            return
        if text.startswith("/") or ".." in name.parts or (len(text) > 1 and text[1] == ":"):
            self.notes.append(f"{text[:200]!r} in the zip points outside it: left out")
        elif any(ord(letter) < 32 for letter in text) or max(len(part.encode()) for part in name.parts) > 200:
            self.notes.append(f"{text[:80]!r} in the zip is not a valid file name: left out")
        elif stat.S_ISLNK(info.external_attr >> 16):
            self.notes.append(f"{text[:200]} in the zip is a link, not a file: left out")
        else:
            if name in self.infos:
                self.notes.append(f"{name} is in the zip twice: the later one counts")
            self.infos[name], self.files[name] = info, info.file_size

    def read(self, name: PurePosixPath) -> bytes:
        try:
            with self.archive.open(self.infos[name]) as file:
                return file.read(MAX_SOURCE + 1)
        except RuntimeError as error:  # zipfile raises it for encrypted files
            raise CannotGrade(f"{name} in the zip cannot be opened: {error}; submit a zip without password") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise CannotGrade(f"{name} in the zip is damaged ({error}): zip and upload it again") from None


class FolderSource:
    """The files of a working folder, without virtual environments, and of data/ and logs/ only Python files."""

    is_zip = False

    def __init__(self, path: Path):
        self.root, self.notes, self.files = path, [], {}
        for parent, folders, names in os.walk(path):
            inside = Path(parent).relative_to(path)
            folders[:] = [name for name in sorted(folders) if not is_ignored(PurePosixPath(name))]
            if inside.parts[:1] in (("data",), ("logs",)):  # a package may have that name, too
                names = [name for name in names if name.endswith(".py")]
            for name in sorted(names):
                file = Path(parent) / name
                if file.is_symlink():
                    self.notes += [f"{inside / name} is a link, not a file: left out"] * (file.suffix == ".py")
                elif file.is_file() and not is_ignored(PurePosixPath(name)):
                    self.files[PurePosixPath((inside / name).as_posix())] = file.stat().st_size
            if len(self.files) > MAX_FILES:
                raise CannotGrade(f"{path} holds more than {MAX_FILES} files: give the folder that contains code/")

    def read(self, name: PurePosixPath) -> bytes:
        try:
            with (self.root / name).open("rb") as file:
                return file.read(MAX_SOURCE + 1)
        except OSError as error:
            raise CannotGrade(f"{self.root / name} cannot be read: {error.strerror}") from None


def is_ignored(name: PurePosixPath) -> bool:
    """Whether a path is a cache or metadata of tools and operating systems."""
    return (bool(IGNORED_FOLDERS & set(name.parts)) or name.name.startswith("._")
            or name.name in (".DS_Store", "Thumbs.db"))


def file_kind(path: Path) -> str:
    """What a file that is not a zip is, from its first bytes."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty"
    return next((name for magic, name in OTHER_ARCHIVES.items() if start.startswith(magic)),
                "a tar archive" if start[257:262] == b"ustar" else
                "a notebook (export its code as student_code.py)" if path.suffix == ".ipynb" else
                "cut off, perhaps while it was uploaded" if start.startswith(b"PK") else "a file of another kind")


def find_student_file(files: dict[PurePosixPath, int], submission: Submission) -> PurePosixPath | None:
    """The path of student_code.py: in a folder code/ beside a report rather than elsewhere, in a backup last."""
    reported = {folder.parent for name in files for folder in name.parents if folder.name.lower() == "writeup"}
    found = sorted((name for name in files if name.name == "student_code.py"), key=partial(rank, reported=reported))
    chosen = next(iter(found), None)
    if chosen is None:
        submission.fatal = missing_file_reason(files)
        return None
    if len(found) > 1:
        others = ", ".join(str(name) for name in found if name != chosen)
        submission.notes.append(f"there are {len(found)} files student_code.py; {chosen} is graded, not {others}")
    if len(chosen.parts) == 3 and is_code(chosen.parent):
        submission.notes.append(f"all files are in a folder {chosen.parts[0]!r}; code/, writeup/ and results/ are "
                                "expected in it")
    elif str(chosen).lower() not in ("code/student_code.py", "student_code.py"):
        submission.notes.append(f"student_code.py was found at {chosen}; it belongs in code/")
    return chosen


def rank(name: PurePosixPath, reported: Set[PurePosixPath]) -> tuple:
    """Sort key of a student_code.py; the smallest is graded. `reported`: the folders that contain a writeup/."""
    backups = sum(bool(BACKUP.search(part)) for part in name.parts[:-1])
    return (backups, not is_code(name.parent), name.parent.parent not in reported, len(name.parts),
            name.parent.name != "code", name)


def is_code(folder: PurePosixPath) -> bool:
    """Whether a folder is called code, in letters of either case: a rule of hand_in.py is about capitals."""
    return folder.name.lower() == "code"


def missing_file_reason(files) -> str:
    """Why there is no student_code.py, with a guess at the intended file."""
    similar = [str(name) for name in files if name.suffix == ".py" and "student" in name.name.lower()]
    notebooks = [str(name) for name in files if name.suffix == ".ipynb"]
    if similar:
        return f"there is no code/student_code.py; is it {similar[0]}? The name has to be student_code.py, exactly"
    if notebooks:
        return f"there is no code/student_code.py, but a notebook, {notebooks[0]}: export its code as student_code.py"
    some = ", ".join(str(name) for name in list(files)[:5]) or "no file"
    return f"there is no code/student_code.py; the submission contains {some}{', ...' if len(files) > 5 else ''}"


def copy_sources(source, folder: PurePosixPath, into: Path, starter_files: dict[str, str],
                 submission: Submission) -> None:
    """Copy the Python files in and below `folder`, that of student_code.py, except the starter's.

    The grader uses its own copies of the starter's files. Each file that is changed or left out gets a note.
    """
    total, changed = 0, []
    for name in sorted(source.files):
        if name.suffix != ".py" or folder not in (name.parent, *name.parents):
            continue
        inside = name.relative_to(folder)
        top = inside.parts[0].removesuffix(".py")
        if folder == PurePosixPath(".") and str(inside) == "zip_submission.py":  # the starter's, not a module
            continue
        if str(inside) in starter_files:
            changed += [str(inside)] * (not same_text(source.read(name), starter_files[str(inside)]))
            continue
        if len(inside.parts) > 1 and any(other.startswith(f"{top}/") for other in starter_files):
            submission.notes.append(f"{name} is in {top}/, a folder of the starter: left out; move it elsewhere")
            continue
        if len(inside.parts) > 1 and top == "student_code":
            submission.notes.append(f"{name} is in a folder student_code, which Python would import instead of "
                                    "student_code.py: left out; rename the folder")
            continue
        if top in RESERVED_MODULES or top in sys.stdlib_module_names:
            submission.notes.append(f"{name} has the name of an installed module, {top}, and would be imported in its "
                                    "place: left out; rename it")
            continue
        data = source.read(name)
        total += len(data)
        if len(data) > MAX_SOURCE:
            raise CannotGrade(f"{name} has more than {MAX_SOURCE >> 10} kB: too large for this homework")
        if total > MAX_TOTAL_SOURCE:
            raise CannotGrade(f"there are more than {MAX_TOTAL_SOURCE >> 10} kB of Python files: too large for this "
                              "homework")
        target = into / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    if changed:
        submission.notes.append(f"changed starter files: {', '.join(changed)}. The grader uses the originals; put "
                                "your code into student_code.py or into files with other names")


def copy_settings(source, folder: PurePosixPath, into: Path, submission: Submission) -> None:
    """Copy the files of SETTINGS in and below `folder`; one that is too large gets a note."""
    total = 0
    for name in sorted(name for name in source.files if name.suffix in SETTINGS and folder in name.parents):
        data = source.read(name) if total <= MAX_TOTAL_SOURCE else b""
        total += len(data)
        if not 0 < len(data) <= MAX_SETTINGS:
            submission.notes += [f"{name} has more than {MAX_SETTINGS >> 10} kB: left out"] * bool(data)
            continue
        target = into / name.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def same_text(data: bytes, text: str) -> bool:
    """Whether the contents are equal, apart from line endings."""
    return data.decode("utf-8", errors="replace").replace("\r\n", "\n").strip() == text.strip()


def parse_student_file(path: Path, submission: Submission) -> None:
    """Set `submission.tree`, or `submission.fatal` if student_code.py cannot be parsed."""
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            submission.tree = ast.parse(text)
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        submission.fatal = f"student_code.py is not UTF-8 (line {line}): save it as UTF-8 in your editor"
    except SyntaxError as error:
        shown = f": {error.text.strip()[:80]}" if error.text else ""
        submission.fatal = f"student_code.py:{error.lineno or 1} is not valid Python {PYTHON} ({error.msg}){shown}"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            submission.fatal = "student_code.py is UTF-16: save it as UTF-8 in your editor"
        elif "encoding" in error.msg:
            submission.fatal = f"student_code.py is not UTF-8 ({error.msg}): save it as UTF-8 in your editor"
        elif any(mark in data for mark in (b"\n<<<<<<< ", b"\n>>>>>>> ")):
            submission.fatal += ". It contains git merge conflict markers"
    except (ValueError, LookupError, RecursionError, MemoryError) as error:
        submission.fatal = f"student_code.py cannot be parsed: {error or type(error).__name__}"
