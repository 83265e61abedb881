"""The reference solution in code/: what of it is the student's to write, and the files that the starter gives.

Between `# BEGIN SOLUTION` and `# END SOLUTION` everything is left out; a line `# STARTER: text` becomes `text`.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ROOT / "code"
BEGIN, END, INSTEAD = "# BEGIN SOLUTION", "# END SOLUTION", "# STARTER: "
# Of code/, the starter has the files at its top and these folders. extras/ and labs/ would show solutions.
GIVEN_FOLDERS = ("libs", "demo")


class MarkerError(Exception):
    """Markers do not match; the message says where."""


def strip(text: str, name: str) -> str:
    """The starter's version of a file. Raises MarkerError."""
    lines, began = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if word == BEGIN:
            if began:
                raise MarkerError(f"{name}:{number}: BEGIN SOLUTION inside the solution that begins in line {began}")
            began = number
        elif word == END:
            if not began:
                raise MarkerError(f"{name}:{number}: END SOLUTION without a beginning")
            began = 0
        elif BEGIN in line or END in line:
            raise MarkerError(f"{name}:{number}: a marker has to stand alone in its line")
        elif word.startswith(INSTEAD.strip()):
            if began:
                raise MarkerError(f"{name}:{number}: STARTER inside a solution")
            lines.append(line.replace(INSTEAD, ""))
        elif not began:
            lines.append(line)
    if began:
        raise MarkerError(f"{name}:{began}: BEGIN SOLUTION without an end")
    text = re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines) + "\n")
    return re.sub(r"\n{3,}(?=[ \t])", "\n\n", text)  # one blank line inside a class, where a solution was


def given_files() -> list[Path]:
    """The Python files of code/ that the starter gives, student_code.py not among them."""
    files = [path for path in CODE.glob("*.py") if path.name != "student_code.py"]
    return sorted([*files, *(path for folder in GIVEN_FOLDERS for path in (CODE / folder).rglob("*.py"))])


def given_text(path: Path, blocks: bool = False) -> str:
    """A given file as the starter has it; `blocks`: with the parts of custom_blocks.py that were given until 2023."""
    text = path.read_text(encoding="utf-8")
    return text if blocks and path.name == "custom_blocks.py" else strip(text, path.name)


def write_given(into: Path, blocks: bool = False) -> dict[str, str]:
    """Write the given files below `into`. Returns {name below code/: text}."""
    texts = {path.relative_to(CODE).as_posix(): given_text(path, blocks) for path in given_files()}
    for name, text in texts.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_text(text, encoding="utf-8")
    return texts


def solution_lines() -> dict[str, str]:
    """{line: file} of the lines that stand between markers only; short ones and imports reveal nothing."""
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
