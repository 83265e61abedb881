"""Static checks on syntax trees: convolution functions by name, and suspicious lines for staff.

Disabling the kernels (worker/kernels.py) finds the convolutions that run; this finds the line, and calls never reached.
"""

import ast
import re
from pathlib import Path

# Whole names of torch, OpenCV and SciPy: conv2d_out is a variable. kernels.py catches what this misses when it runs.
CONVOLUTION = re.compile(r"_*([a-z]+_)*(conv_?[123]d|conv_tbc|conv_transpose[123]d|conv_depthwise[23]d|convolution|"
                         r"convolve)(_(relu|input|weight|forward|backward|double_backward|overrideable|mode))?|"
                         r"(Lazy)?Conv(Transpose)?[123]d|filter2D|sepFilter2D|correlate|correlate2d|convolve2d|"
                         r"fftconvolve")
LIBRARIES = {"torch", "torchvision", "cv2", "scipy", "numpy"}
SUSPICIOUS = {  # not needed for this homework: listed for staff, never a deduction by itself
    "modules": {"ctypes", "_ctypes", "gc", "inspect", "threading", "_thread", "multiprocessing", "subprocess", "socket",
                "signal", "resource", "pickle", "marshal", "importlib", "builtins", "scipy", "sys", "faulthandler",
                "atexit", "mmap", "types", "weakref", "urllib", "http", "asyncio", "concurrent", "tempfile", "shutil",
                "traceback", "fcntl", "posix", "copyreg", "dis", "pdb", "bdb", "tracemalloc", "operator", "_operator",
                "hashlib", "hmac", "select", "selectors", "zlib", "base64", "codecs"},
    "attributes": {"_C", "library", "_ops", "ops", "fft", "_dispatch", "jit", "overrides", "_python_dispatch",
                   "_native", "_core", "system", "popen", "fork", "kill", "_exit", "settrace", "setprofile",
                   "TorchDispatchMode", "TorchFunctionMode", "set_default_dtype", "__globals__", "__closure__",
                   "__code__", "__builtins__", "__subclasses__", "__dict__", "__wrapped__", "__self__", "__loader__",
                   "__spec__", "__traceback__", "f_back", "f_globals", "f_locals", "tb_frame", "tb_next", "gi_frame",
                   "cr_frame", "ag_frame", "_getframe", "_current_frames", "co_code", "__getattribute__",
                   "__reduce__", "__reduce_ex__", "__mro__", "__bases__", "stride_tricks", "dnn", "dft",
                   "mulSpectrums"},
    "calls": {"exec", "eval", "compile", "__import__", "open", "globals", "locals", "vars", "memoryview", "input",
              "breakpoint", "exit", "quit"},
}
PLAIN_OS = {"path", "environ", "getenv", "getcwd", "listdir", "makedirs", "mkdir", "sep", "cpu_count"}
DUNDER = re.compile(r"__\w+?__")


def forbidden_convolutions(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, name) of each convolution function named inside CustomConv2DFunction or a function that it calls.

    Names that the file itself defines are not convolution functions.
    """
    defined = defined_names(tree)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    start = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "CustomConv2DFunction"]
    seen, queue, found = set(), list(start), []
    while queue:
        node = queue.pop()
        for line, name in names_read(node):
            if CONVOLUTION.fullmatch(name) and name not in defined:
                found.append((line, name))
                defined.add(name)  # report each name once
            if name in functions and name not in seen:
                seen.add(name)
                queue.append(functions[name])
    return sorted(set(found))


def defined_names(tree: ast.Module) -> set[str]:
    """Functions, classes, arguments, variables and imports from own modules, except aliases of attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in LIBRARIES:
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign) and not isinstance(node.value, ast.Attribute):
            names |= {inner.id for target in node.targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}
    return names | {"custom_conv2d"}


