"""What can be seen in student_code.py without running it: convolutions by name, and what staff should look at.

The kernels decide (worker/kernels.py); this says where in the file, and catches what was never called.
"""

import ast
import re
from pathlib import Path

CONVOLUTION = re.compile(r"(^|_)conv(?!ert)(_?(1|2|3)d|_?tbc|_?transpose|olution|olve)|^Conv[123]d|^ConvTranspose|"
                         r"^LazyConv|^(filter2D|sepFilter2D|correlate|correlate2d|convolve2d|fftconvolve)$")
DOUBTFUL = {  # modules and names with no business in this sheet: shown to staff, never a deduction by itself
    "modules": {"ctypes", "_ctypes", "gc", "inspect", "threading", "_thread", "multiprocessing", "subprocess", "socket",
                "signal", "resource", "pickle", "marshal", "importlib", "builtins", "scipy", "sys", "faulthandler",
                "atexit", "mmap", "types", "weakref", "urllib", "http", "asyncio", "concurrent", "tempfile", "shutil",
                "traceback", "fcntl", "posix", "copyreg", "dis", "pdb", "bdb", "tracemalloc"},
    "attributes": {"_C", "library", "_ops", "ops", "fft", "_dispatch", "jit", "overrides", "_python_dispatch",
                   "_native", "_core", "system", "popen", "fork", "kill", "_exit", "settrace", "setprofile",
                   "TorchDispatchMode", "TorchFunctionMode", "set_default_dtype", "__globals__", "__closure__",
                   "__code__", "__builtins__", "__subclasses__", "__dict__", "__wrapped__", "__self__", "__loader__",
                   "__spec__", "__traceback__", "f_back", "f_globals", "f_locals", "tb_frame", "tb_next", "gi_frame",
                   "cr_frame", "ag_frame", "_getframe", "_current_frames"},
    "calls": {"exec", "eval", "compile", "__import__", "open", "globals", "locals", "vars", "memoryview", "input",
              "breakpoint", "exit", "quit"},
}


def convolutions(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, name) of each convolution function named inside CustomConv2DFunction or a function that it calls.

    Names that the file gives itself are its own, whatever they sound like.
    """
    own = own_names(tree)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    start = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "CustomConv2DFunction"]
    seen, waiting, found = set(), list(start), []
    while waiting:
        node = waiting.pop()
        for line, name in named(node):
            if CONVOLUTION.search(name) and name not in own:
                found.append((line, name))
                own.add(name)  # once is enough
            if name in functions and name not in seen:
                seen.add(name)
                waiting.append(functions[name])
    return sorted(set(found))


def own_names(tree: ast.Module) -> set[str]:
    """What a file defines: functions, classes, arguments, and variables that are not another name for an attribute."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Assign) and not isinstance(node.value, ast.Attribute):
            names |= {inner.id for target in node.targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}
    return names | {"custom_conv2d"}


def named(node: ast.AST) -> list[tuple[int, str]]:
    """Every name and attribute that is read below `node`."""
    return [(inner.lineno, inner.id if isinstance(inner, ast.Name) else inner.attr) for inner in ast.walk(node)
            if isinstance(inner, ast.Name | ast.Attribute)]


def review(code: Path) -> list[str]:
    """The doubts about every Python file of a hand-in, with its name."""
    found = []
    for path in sorted(code.rglob("*.py")):
        name = path.relative_to(code).as_posix()
        try:
            tree = ast.parse(path.read_bytes())
            found += [f"{name} {line}" for line in doubts(tree)]
        except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError) as error:
            found.append(f"{name} cannot be read: {type(error).__name__}")
    return found


def doubts(tree: ast.Module) -> list[str]:
    """Lines that staff should look at, as `line 12: imports ctypes`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, f"imports {alias.name}") for alias in node.names if doubtful_module(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if doubtful_module(node.module or "") or DOUBTFUL["attributes"] & {*names, *(node.module or "").split(".")}:
                found.append((node.lineno, f"imports {', '.join(names)} from {node.module}"))
        elif isinstance(node, ast.Attribute) and node.attr in DOUBTFUL["attributes"]:
            found.append((node.lineno, f"uses {dotted(node)}"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DOUBTFUL["calls"]:
            found.append((node.lineno, f"calls {node.func.id}()"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            if not (len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
                    and str(node.args[1].value) not in DOUBTFUL["attributes"]):
                found.append((node.lineno, f"calls {node.func.id}() with a name that is made up, or not harmless"))
        elif isinstance(node, ast.Assign | ast.AugAssign):
            found += [(node.lineno, f"replaces {target}") for target in targets(node)]
    return [f"line {line}: {what}" for line, what in sorted(set(found))]


def doubtful_module(name: str) -> bool:
    """Whether a module, or one that it lies in, has no business here: torch._C and torchvision.ops, too."""
    words = name.split(".")
    return words[0] in DOUBTFUL["modules"] or bool(DOUBTFUL["attributes"] & set(words[1:]))


def targets(node: ast.Assign | ast.AugAssign) -> list[str]:
    """Attributes of torch, numpy, or their modules that an assignment overwrites."""
    wanted = node.targets if isinstance(node, ast.Assign) else [node.target]
    libraries = {"torch", "nn", "F", "np", "numpy", "cv2", "transforms", "utils", "custom_blocks"}
    names = [dotted(target) for target in wanted if isinstance(target, ast.Attribute | ast.Subscript)]
    return [name for name in names if name.split(".")[0] in libraries and "." in name]


def dotted(node: ast.AST) -> str:
    """a.b.c of an expression that begins with a name and goes on with attributes, calls and indices; no recursion."""
    words: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        if isinstance(node, ast.Attribute):
            words.append(node.attr)
        node = node.func if isinstance(node, ast.Call) else node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "...", *reversed(words)])[:60]
