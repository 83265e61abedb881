"""Pack the hand-in: python zip_submission.py. Takes code/, writeup/ and results/, and nothing that does not belong.

Exit code 0 if the zip was written; 1, with the reasons, if something is missing or wrong. A zip of an earlier
call stays as it is then.
"""

import argparse
import ast
import fnmatch
import os
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent
FOLDERS = ("code", "writeup", "results")
LEFT_OUT_FOLDERS = ("__pycache__", ".*", "logs", "venv", "wandb", "node_modules")
LEFT_OUT_UNLESS_CODE = ("models", "data", "runs")  # a Python package may well be called that
LEFT_OUT_FILES = ("*.pyc", "*.pth", "*.pth.tar", "*.pt", "*.ckpt", "*.safetensors", "*.npy", "*.npz", "*.zip", "*.tar",
                  "*.tar.gz", "*.tgz", "*.part", "events.out.tfevents.*", ".*")
# Text that begins with /name/, ~/ or C:\\. MiniPlaces' own categories (/a/abbey) have one letter there.
ABSOLUTE_PATH = re.compile(r"/\w\w+/|/u/|~/|[A-Za-z]:[\\/]")
QUOTED = re.compile(r"""["']([^"']+)["']""")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def not_handed_in(folder: Path) -> bool:
    """Whether a folder stays out as a whole: caches, logs, links; data and models, unless there is code in them."""
    return (matches(folder.name, LEFT_OUT_FOLDERS) or folder.is_symlink()
            or (folder.name in LEFT_OUT_UNLESS_CODE and not any(folder.rglob("*.py"))))


def collect(root: Path, max_bytes: int) -> tuple[list[Path], list[str]]:
    """The files to hand in, and a line for each that is left out, with the reason; a folder is named once."""
    taken, left = [], []
    for folder in FOLDERS:
        for parent, folders, files in os.walk(root / folder):
            here = Path(parent)
            for name in sorted(folders):
                if not_handed_in(here / name):
                    left.append(f"{(here / name).relative_to(root)}/ (not part of a hand-in)")
                    folders.remove(name)
            for path in sorted(here / name for name in files):
                name, size = path.relative_to(root), path.lstat().st_size
                if path.is_symlink():
                    left.append(f"{name} (a link)")
                elif matches(path.name, LEFT_OUT_FILES):
                    left.append(f"{name} (cache, checkpoint, log or archive)")
                elif size > max_bytes:
                    left.append(f"{name} ({size / 1e6:.1f} MB: over --max-mb)")
                else:
                    taken.append(path)
    return sorted(taken), left


def problems(root: Path, taken: list[Path]) -> list[str]:
    """What keeps this from being a hand-in, in sentences."""
    found = [f"{folder}/ is missing" for folder in FOLDERS if not (root / folder).is_dir()]
    student = root / "code" / "student_code.py"
    if student not in taken:
        found.append("code/student_code.py is missing")
    else:
        try:
            ast.parse(student.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            found.append(f"code/student_code.py is not valid Python: {error}")
    if not any(path.suffix.lower() == ".pdf" and path.is_relative_to(root / "writeup") for path in taken):
        found.append("writeup/ holds no PDF: the report is handed in as PDF")
    return found


def doubts(root: Path, taken: list[Path]) -> list[str]:
    """What a grader would stumble on, in sentences."""
    found = [f"{path.relative_to(root)} has only {path.stat().st_size} bytes: is it the report?" for path in taken
             if path.suffix.lower() == ".pdf" and path.stat().st_size < 1000]
    if not any(path.is_relative_to(root / "results") and path.name != "README.md" for path in taken):
        found.append("results/ holds no results")
    for path in taken:
        if path.suffix in (".py", ".sh", ".ipynb", ".yaml", ".yml", ".json") and path.is_relative_to(root / "code"):
            found += [f"an absolute path? {path.relative_to(root)}:{line}: {value[:80]!r}"
                      for line, value in absolute_paths(path)]
    return found


def absolute_paths(path: Path) -> list[tuple[int, str]]:
    """(line, text) of the strings in a file that name an absolute path; in Python not those in comments and docstrings.

    The rule of both this script and the grader: the sheet deducts points for absolute paths.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    return [(line, value) for line, value in (python_strings(text) if path.suffix == ".py" else quoted_strings(text))
            if ABSOLUTE_PATH.match(value)]


def python_strings(text: str) -> list[tuple[int, str]]:
    """(line, value) of the string constants of Python code, docstrings left out; none if it does not parse."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [(node.lineno, node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)
            and isinstance(node.value, str) and id(node) not in documents]


def quoted_strings(text: str) -> list[tuple[int, str]]:
    return [(number, value) for number, line in enumerate(text.splitlines(), 1) for value in QUOTED.findall(line)]


def pack(root: Path, taken: list[Path], target: Path) -> None:
    """Write the zip beside `target` and move it there."""
    part = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for path in taken:
                archive.write(path, path.relative_to(root))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def report(root: Path, taken: list[Path], target: Path) -> None:
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {len(taken)} files")
    for folder in FOLDERS:
        files = [path for path in taken if path.is_relative_to(root / folder)]
        kinds = Counter(path.suffix or path.name for path in files)
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "nothing"
        print(f"  {folder + '/':9} {sum(path.stat().st_size for path in files) / 1e6:7.2f} MB  {listed}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "submission.zip", metavar="ZIP",
                        help="file to write (default: submission.zip beside this script)")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="folder with code/, writeup/, results/")
    parser.add_argument("--max-mb", type=float, default=20, metavar="MB", help="leave out larger files (default: 20)")
    args = parser.parse_args(argv)

    root = args.root.resolve()
    taken, left = collect(root, int(args.max_mb * 1e6))
    for line in left:
        print(f"left out: {line}")
    for line in doubts(root, taken):
        print(f"warning: {line}")
    if found := problems(root, taken):
        sys.exit("\n".join([f"error: {line}" for line in found] + ["nothing was written"]))
    try:
        pack(root, taken, args.output)
    except OSError as error:
        sys.exit(f"error: {args.output} cannot be written: {error}")
    report(root, taken, args.output)


if __name__ == "__main__":
    main()
