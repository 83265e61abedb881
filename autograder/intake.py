"""From a zip or a folder that somebody handed in to a folder with the Python files of code/, and nothing else.

Nothing is unpacked but Python files, each read into memory under a limit and written under a name of ours, so that
links, absolute names, `..` and bombs have nothing to hold on to. What is odd is said in a sentence.
"""

import ast
import io
import lzma
import os
import stat
import sys
import tokenize
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MAX_ZIP, MAX_FILES, MAX_SOURCE, MAX_SOURCES = 100 << 20, 20_000, 256 << 10, 1 << 20  # bytes, but for the files
SKIPPED = {"__MACOSX", ".git", ".venv", "venv", "__pycache__", "node_modules", ".ipynb_checkpoints"}
SHADOWS = {"torch", "torchvision", "numpy", "cv2", "autograder", "matplotlib", "sklearn", "scipy", "PIL", "tqdm"}
OTHER_ARCHIVES = {b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"\x1f\x8b": "a gzip file, as tar.gz is",
                  b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"%PDF": "a PDF"}


class CannotGrade(Exception):
    """There is nothing to grade; the message says why and what to do. Never a bug of ours."""


@dataclass
class Submission:
    """What was handed in: `code` holds the Python files of code/; `names` are all files of the hand-in."""

    name: str
    code: Path
    names: list[tuple[str, int]] = field(default_factory=list)  # path inside the hand-in, bytes
    notes: list[str] = field(default_factory=list)  # for student and staff
    fatal: str = ""  # why no part can be graded by machine: every check fails, with this sentence
    is_zip: bool = False
    tree: ast.Module | None = None


def take_in(path: Path, into: Path, given: dict[str, str]) -> Submission:
    """Read the submission at `path` and write its Python files into `into`. Raises CannotGrade.

    `given` are the texts of the starter's files by name below code/; a submission cannot replace them.
    """
    if not path.exists():
        raise CannotGrade(f"{path}: there is no such file or folder")
    try:
        return _take_in(path, into, given)
    except (OSError, ValueError, LookupError, RecursionError, MemoryError, RuntimeError, EOFError, zlib.error,
            zipfile.BadZipFile, lzma.LZMAError) as error:  # archives can be broken in more ways than can be listed
        raise CannotGrade(f"{path.name} cannot be taken apart ({type(error).__name__}: {error}): make it again with "
                          "python zip_submission.py") from None


def _take_in(path: Path, into: Path, given: dict[str, str]) -> Submission:
    source = FolderSource(path) if path.is_dir() else ZipSource(path)
    submission = Submission(path.stem if source.is_zip else path.resolve().name, into, is_zip=source.is_zip)
    submission.notes += source.notes
    submission.names = [(str(name), size) for name, size in source.files.items()]
    student = find_student_file(source.files, submission)
    if student is not None:
        copy_sources(source, student.parent, into, given, submission)
        parse(into / "student_code.py", submission)
    return submission


class ZipSource:
    """The files of a zip, names made harmless. Raises CannotGrade if it is none, or too large to be a hand-in."""

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
            raise CannotGrade(f"{path.name} is {what_it_is(path)}, no zip that can be opened ({error}): make it with "
                              "python zip_submission.py") from None
        if len(self.archive.infolist()) > MAX_FILES:
            raise CannotGrade(f"{path.name} holds {len(self.archive.infolist())} files, more than {MAX_FILES}")
        for info in self.archive.infolist():
            self._enter(info)

    def _enter(self, info: zipfile.ZipInfo) -> None:
        text = info.filename.replace("\\", "/")
        name = PurePosixPath(text)
        if info.is_dir() or text.endswith("/") or not name.parts or unwanted(name):
            return
        if text.startswith("/") or ".." in name.parts or (len(text) > 1 and text[1] == ":"):
            self.notes.append(f"{text[:200]!r} in the zip points outside it: left out")
        elif any(ord(letter) < 32 for letter in text) or max(len(part.encode()) for part in name.parts) > 200:
            self.notes.append(f"{text[:80]!r} in the zip is no file name: left out")
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
        except RuntimeError as error:  # how zipfile says that a password is needed
            raise CannotGrade(f"{name} in the zip cannot be opened: {error}; hand in a zip without password") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise CannotGrade(f"{name} in the zip is damaged ({error}): zip and upload it again") from None


class FolderSource:
    """The files of a folder that somebody works in: data, logs and environments are passed over."""

    is_zip = False

    def __init__(self, path: Path):
        self.root, self.notes, self.files = path, [], {}
        for parent, folders, names in os.walk(path):
            inside = Path(parent).relative_to(path)
            folders[:] = [name for name in sorted(folders) if not unwanted(PurePosixPath(name)) and not (
                inside == Path() and name in ("data", "logs"))]
            for name in sorted(names):
                file = Path(parent) / name
                if file.is_symlink():
                    self.notes += [f"{inside / name} is a link, not a file: left out"] * (file.suffix == ".py")
                elif file.is_file() and not unwanted(PurePosixPath(name)):
                    self.files[PurePosixPath((inside / name).as_posix())] = file.stat().st_size
            if len(self.files) > MAX_FILES:
                raise CannotGrade(f"{path} holds more than {MAX_FILES} files: name the folder with code/ in it")

    def read(self, name: PurePosixPath) -> bytes:
        try:
            with (self.root / name).open("rb") as file:
                return file.read(MAX_SOURCE + 1)
        except OSError as error:
            raise CannotGrade(f"{self.root / name} cannot be read: {error.strerror}") from None


