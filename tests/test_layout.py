"""The layout of the repository and who may import whom, held by code."""

import ast
import subprocess
import sys

import pytest
from conftest import CODE, ROOT

TOP = {"main", "student_code", "test_conv", "check", "custom_blocks", "custom_transforms", "custom_dataloader", "utils"}
HELPERS = TOP - {"main", "student_code", "test_conv", "check"}
FOLDERS = "libs", "extras", "demo", "labs"


def modules(folder, prefix: str = "") -> dict:
    """{dotted name: path} of the Python files below a folder."""
    paths = sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
    return {prefix + ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
            for path in paths}


PROJECT = modules(CODE)
AUTOGRADER = {name: path for name, path in modules(ROOT / "autograder", "autograder.").items()
              if not name.startswith("autograder.variants.")}
BENCHMARKS = modules(ROOT / "benchmarks")
EVERYTHING = {**PROJECT, **modules(ROOT / "autograder", "autograder."), **BENCHMARKS,
              "zip_submission": ROOT / "zip_submission.py"}


def imports(path) -> set[str]:
    """The dotted names that a file imports, anywhere in it: for `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def used(name: str) -> set[str]:
    """The files of the repository that a file imports, packages' own __init__ left out."""
    return {other for other in imports(EVERYTHING[name]) & set(EVERYTHING) if other not in FOLDERS} - {name}


def inside(*folders: str) -> set[str]:
    return {name for name in PROJECT if name.split(".")[0] in folders}


def test_the_face_of_the_repository():
    for name in ("README.md", "Makefile", "requirements.txt", "pyproject.toml", "LICENSE", "download_dataset.sh",
                 "zip_submission.py", ".ci/run", "code", "data", "docs", "results", "writeup", "tests", "autograder",
                 "benchmarks"):
        assert (ROOT / name).exists(), name


def test_code_has_eight_files_and_folders_that_say_whose_they_are():
    """Each name at the top of code/ is one that a student's own module cannot have."""
    assert {path.stem for path in CODE.glob("*.py")} == TOP
    assert {path.name for path in CODE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(FOLDERS)
    assert not (CODE / "__init__.py").exists(), "code is the name of a standard module; a package would shadow it"


# -------------------------------------------------------------------------------------- who imports whom

# Folder or file -> all that it may import of the repository.
MAY_IMPORT = {
    "utils": set(), "custom_blocks": set(), "custom_transforms": {"utils"}, "custom_dataloader": {"utils"},
    "student_code": {"custom_blocks", "custom_transforms", "utils"},
    "test_conv": {"student_code", "utils"},
    "check": {name for name in PROJECT if name.startswith("libs.checks")} | {"test_conv", "student_code",
                                                                             "custom_blocks", "utils"},
    "libs": inside("libs") | HELPERS | {"student_code"},
    "extras": inside("extras") | {"custom_blocks", "utils"},
    "demo": inside("demo") | {"utils"},
    "labs": inside("labs", "libs", "extras") | HELPERS | {"student_code"},
    "main": inside("libs") | {"utils"},
}


@pytest.mark.parametrize("name", PROJECT)
def test_imports_go_downwards(name):
    allowed = MAY_IMPORT[name if name in MAY_IMPORT else name.split(".")[0]]
    assert used(name) <= allowed, f"{name} must not import {used(name) - allowed}"


def test_the_trainer_knows_no_model_no_data_and_no_checkpoint_module():
    assert used("libs.engine") == {"libs.hardware", "libs.metrics", "libs.progress", "libs.training_state", "utils"}


def test_nothing_imports_main():
    assert not [name for name in EVERYTHING if "main" in imports(EVERYTHING[name])]


def test_no_import_goes_in_circles():
    graph = {name: used(name) for name in EVERYTHING}
    while graph:
        leaves = [name for name, needs in graph.items() if not needs & set(graph)]
        assert leaves, f"these import each other: {sorted(graph)}"
        for name in leaves:
            del graph[name]


def test_the_autograder_imports_nothing_of_code():
    """Its deciding process has no torch either; only the worker, a process of its own, has it."""
    for name, path in AUTOGRADER.items():
        tops = {module.split(".")[0] for module in imports(path)}
        own = {module.split(".")[0] for module in PROJECT}
        in_worker = name.startswith(("autograder.worker", "autograder.mutation.probe"))
        forbidden = own - {"student_code"} if in_worker else own | {"torch", "cv2"}
        assert not tops & forbidden, name
    assert not [name for name in (*PROJECT, *BENCHMARKS) if any("autograder" in module for module in
                                                                 imports(EVERYTHING[name]))]


def test_benchmarks_are_leaves():
    for name in BENCHMARKS:
        assert not [other for other in (*PROJECT, *AUTOGRADER) if name in imports(EVERYTHING[other])]


def test_importing_a_file_does_nothing(tmp_path):
    """No parsing, no folder, nothing printed, in a fresh process and an empty folder."""
    names = [name for name in PROJECT if name not in ("test_conv", *FOLDERS) and not name.endswith("__main__")]
    script = f"import sys; sys.path.insert(0, {str(CODE)!r})\n" + "\n".join(f"import {name}" for name in names)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------- size, form

# The whole sheet in its order, which students hand in as one file; ten drawings, each of which stands alone.
LINES = {"student_code": 620, "demo.data": 420}
READ = {**PROJECT, **AUTOGRADER}


def functions(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", READ)
def test_files_can_be_read_in_one_sitting(name):
    assert len(READ[name].read_text().splitlines()) <= LINES.get(name, 350)
    lengths = {function.name: function.end_lineno - function.lineno + 1 for function in functions(READ[name])}
    assert {function for function, length in lengths.items() if length > 50} <= {"get_args_parser"}


def test_no_soft_failures():
    for path in [*READ.values(), ROOT / "zip_submission.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path.name}:{node.lineno}: bare except"
                assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), f"{path.name}:{node.lineno}"


def test_solution_markers_are_balanced():
    for path in (CODE / "student_code.py", CODE / "custom_blocks.py"):
        depth = 0
        for number, line in enumerate(path.read_text().splitlines(), 1):
            depth += line.strip().startswith("# BEGIN SOLUTION")
            depth -= line.strip() == "# END SOLUTION"
            assert depth in (0, 1), f"{path.name}:{number}"
            assert depth == 0 or not line.strip().startswith("# STARTER:"), f"{path.name}:{number}"
        assert depth == 0


def test_the_assignments_attack_settings_stand_once():
    """utils.ASSIGNMENT_ATTACK; the signature that the sheet gives PGDAttack repeats them."""
    import inspect

    from student_code import PGDAttack
    from utils import ASSIGNMENT_ATTACK

    given = inspect.signature(PGDAttack).parameters
    assert {name: given[name].default for name in ASSIGNMENT_ATTACK} == ASSIGNMENT_ATTACK


def test_what_is_ignored_is_not_committed():
    try:
        git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    for name in git.stdout.split():
        assert not name.startswith("logs/") and not name.endswith((".pth", ".pth.tar", ".npz")), name
        assert not name.startswith("data/") or name == "data/README.md", name
