"""Build the starter for students from the reference solution, and check it."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from autograder import rubric
from autograder.grade import grade
from autograder.sheet_commands import every_command_works
from autograder.solution import (
    BEGIN,
    CODE,
    END,
    HELPER_CLASSES,
    ROOT,
    STARTER_LINE,
    MarkerError,
    StarterError,
    helpers_have_attention,
    solution_lines,
    student_text,
    write_starter_files,
)

COPIED_FILES = ("download_dataset.sh", "zip_submission.py", "LICENSE", ".gitignore", "data/README.md",
                "writeup/template.typ", "notebooks/homework.ipynb")
FOLDERS = {"writeup": "Put your report here, as PDF. template.typ has the questions as headings.\n",
           "results": "Put figures, curves and the `results.json` of your runs here.\n"}


def make(out: Path, thorough: bool = True, year: int = 2025, log=print) -> None:
    """Write the folder `out` and `out`.zip as for `year`, after running the checks; `thorough`: also slow ones.

    Raises StarterError.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise StarterError(f"{out} exists: remove it or choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".starter-") as folder:
        tree = Path(folder) / "tree"
        write(tree, year)
        for name, check in CHECKS.items():
            if thorough or name in QUICK:
                check(tree, year)
                log(f"ok  {name}")
        packed = Path(folder) / "starter.zip"
        pack(tree, packed, out.name)
        if out.exists():
            out.rmdir()
        os.replace(tree, out)
        os.replace(packed, out.with_name(out.name + ".zip"))


def write(tree: Path, year: int = 2025) -> None:
    """Write the starter's files as for `year` below `tree`. Raises StarterError."""
    try:
        write_starter_files(tree / "code", year)
        student = student_text(year)
    except MarkerError as error:
        raise StarterError(str(error)) from None
    (tree / "code/student_code.py").write_text(student, encoding="utf-8")
    for name in COPIED_FILES:
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for name, text in FOLDERS.items():
        (tree / name).mkdir(exist_ok=True)
        (tree / name / "README.md").write_text(text)
    needed = (ROOT / "requirements.txt").read_text().split("# What checks it")[0]
    (tree / "requirements.txt").write_text(needed)
    (tree / "README.md").write_text(readme(year), encoding="utf-8")


def readme(year: int) -> str:
    """The README of the starter: STARTER.md, with what the sheet of `year` asks for."""
    text = (Path(__file__).parent / "STARTER.md").read_text(encoding="utf-8")
    asked = [name for part, name in VIT_CLASSES.items() if part in rubric.parts(year)]
    text = text.replace(ROW, ", ".join(asked))
    return text.replace(OPTIONAL, "") if "saliency" in rubric.manual(year) else text


VIT_CLASSES = {"attention": "`Attention`", "block": "`TransformerBlock`", "vit": "`SimpleViT`"}
ROW, OPTIONAL = ", ".join(VIT_CLASSES.values()), " (not on the sheet; `-v` shows it)"  # of STARTER.md


def pack(tree: Path, target: Path, name: str) -> None:
    """Zip `tree` as a folder `name`, so that unpacking it does not scatter files."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(tree.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, Path(name) / path.relative_to(tree))


# ------------------------------------------------------------------------ checks; each raises StarterError


def parses(tree: Path, year: int = 2025) -> None:
    for path in tree.rglob("*.py"):
        try:
            ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            raise StarterError(f"{path.name}:{error.lineno} of the starter does not parse: {error.msg}") from None


def signatures(path: Path) -> dict[str, str]:
    """{qualified name: arguments} of every function and class of a file."""
    found: dict[str, str] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.FunctionDef | ast.ClassDef):
                name = f"{prefix}{inner.name}"
                found[name] = ast.unparse(inner.args) if isinstance(inner, ast.FunctionDef) else ""
                visit(inner, f"{name}.")

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def keeps_signatures(tree: Path, year: int = 2025) -> None:
    ours, theirs = signatures(CODE / "student_code.py"), signatures(tree / "code/student_code.py")
    for name, arguments in theirs.items():
        if ours.get(name) != arguments:
            raise StarterError(f"student_code.py: {name}({arguments}) in the starter, {name}({ours.get(name)}) in the "
                               "solution")
    given = HELPER_CLASSES if helpers_have_attention(year) else ()
    for name in {name for name in REQUIRED_NAMES if not name.startswith(given)} - set(theirs):
        raise StarterError(f"student_code.py of the starter lacks {name}, which students have to write")


REQUIRED_NAMES = {"CustomConv2DFunction.forward", "CustomConv2DFunction.backward", "CustomConv2d", "SimpleNet",
                  "CustomNet", "Attention.forward", "TransformerBlock.forward", "SimpleViT.__init__",
                  "SimpleViT.forward", "PGDAttack.perturb", "AdvSimpleNet", "get_train_transforms",
                  "get_val_transforms"}


def no_solution_lines_left(tree: Path, year: int = 2025) -> None:
    solution = solution_lines(year)
    for path in tree.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip() in solution:
                raise StarterError(f"{path.name}:{number} of the starter is a solution line of "
                                   f"{solution[line.strip()]}: {line.strip()}")
            if BEGIN in line or END in line or STARTER_LINE in line:
                raise StarterError(f"{path.name}:{number} of the starter still has a marker")


def python(tree: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-B", *command], cwd=tree / "code", capture_output=True, text=True,
                          timeout=600)


def imports(tree: Path, year: int = 2025) -> None:
    names = [".".join(path.relative_to(tree / "code").with_suffix("").parts) for path in (tree / "code").rglob("*.py")
             if path.stem not in ("test_conv", "__init__", "__main__")]
    result = python(tree, "-c", f"import {', '.join(names)}")
    if result.returncode:
        raise StarterError(f"the starter's files cannot be imported: {result.stderr.strip().splitlines()[-1]}")


def helps(tree: Path, year: int = 2025) -> None:
    result = python(tree, "main.py", "--help")
    if result.returncode or "--use-custom-conv" not in result.stdout:
        raise StarterError(f"main.py --help ends with exit status {result.returncode}: {result.stderr[-300:]}")


def demo_stops_at_unimplemented(tree: Path, year: int = 2025) -> None:
    """SimpleNet is given, so the demo trains and evaluates it, then stops at the first unimplemented function."""
    with tempfile.TemporaryDirectory() as folder:
        result = python(tree, "-m", "demo", "--data", f"{folder}/data", "--out", f"{folder}/out", "--logs",
                        f"{folder}/logs", "--train", "60", "--val", "20", "--epochs", "1")
    printed = result.stdout + result.stderr
    if result.returncode == 0 or "is not written yet" not in printed or "epoch 1/1 val" not in printed:
        raise StarterError(f"the demo should train, then stop at unimplemented code; it printed {printed[-500:]}")


def scores_zero(tree: Path, year: int = 2025) -> None:
    mark = grade(tree, seed=0, year=year)
    passed = [f"{part.name}: {verdict.title}" for part in mark.parts for verdict in part.verdicts if verdict.points]
    if passed:
        raise StarterError(f"the unmodified starter gets points: {'; '.join(passed)}")
    unclear = [verdict.feedback for part in mark.parts if not part.manual for verdict in part.verdicts
               if "not written yet" not in verdict.feedback]
    if unclear:
        raise StarterError(f"the feedback does not say that a function is unimplemented: {unclear[0]}")


CHECKS = {"every file parses": parses, "signatures match the solution": keeps_signatures,
          "no solution line is left": no_solution_lines_left, "every file can be imported": imports,
          "main.py --help": helps, "the demo runs up to the first unimplemented function": demo_stops_at_unimplemented,
          "it scores 0, and the feedback names what is unimplemented": scores_zero,
          "every command of the sheet runs with its parts written": every_command_works}
QUICK = list(CHECKS)[:3]
