"""Derive the starter's files from the reference solution in code/.

Lines from `# BEGIN SOLUTION` to `# END SOLUTION` are removed; a line `# STARTER: text` becomes `text`. A block may have
a tag, `# BEGIN SOLUTION block`: in the years whose sheet gives what the tag names (rubric.YEARS), the block stays.
"""

import ast
import re
from collections.abc import Set
from pathlib import Path

from autograder import rubric

ROOT = Path(__file__).resolve().parent.parent
CODE = ROOT / "code"
BEGIN, END, STARTER_LINE = "# BEGIN SOLUTION", "# END SOLUTION", "# STARTER: "
BEGIN_LINE = re.compile(f"{BEGIN}(?: ([a-z]+))?")
# The starter has the top-level files of code/ and these folders. extras/ and labs/ would reveal solutions.
STARTER_FOLDERS = ("libs", "demo")
HELPER_CLASSES = ("Attention", "TransformerBlock")  # in custom_blocks.py until 2023


class MarkerError(Exception):
    """Unmatched or nested markers; the message says where."""


class StarterError(Exception):
    """The starter cannot be built or failed a check; the message says why and where."""


def strip_solution(text: str, name: str, keep: Set[str] = frozenset()) -> str:
    """The starter's version of the file `name` with this text. Raises MarkerError.

    Blocks with a tag in `keep` (without one: "") stay, and the STARTER line after them goes.
    """
    lines, began, kept = [], 0, False
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if begin := BEGIN_LINE.fullmatch(word):
            if began:
                raise MarkerError(f"{name}:{number}: BEGIN SOLUTION inside the solution that begins on line {began}")
            began, kept = number, (begin[1] or "") in keep
        elif word == END:
            if not began:
                raise MarkerError(f"{name}:{number}: END SOLUTION without BEGIN SOLUTION")
            began = 0
        elif BEGIN in line or END in line:
            raise MarkerError(f"{name}:{number}: a marker must be alone on its line")
        elif word.startswith(STARTER_LINE.strip()):
            if began:
                raise MarkerError(f"{name}:{number}: STARTER inside a solution")
            lines += [] if kept else [line.replace(STARTER_LINE, "")]
        elif kept or not began:
            lines.append(line)
    if began:
        raise MarkerError(f"{name}:{began}: BEGIN SOLUTION without END SOLUTION")
    return tidy("\n".join(lines) + "\n")


def tidy(text: str) -> str:
    """Without the blank lines that removed lines leave: at most two, one inside a class."""
    return re.sub(r"\n{3,}(?=[ \t])", "\n\n", re.sub(r"\n{4,}", "\n\n\n", text))


def student_text(year: int, written: bool = False) -> str:
    """student_code.py of the starter of `year`; `written`: with exactly the parts of that year's sheet filled in."""
    keep = rubric.of_year(year).given
    if written:
        keep = {"", "bias", *rubric.parts(year), *rubric.manual(year), *keep}
    text = strip_solution((CODE / "student_code.py").read_text(encoding="utf-8"), "student_code.py", keep)
    return without_helper_classes(text) if helpers_have_attention(year) else text


def helpers_have_attention(year: int) -> bool:
    return "attention" in rubric.of_year(year).given


def without_helper_classes(text: str) -> str:
    """student_code.py as until 2023: Attention and TransformerBlock come from custom_blocks."""
    lines = text.splitlines(keepends=True)
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.ClassDef) and node.name in HELPER_CLASSES:
            del lines[node.lineno - 1 : node.end_lineno]
    first = "from custom_blocks import"
    return tidy("".join(lines)).replace(first, f"{first} {', '.join(HELPER_CLASSES)}\n{first}", 1)


def starter_files() -> list[Path]:
    """The Python files of code/ in the starter, except student_code.py."""
    files = [path for path in CODE.glob("*.py") if path.name != "student_code.py"]
    return sorted([*files, *(path for folder in STARTER_FOLDERS for path in (CODE / folder).rglob("*.py"))])


def starter_text(path: Path, year: int = 2025) -> str:
    """The starter's version of a helper file."""
    return strip_solution(path.read_text(encoding="utf-8"), path.name, rubric.of_year(year).given)


def write_starter_files(into: Path, year: int = 2025) -> dict[str, str]:
    """Write the starter's helper files below `into`. Returns {path below code/: text}."""
    texts = {path.relative_to(CODE).as_posix(): starter_text(path, year) for path in starter_files()}
    for name, text in texts.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_text(text, encoding="utf-8")
    return texts


def solution_lines(year: int = 2025) -> dict[str, str]:
    """{line: file} of the lines that occur only between markers; short lines and imports reveal nothing.

    What the sheet of `year` gives is outside.
    """
    inside, outside = {}, set()
    for path in CODE.glob("*.py"):
        given = set(map(str.strip, starter_text(path, year).splitlines()))
        inside |= {line: path.name for line in map(str.strip, path.read_text(encoding="utf-8").splitlines())
                   if line not in given}
        outside |= given
    return {line: name for line, name in inside.items()
            if line not in outside and len(line) > 25 and not line.startswith(("#", "import ", "from "))}
