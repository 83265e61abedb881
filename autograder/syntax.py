"""What can be seen in student_code.py without running it: convolutions by name, and what staff should look at.

The kernels decide (worker/kernels.py); this says where in the file, and catches what was never called.
"""

import ast
import re

CONVOLUTION = re.compile(r"(^|_)conv(?!ert)(_?(1|2|3)d|_?tbc|_?transpose|olution|olve)|^Conv[123]d|^ConvTranspose|"
                         r"^LazyConv|^(filter2D|sepFilter2D|correlate|correlate2d|convolve2d|fftconvolve)$")
OWN = re.compile(r"^(custom_conv2d|CustomConv2d|CustomConv2DFunction)$")
DOUBTFUL = {  # modules and names with no business in this sheet: shown to staff, never a deduction by itself
    "modules": {"ctypes", "gc", "inspect", "threading", "multiprocessing", "subprocess", "socket", "signal", "resource",
                "pickle", "marshal", "importlib", "builtins", "scipy", "sys", "faulthandler", "atexit", "mmap", "code",
                "types", "weakref", "urllib", "http", "asyncio", "concurrent", "tempfile", "shutil", "glob"},
    "attributes": {"_C", "library", "_ops", "ops", "fft", "_dispatch", "jit", "overrides", "_python_dispatch",
                   "system", "popen", "fork", "kill", "_exit", "__globals__", "__closure__", "__code__", "__builtins__",
                   "__subclasses__", "f_back", "f_globals", "_getframe", "settrace", "setprofile",
                   "TorchDispatchMode", "TorchFunctionMode", "set_default_dtype"},
    "calls": {"exec", "eval", "compile", "__import__", "open", "globals", "input", "breakpoint", "exit", "quit"},
}


def convolutions(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, name) of each convolution function named inside CustomConv2DFunction or a function that it calls."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    start = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "CustomConv2DFunction"]
    seen, waiting, found = set(), list(start), []
    while waiting:
        node = waiting.pop()
        for line, name in named(node):
            if CONVOLUTION.search(name) and not OWN.match(name):
                found.append((line, name))
            if name in functions and name not in seen:
                seen.add(name)
                waiting.append(functions[name])
    return sorted(set(found))


def named(node: ast.AST) -> list[tuple[int, str]]:
    """Every name and attribute that is read below `node`."""
    return [(inner.lineno, inner.id if isinstance(inner, ast.Name) else inner.attr) for inner in ast.walk(node)
            if isinstance(inner, ast.Name | ast.Attribute)]


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
            found.append((node.lineno, f"uses {ast.unparse(node)[:60]}"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DOUBTFUL["calls"]:
            found.append((node.lineno, f"calls {node.func.id}()"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            if not (len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
                    and str(node.args[1].value) not in DOUBTFUL["attributes"]):
                found.append((node.lineno, f"calls {ast.unparse(node)[:60]}"))
        elif isinstance(node, ast.Assign | ast.AugAssign):
            found += [(node.lineno, f"replaces {ast.unparse(target)[:60]}") for target in targets(node)]
    return [f"line {line}: {what}" for line, what in sorted(set(found))]


def doubtful_module(name: str) -> bool:
    return name.split(".")[0] in DOUBTFUL["modules"]


def targets(node: ast.Assign | ast.AugAssign) -> list[ast.Attribute]:
    """Attributes of torch, numpy, or their modules that an assignment overwrites."""
    wanted = node.targets if isinstance(node, ast.Assign) else [node.target]
    libraries = {"torch", "nn", "F", "np", "numpy", "cv2", "transforms", "utils", "custom_blocks"}
    return [target for target in wanted if isinstance(target, ast.Attribute)
            and ast.unparse(target).split(".")[0] in libraries]
