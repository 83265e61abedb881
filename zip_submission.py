"""Pack the submission: python zip_submission.py. Packs code/, writeup/ and results/ without caches, data and models.

Exit status 0 if the zip was written; 1 if something is missing or wrong: the reasons are printed, an old zip is kept.
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
EXCLUDED_FOLDERS = ("__pycache__", ".*", "logs", "venv", "wandb", "node_modules")
EXCLUDED_UNLESS_CODE = ("models", "data", "runs")  # packages of these names are packed
EXCLUDED_FILES = ("*.pyc", "*.pth", "*.pth.tar", "*.pt", "*.ckpt", "*.safetensors", "*.npy", "*.npz", "*.zip", "*.tar",
                  "*.tar.gz", "*.tgz", "*.part", "events.out.tfevents.*", ".*")
# Starts with /name/, ~/ or C:\\. The categories of MiniPlaces (/a/abbey) have a single letter there.
ABSOLUTE_PATH = re.compile(r"/\w\w+/|/u/|~/|[A-Za-z]:[\\/]")
SEARCHES = {"replace", "split", "rsplit", "partition", "rpartition", "startswith", "endswith", "removeprefix",
            "removesuffix", "find", "rfind", "index", "count", "strip", "lstrip", "rstrip"}  # of str, for text inside
QUOTED = re.compile(r"""["']([^"']+)["']""")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def is_excluded_folder(folder: Path) -> bool:
    """Whether a folder is left out: caches, logs, links; data and models unless they contain Python files."""
    return (matches(folder.name, EXCLUDED_FOLDERS) or folder.is_symlink()
            or (folder.name in EXCLUDED_UNLESS_CODE and not any(folder.rglob("*.py"))))


def collect(root: Path, max_bytes: int) -> tuple[list[Path], list[str]]:
    """The files to pack, and a line with the reason for each file or folder that is left out."""
    included, excluded = [], []
    for folder in FOLDERS:
        for parent, folders, files in os.walk(root / folder):
            here = Path(parent)
            for name in sorted(folders):
                if is_excluded_folder(here / name):
                    excluded.append(f"{(here / name).relative_to(root)}/ (not part of a submission)")
                    folders.remove(name)
            for path in sorted(here / name for name in files):
                name, size = path.relative_to(root), path.lstat().st_size
                if path.is_symlink():
                    excluded.append(f"{name} (a link)")
                elif matches(path.name, EXCLUDED_FILES):
                    excluded.append(f"{name} (cache, checkpoint, log or archive)")
                elif size > max_bytes:
                    excluded.append(f"{name} ({size / 1e6:.1f} MB: over --max-mb)")
                else:
                    included.append(path)
    return sorted(included), excluded


def find_errors(root: Path, included: list[Path], draft: bool = False) -> list[str]:
    """Sentences on what is missing or invalid; nothing is packed then. A `draft` may lack the report."""
    found = [f"{folder}/ is missing" for folder in FOLDERS if not (root / folder).is_dir()]
    student = root / "code" / "student_code.py"
    if student not in included:
        found.append("code/student_code.py is missing")
    else:
        try:
            ast.parse(student.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            found.append(f"code/student_code.py is not valid Python: {error}")
    is_report = [path.suffix.lower() == ".pdf" and path.is_relative_to(root / "writeup") for path in included]
    if not draft and not any(is_report):
        found.append("writeup/ contains no PDF: the report must be a PDF (--draft packs without it)")
    return found


def holes(text: str) -> list[tuple[int, str]]:
    """(line, function) of each `raise NotImplementedError` in Python code: what is not written yet."""
    found: dict[int, str] = {}

    def visit(node: ast.AST, name: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = f"{name}.{node.name}" if name else node.name
        if isinstance(node, ast.Raise) and any(isinstance(part, ast.Name) and part.id == "NotImplementedError"
                                               for part in ast.walk(node)):
            found[node.lineno] = name
        for inner in ast.iter_child_nodes(node):
            visit(inner, name)

    try:
        visit(ast.parse(text), "")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # find_errors names a file that does not parse
    return sorted(found.items())


def find_warnings(root: Path, included: list[Path]) -> list[str]:
    """Sentences on what may cost points."""
    found = [f"{path.relative_to(root)} has only {path.stat().st_size} bytes: is it the report?" for path in included
             if path.suffix.lower() == ".pdf" and path.stat().st_size < 1000]
    if not any(path.is_relative_to(root / "results") and path.name != "README.md" for path in included):
        found.append("results/ contains no results")
    student = root / "code" / "student_code.py"
    if student in included:
        found += [f"code/student_code.py:{line}: {name} is not written yet" for line, name in
                  holes(student.read_text(encoding="utf-8", errors="replace"))]
    for path in included:
        if path.suffix in (".py", ".sh", ".ipynb", ".yaml", ".yml", ".json") and path.is_relative_to(root / "code"):
            found += [f"an absolute path? {path.relative_to(root)}:{line}: {value[:80]!r}"
                      for line, value in absolute_paths(path)]
    return found


def absolute_paths(path: Path) -> list[tuple[int, str]]:
    """(line, text) of the strings in a file that are absolute paths; in Python except comments and docstrings.

    The grader uses this function, too: each submission rule that is broken costs points.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    return [(line, value) for line, value in (python_strings(text) if path.suffix == ".py" else quoted_strings(text))
            if ABSOLUTE_PATH.match(value)]


