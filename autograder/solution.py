"""Derive the starter's files from the reference solution in code/.

Lines from `# BEGIN SOLUTION` to `# END SOLUTION` are removed; a line `# STARTER: text` becomes `text`.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ROOT / "code"
BEGIN, END, STARTER_LINE = "# BEGIN SOLUTION", "# END SOLUTION", "# STARTER: "
# The starter has the top-level files of code/ and these folders. extras/ and labs/ would reveal solutions.
STARTER_FOLDERS = ("libs", "demo")


class MarkerError(Exception):
    """Unmatched or nested markers; the message says where."""


def strip_solution(text: str, name: str) -> str:
    """The starter's version of the file `name` with this text. Raises MarkerError."""
    lines, began = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if word == BEGIN:
            if began:
                raise MarkerError(f"{name}:{number}: BEGIN SOLUTION inside the solution that begins on line {began}")
            began = number
        elif word == END:
            if not began:
                raise MarkerError(f"{name}:{number}: END SOLUTION without BEGIN SOLUTION")
            began = 0
        elif BEGIN in line or END in line:
            raise MarkerError(f"{name}:{number}: a marker must be alone on its line")
        elif word.startswith(STARTER_LINE.strip()):
            if began:
                raise MarkerError(f"{name}:{number}: STARTER inside a solution")
            lines.append(line.replace(STARTER_LINE, ""))
        elif not began:
            lines.append(line)
    if began:
        raise MarkerError(f"{name}:{began}: BEGIN SOLUTION without END SOLUTION")
    text = re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines) + "\n")
    return re.sub(r"\n{3,}(?=[ \t])", "\n\n", text)  # one blank line inside a class where a solution was removed


def starter_files() -> list[Path]:
    """The Python files of code/ in the starter, except student_code.py."""
    files = [path for path in CODE.glob("*.py") if path.name != "student_code.py"]
    return sorted([*files, *(path for folder in STARTER_FOLDERS for path in (CODE / folder).rglob("*.py"))])


def starter_text(path: Path, with_blocks: bool = False) -> str:
    """The starter's version of a file. `with_blocks` keeps Attention and TransformerBlock in custom_blocks.py."""
    text = path.read_text(encoding="utf-8")
    return text if with_blocks and path.name == "custom_blocks.py" else strip_solution(text, path.name)


def write_starter_files(into: Path, with_blocks: bool = False) -> dict[str, str]:
    """Write the starter's files below `into`. Returns {path below code/: text}."""
    texts = {path.relative_to(CODE).as_posix(): starter_text(path, with_blocks) for path in starter_files()}
    for name, text in texts.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_text(text, encoding="utf-8")
    return texts


def solution_lines() -> dict[str, str]:
    """{line: file} of the lines that occur only between markers; short lines and imports reveal nothing."""
    inside, outside = {}, set()
    for path in CODE.glob("*.py"):
        within = False
        for line in map(str.strip, path.read_text(encoding="utf-8").splitlines()):
            within = line == BEGIN or (within and line != END)
            if within:
                inside[line] = path.name
            else:
                outside.add(line)
    return {line: name for line, name in inside.items()
            if line not in outside and len(line) > 25 and not line.startswith(("#", "import ", "from "))}