def unwanted(name: PurePosixPath) -> bool:
    """What systems and tools leave behind, and nobody handed in."""
    return bool(SKIPPED & set(name.parts)) or name.name.startswith("._") or name.name in (".DS_Store", "Thumbs.db")


def what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty"
    return next((name for magic, name in OTHER_ARCHIVES.items() if start.startswith(magic)),
                "a tar archive" if start[257:262] == b"ustar" else
                "cut off, perhaps while it was uploaded" if start.startswith(b"PK") else "a file of another kind")


def find_student_file(files: dict[PurePosixPath, int], submission: Submission) -> PurePosixPath | None:
    """student_code.py where it should be, code/student_code.py, or where people put it instead."""
    found = sorted((name for name in files if name.name == "student_code.py"), key=lambda name: (len(name.parts), name))
    inside_code = [name for name in found if name.parent.name == "code"]
    chosen = next(iter(inside_code or found), None)
    if chosen is None:
        submission.fatal = missing(files)
        return None
    if len(found) > 1:
        others = ", ".join(str(name) for name in found if name != chosen)
        submission.notes.append(f"student_code.py is there {len(found)} times; {chosen} is graded, not {others}")
    if len(chosen.parts) == 3 and chosen.parent.name == "code":
        submission.notes.append(f"everything lies in a folder {chosen.parts[0]!r}; code/, writeup/ and results/ are "
                                "looked for in there")
    elif str(chosen) not in ("code/student_code.py", "student_code.py"):
        submission.notes.append(f"student_code.py was found at {chosen}; it belongs into code/")
    return chosen


def missing(files) -> str:
    near = [str(name) for name in files if name.suffix == ".py" and "student" in name.name.lower()]
    notebooks = [str(name) for name in files if name.suffix == ".ipynb"]
    if near:
        return f"there is no code/student_code.py; is it {near[0]}? The name has to be student_code.py, exactly"
    if notebooks:
        return f"there is no code/student_code.py, but a notebook, {notebooks[0]}: export its code as student_code.py"
    some = ", ".join(str(name) for name in list(files)[:5]) or "no file"
    return f"there is no code/student_code.py; the hand-in holds {some}{', ...' if len(files) > 5 else ''}"


def copy_sources(source, folder: PurePosixPath, into: Path, given: dict[str, str], submission: Submission) -> None:
    """Copy the Python files beside and below student_code.py, but for those that the starter gives.

    The grader has its own copies of these; a note names those that the submission has changed.
    """
    total, changed = 0, []
    for name in sorted(source.files):
        if name.suffix != ".py" or folder not in (name.parent, *name.parents):
            continue
        inside = name.relative_to(folder)
        top = inside.parts[0].removesuffix(".py")
        if folder == PurePosixPath(".") and top in ("tests", "autograder", "benchmarks", "zip_submission"):
            continue
        if str(inside) in given:
            changed += [str(inside)] * (not same_text(source.read(name), given[str(inside)]))
            continue
        if len(inside.parts) > 1 and any(other.startswith(f"{top}/") for other in given):
            submission.notes.append(f"{name} lies in {top}/, which is the starter's: it was left out; put it elsewhere")
            continue
        if len(inside.parts) > 1 and top == "student_code":
            submission.notes.append(f"{name} lies in a folder student_code, which Python would take for "
                                    "student_code.py: it was left out; give the folder another name")
            continue
        if top in SHADOWS or top in sys.stdlib_module_names:
            submission.notes.append(f"{name} has the name of a module that Python or PyTorch brings, {top}, and would "
                                    "be imported in its place: it was left out; give it another name")
            continue
        data = source.read(name)
        total += len(data)
        if len(data) > MAX_SOURCE or total > MAX_SOURCES:
            raise CannotGrade(f"{name} makes more than "
                              f"{(MAX_SOURCE if len(data) > MAX_SOURCE else MAX_SOURCES) >> 10} kB of Python: that is "
                              "no hand-in of this sheet")
        target = into / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    if changed:
        submission.notes.append(f"not as in the starter: {', '.join(changed)}. The grader uses the starter's; code of "
                                "your own belongs into student_code.py or files with other names")


def same_text(data: bytes, text: str) -> bool:
    """Whether a file has this text, whatever its line ends."""
    return data.decode("utf-8", errors="replace").replace("\r\n", "\n").strip() == text.strip()


def parse(path: Path, submission: Submission) -> None:
    """Keep the syntax tree; without one, say where Python stumbles."""
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
        submission.fatal = f"student_code.py:{error.lineno or 1} is not valid Python ({error.msg}){shown}"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            submission.fatal = "student_code.py is UTF-16: save it as UTF-8 in your editor"
        elif "encoding" in error.msg:
            submission.fatal = f"student_code.py is not UTF-8 ({error.msg}): save it as UTF-8 in your editor"
        elif any(mark in data for mark in (b"\n<<<<<<< ", b"\n>>>>>>> ")):
            submission.fatal += ". It holds marks of a git merge"
    except (ValueError, LookupError, RecursionError, MemoryError) as error:
        submission.fatal = f"student_code.py cannot be parsed: {error or type(error).__name__}"