def names_read(node: ast.AST) -> list[tuple[int, str]]:
    """Every name and attribute that is read below `node`."""
    return [(inner.lineno, inner.id if isinstance(inner, ast.Name) else inner.attr) for inner in ast.walk(node)
            if isinstance(inner, ast.Name | ast.Attribute)]


def review(code: Path) -> list[str]:
    """The suspicious lines of every Python file below `code`, with the file's path."""
    found = []
    for path in sorted(code.rglob("*.py")):
        name = path.relative_to(code).as_posix()
        try:
            tree = ast.parse(path.read_bytes())
            found += [f"{name} {line}" for line in suspicious_lines(tree)]
        except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError) as error:
            found.append(f"{name} cannot be parsed: {type(error).__name__}")
    return found


def suspicious_lines(tree: ast.Module) -> list[str]:
    """Lines for staff to review, e.g. `line 12: imports ctypes`."""
    imported = imported_names(tree)
    found = [(node.lineno, what) for node in ast.walk(tree) if hasattr(node, "lineno")
             for what in [*suspicious_import(node), *suspicious_name(node, imported), *suspicious_call(node, imported)]]
    return [f"line {line}: {what}" for line, what in sorted(set(found))]


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Each name that an import binds, and the module or the attribute that it stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def suspicious_import(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [f"imports {alias.name}" for alias in node.names if is_suspicious(alias.name)]
    if not isinstance(node, ast.ImportFrom):
        return []
    module, names = node.module or "", {alias.name for alias in node.names}
    odd = SUSPICIOUS["attributes"] & {*names, *module.split(".")} or (module == "os" and names - PLAIN_OS)
    return [f"imports {', '.join(sorted(names))} from {node.module}"] if odd or is_suspicious(module) else []


def is_suspicious(name: str) -> bool:
    """Whether a dotted module name or one of its parents is suspicious, e.g. torch._C or torchvision.ops."""
    words = name.split(".")
    return words[0] in SUSPICIOUS["modules"] or bool(SUSPICIOUS["attributes"] & set(words[1:]))


def suspicious_name(node: ast.AST, imported: dict[str, str]) -> list[str]:
    """Suspicious attributes, also in strings and patterns, and assignments into anything imported."""
    if isinstance(node, ast.Attribute):
        of_os = isinstance(node.value, ast.Name) and imported.get(node.value.id) == "os" and node.attr not in PLAIN_OS
        if of_os or node.attr in SUSPICIOUS["attributes"]:
            return [f"uses {dotted_name(node)}"]
    if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
        name = dotted_name(node)
        return [f"replaces {name}"] if name.split(".")[0] in imported and "." in name else []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [f"a string with {word}" for word in DUNDER.findall(node.value) if word in SUSPICIOUS["attributes"]]
    if isinstance(node, ast.MatchClass) and SUSPICIOUS["attributes"] & set(node.kwd_attrs):
        return ["matches suspicious attributes"]
    return []


def suspicious_call(node: ast.AST, imported: dict[str, str]) -> list[str]:
    """Calls of functions that look into the interpreter, or that read or set attributes whose name is computed."""
    if not isinstance(node, ast.Call):
        return []
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "format_map"):
        return [] if isinstance(node.func.value, ast.Constant) else ["calls format() of a computed string"]
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name in SUSPICIOUS["calls"]:
        return [f"calls {name}()"]
    if name not in ("getattr", "setattr", "delattr"):
        return []
    plain = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    if not plain or str(node.args[1].value) in SUSPICIOUS["attributes"]:
        return [f"calls {name}() with a computed or suspicious name"]
    return [f"replaces {dotted_name(node.args[0])}.{node.args[1].value}"] if (
        name != "getattr" and dotted_name(node.args[0]).split(".")[0] in imported) else []


def dotted_name(node: ast.AST) -> str:
    """a.b.c for an expression of attributes, calls and subscripts on a name; iterative, so deep nesting is safe."""
    words: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        if isinstance(node, ast.Attribute):
            words.append(node.attr)
        node = node.func if isinstance(node, ast.Call) else node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "...", *reversed(words)])[:60]
