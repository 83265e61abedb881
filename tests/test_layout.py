"""The layout of the repository and who may import whom, held by code."""

import ast
import subprocess
import sys

import pytest
from conftest import CODE, ROOT

MODULES = {path.stem: path for path in CODE.glob("*.py")}
LABS = sorted((CODE / "labs").glob("*.py"))
STUDENT_MAY_IMPORT = {"custom_blocks", "custom_transforms", "utils"}
# name: what it must not import, of the files in code/
FORBIDDEN = {
    "engine": {"models", "student_code", "custom_dataloader", "custom_transforms", "checkpoint", "demo_data"},
    "custom_blocks": set(MODULES), "utils": set(MODULES),
    "custom_transforms": set(MODULES) - {"utils"},
    "figures": {"main", "engine", "models", "student_code"},
    "metrics": set(MODULES), "flat_conv": set(MODULES), "attacks": set(MODULES),
    "adversarial_training": set(MODULES) - {"attacks"},
    "explain": set(MODULES) - {"attacks", "custom_blocks", "utils"},
    "data_cache": {"main", "engine", "models", "student_code", "checkpoint"},
    "batch_transforms": set(MODULES) - {"custom_transforms"},
}


def imports(path) -> set[str]:
    """The top names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_face_of_the_repository():
    for name in ("README.md", "Makefile", "requirements.txt", "pyproject.toml", "LICENSE", "download_dataset.sh",
                 "zip_submission.py", ".ci/run", "code", "data", "results", "writeup", "tests",
                 "autograder", "benchmarks"):
        assert (ROOT / name).exists(), name
    assert not (CODE / "__init__.py").exists(), "code is the name of a standard module; a package would shadow it"


def test_the_student_file_can_be_carried_away():
    assert imports(CODE / "student_code.py") & set(MODULES) <= STUDENT_MAY_IMPORT


def test_nothing_imports_main_and_only_labs_import_labs():
    assert not [path.name for path in (*MODULES.values(), *LABS) if "main" in imports(path)]
    assert not [name for name, path in MODULES.items() if "labs" in imports(path)]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_imports(name):
    assert not imports(MODULES[name]) & FORBIDDEN[name]


def test_no_import_goes_in_circles():
    graph = {name: imports(path) & set(MODULES) for name, path in MODULES.items()}
    while graph:
        leaves = [name for name, needs in graph.items() if not needs & set(graph)]
        assert leaves, f"these import each other: {sorted(graph)}"
        for name in leaves:
            del graph[name]


def test_importing_a_file_does_nothing(tmp_path):
    """No parsing, no folder, nothing printed: each file in a fresh process, from an empty folder."""
    names = [*(name for name in MODULES if name != "test_conv"), *(f"labs.{path.stem}" for path in LABS)]
    script = f"import sys; sys.path.insert(0, {str(CODE)!r})\n" + "\n".join(f"import {name}" for name in names)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def functions(path):
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


# The whole sheet in its order, which students hand in as one file; ten drawings, each of which stands alone.
LINES = {"student_code.py": 600, "demo_data.py": 420}


AUTOGRADER = [path for path in (ROOT / "autograder").rglob("*.py") if path.parent.name != "variants"]


def test_the_autograder_imports_nothing_of_code_and_nothing_imports_it():
    """Its deciding process is torch-free as well: only the worker, a process of its own, has torch."""
    for path in AUTOGRADER:
        inside_worker = path.parent.name == "worker"
        forbidden = {*MODULES, "labs"} - {"student_code"} if inside_worker else {*MODULES, "labs", "torch", "cv2"}
        assert not imports(path) & forbidden, path.name
    assert not [name for name, path in MODULES.items() if "autograder" in imports(path)]


READ = sorted([*MODULES.values(), *LABS, *AUTOGRADER])


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= LINES.get(path.name, 350)
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno - f.lineno + 1 > 50}
    assert set(long) <= {"get_args_parser"}, long


def test_no_soft_failures():
    for path in [*MODULES.values(), *LABS, *AUTOGRADER, ROOT / "zip_submission.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path.name}:{node.lineno}: bare except"
                assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), f"{path.name}:{node.lineno}"


def test_solution_markers_are_balanced():
    for path in (CODE / "student_code.py", CODE / "custom_blocks.py"):
        depth = 0
        for number, line in enumerate(path.read_text().splitlines(), 1):
            depth += line.strip() == "# BEGIN SOLUTION"
            depth -= line.strip() == "# END SOLUTION"
            assert depth in (0, 1), f"{path.name}:{number}"
            assert depth == 0 or not line.strip().startswith("# STARTER:"), f"{path.name}:{number}"
        assert depth == 0


def test_what_is_ignored_is_not_committed():
    try:
        git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    for name in git.stdout.split():
        assert not name.startswith("logs/") and not name.endswith((".pth", ".pth.tar", ".npz")), name
        assert not name.startswith("data/") or name == "data/README.md", name
