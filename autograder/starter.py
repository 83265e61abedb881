"""The starter that students get, made from the reference solution and checked."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from autograder.grade import grade
from autograder.solution import BEGIN, CODE, END, INSTEAD, ROOT, MarkerError, solution_lines, strip, write_given

AS_THEY_ARE = ("download_dataset.sh", "zip_submission.py", "LICENSE", ".gitignore", "data/README.md")
FOLDERS = {"writeup": "Your report goes here, as PDF.\n",
           "results": "What is not in the report goes here: pictures, curves, `results.json` of your runs.\n"}


class StarterError(Exception):
    """The starter cannot be made, or must not be handed out; the message says where."""


def make(out: Path, thorough: bool = True, tell=print) -> None:
    """Write the tree `out` and the zip beside it, after checking that it is fit to be handed out."""
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise StarterError(f"{out} is there already: remove it, or give another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".starter-") as folder:
        tree = Path(folder) / "tree"
        write(tree)
        for name, check in CHECKS.items():
            if thorough or name in QUICK:
                check(tree)
                tell(f"ok  {name}")
        packed = Path(folder) / "starter.zip"
        pack(tree, packed)
        if out.exists():
            out.rmdir()
        os.replace(tree, out)
        os.replace(packed, out.with_name(out.name + ".zip"))


def write(tree: Path) -> None:
    try:
        write_given(tree / "code")
        student = strip((CODE / "student_code.py").read_text(encoding="utf-8"), "student_code.py")
    except MarkerError as error:
        raise StarterError(str(error)) from None
    (tree / "code/student_code.py").write_text(student, encoding="utf-8")
    for name in AS_THEY_ARE:
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for name, text in FOLDERS.items():
        (tree / name).mkdir()
        (tree / name / "README.md").write_text(text)
    needed = (ROOT / "requirements.txt").read_text().split("# What checks it")[0]
    (tree / "requirements.txt").write_text(needed)
    shutil.copy(Path(__file__).parent / "STARTER.md", tree / "README.md")


def pack(tree: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(tree.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(tree))


# ---------------------------------------------------------------------------------- what it has to hold to


def parses(tree: Path) -> None:
    for path in tree.rglob("*.py"):
        try:
            ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            raise StarterError(f"{path.name}:{error.lineno} of the starter does not parse: {error.msg}") from None


def signatures(path: Path) -> dict[str, str]:
    """Qualified name -> arguments, of every function of a file."""
    found: dict[str, str] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.FunctionDef | ast.ClassDef):
                name = f"{prefix}{inner.name}"
                found[name] = ast.unparse(inner.args) if isinstance(inner, ast.FunctionDef) else ""
                visit(inner, f"{name}.")

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def keeps_signatures(tree: Path) -> None:
    ours, theirs = signatures(CODE / "student_code.py"), signatures(tree / "code/student_code.py")
    for name, arguments in theirs.items():
        if ours.get(name) != arguments:
            raise StarterError(f"student_code.py: {name}({arguments}) of the starter is {name}({ours.get(name)}) in "
                               "the solution")
    for name in CONTRACT - set(theirs):
        raise StarterError(f"student_code.py of the starter has no {name}, which students have to fill in")


CONTRACT = {"CustomConv2DFunction.forward", "CustomConv2DFunction.backward", "CustomConv2d", "SimpleNet", "CustomNet",
            "Attention.forward", "TransformerBlock.forward", "SimpleViT.__init__", "SimpleViT.forward",
            "PGDAttack.perturb", "AdvSimpleNet", "get_train_transforms", "get_val_transforms"}


def leaks_nothing(tree: Path) -> None:
    secret = solution_lines()
    for path in tree.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip() in secret:
                raise StarterError(f"{path.name}:{number} of the starter is a line of the solution in "
                                   f"{secret[line.strip()]}: {line.strip()}")
            if BEGIN in line or END in line or INSTEAD in line:
                raise StarterError(f"{path.name}:{number} of the starter still has a marker")


def python(tree: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-B", *command], cwd=tree / "code", capture_output=True, text=True,
                          timeout=600)


def imports(tree: Path) -> None:
    names = [".".join(path.relative_to(tree / "code").with_suffix("").parts) for path in (tree / "code").rglob("*.py")
             if path.stem not in ("test_conv", "__init__", "__main__")]
    done = python(tree, "-c", f"import {', '.join(names)}")
    if done.returncode:
        raise StarterError(f"the starter's files cannot be imported: {done.stderr.strip().splitlines()[-1]}")


def helps(tree: Path) -> None:
    done = python(tree, "main.py", "--help")
    if done.returncode or "--use-custom-conv" not in done.stdout:
        raise StarterError(f"python main.py --help of the starter ends with {done.returncode}: {done.stderr[-300:]}")


def runs_to_the_first_hole(tree: Path) -> None:
    """SimpleNet is given, so the demo trains and evaluates; then it comes to something that is not written."""
    with tempfile.TemporaryDirectory() as folder:
        done = python(tree, "-m", "demo", "--data", f"{folder}/data", "--out", f"{folder}/out", "--logs",
                      f"{folder}/logs", "--train", "60", "--val", "20", "--epochs", "1")
    printed = done.stdout + done.stderr
    if done.returncode == 0 or "is not written yet" not in printed or "epoch 1/1 val" not in printed:
        raise StarterError(f"the starter's demo should train, and then stop at a hole; it printed {printed[-500:]}")


def grades_to_the_floor(tree: Path) -> None:
    mark = grade(tree, seed=0)
    passed = [f"{part.name}: {verdict.title}" for part in mark.parts for verdict in part.verdicts if verdict.points]
    if passed:
        raise StarterError(f"the starter gets points without being touched: {'; '.join(passed)}")
    silent = [verdict.feedback for part in mark.parts if not part.manual for verdict in part.verdicts
              if "not written yet" not in verdict.feedback]
    if silent:
        raise StarterError(f"a hole of the starter does not say that it is one: {silent[0]}")


CHECKS = {"every file parses": parses, "signatures are the solution's": keeps_signatures,
          "no line of the solution is left": leaks_nothing, "every file can be imported": imports,
          "main.py --help": helps, "the demo runs up to the first hole": runs_to_the_first_hole,
          "it grades to 0 points, and says what is missing": grades_to_the_floor}
QUICK = list(CHECKS)[:3]