def python_strings(text: str) -> list[tuple[int, str]]:
    """(line, value) of the string constants of Python code that may be paths; [] if it does not parse."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    excluded = {id(text) for node in ast.walk(tree) for text in no_paths(node)}
    return [(node.lineno, node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)
            and isinstance(node.value, str) and id(node) not in excluded]


def no_paths(node: ast.AST) -> list[ast.expr]:
    """The parts of an expression that are no path by themselves: docstrings, what follows in an f-string or after +,
    and what is searched for in another string."""
    if isinstance(node, ast.Expr):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return node.values[1:]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [node.right]
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
        return [node.left]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SEARCHES:
        return node.args
    return []


def quoted_strings(text: str) -> list[tuple[int, str]]:
    """(line, value) of the quoted strings of any text."""
    return [(number, value) for number, line in enumerate(text.splitlines(), 1) for value in QUOTED.findall(line)]


def pack(root: Path, included: list[Path], target: Path) -> None:
    """Write the zip atomically: to a temporary file beside `target`, then renamed."""
    part = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for path in included:
                archive.write(path, path.relative_to(root))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def report(root: Path, included: list[Path], target: Path) -> None:
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {len(included)} files")
    for folder in FOLDERS:
        files = [path for path in included if path.is_relative_to(root / folder)]
        kinds = Counter(path.suffix or path.name for path in files)
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "nothing"
        print(f"  {folder + '/':9} {sum(path.stat().st_size for path in files) / 1e6:7.2f} MB  {listed}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "submission.zip", metavar="ZIP",
                        help="file to write (default: submission.zip beside this script)")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="folder with code/, writeup/ and "
                        "results/ (default: folder of this script)")
    parser.add_argument("--max-mb", type=float, default=20, metavar="MB", help="maximum size of a file (default: 20)")
    parser.add_argument("--draft", action="store_true", help="pack without the report, to have the code graded early")
    args = parser.parse_args(argv)

    root = args.root.resolve()
    included, excluded = collect(root, int(args.max_mb * 1e6))
    for line in excluded:
        print(f"left out: {line}")
    for line in find_warnings(root, included):
        print(f"warning: {line}")
    if found := find_errors(root, included, args.draft):
        sys.exit("\n".join([f"error: {line}" for line in found] + ["nothing was written"]))
    try:
        pack(root, included, args.output)
    except OSError as error:
        sys.exit(f"error: {args.output} cannot be written: {error}")
    report(root, included, args.output)


if __name__ == "__main__":
    main()
