"""Pairs of submissions whose code is alike, by fingerprints of normalised syntax trees.

Names, constants, comments, annotations and the order of functions do not count, nor does the code that students are
given. Fingerprints are chosen by winnowing (Schleimer, Wilkerson and Aiken, SIGMOD 2003), per function.
"""

import ast
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from autograder import rubric
from autograder.batch import find_submissions, what_it_is
from autograder.intake import MAX_SOURCE, CannotGrade, read_submission
from autograder.solution import student_text, write_starter_files
from autograder.text import printable

GRAM, WINDOW = 8, 4  # nodes in a fingerprint; of each WINDOW following ones at least one is kept
ENOUGH = 30  # fingerprints of one's own; fewer are alike by chance. The solution has about 450
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "bases", "ctx", "type_comment", "type_params", "kind"}
SILENT = ast.Expr | ast.keyword | ast.arguments  # nodes without a meaning of their own


@dataclass
class Program:
    """The fingerprints of one submission, or the reason why it has none."""

    name: str
    functions: dict[str, set[int]] = field(default_factory=dict)  # "file.py: Class.method" -> fingerprints
    sources: dict[str, str] = field(default_factory=dict)  # the text of each
    reason: str = ""

    @property
    def fingerprints(self) -> set[int]:
        return set().union(*self.functions.values())

    def without(self, given: set[int]) -> "Program":
        """The same without fingerprints that are in `given`, and with a reason if too few are left."""
        own = {name: prints - given for name, prints in self.functions.items()}
        program = Program(self.name, {name: prints for name, prints in own.items() if prints}, self.sources,
                          self.reason)
        if not self.reason and len(program.fingerprints) < ENOUGH:
            program.reason = "too little code of its own to compare"
        return program


@dataclass
class Pair:
    """Two programs; `shared` of the smaller one's `size` fingerprints are in the other one."""

    first: Program
    second: Program
    shared: int
    size: int

    @property
    def similarity(self) -> float:
        return self.shared / self.size

    def functions(self, least: float = 0.5) -> list[tuple[float, str, str]]:
        """(similarity, name, name) of each function of `first` and the most similar one of `second`, largest first."""
        found = []
        for name in self.first.functions.keys() & self.first.sources:
            prints = self.first.functions[name]
            alike = {other: len(prints & theirs) / max(len(prints), len(theirs))
                     for other, theirs in self.second.functions.items() if other in self.second.sources}
            best = max(alike, key=alike.get, default=None)
            if best is not None and alike[best] >= least:
                found.append((alike[best], name, best))
        return sorted(found, key=lambda match: -match[0] * len(self.first.functions[match[1]]))


def compare(folder: Path, against: list[Path], given: list[Path], least: float) -> tuple[list[Pair], list[Program]]:
    """The pairs in `folder`, and of it and the folders `against`, of at least that similarity; and all programs.

    `given`: further code that students got, as a .py file, zip or folder. Raises CannotGrade.
    """
    with tempfile.TemporaryDirectory(prefix="similar-") as scratch:
        starter = write_starter_files(Path(scratch))
    known = [fingerprints_of("student_code.py", student_text(year))[0] for year in rubric.YEARS]
    for path in given:
        program = read_program(path, path.name, {})
        if program.reason:
            raise CannotGrade(f"--given {path}: {program.reason}")
        known.append(program.functions)
    prints = set().union(*(one for functions in known for one in functions.values()))
    own = [read_program(path, path.name, starter).without(prints) for path in find_submissions(folder, [])]
    earlier = [read_program(path, f"{there.name}/{path.name}", starter).without(prints) for there in against
               for path in find_submissions(there, [])]
    return sorted(pairs(own, earlier, least), key=lambda pair: -pair.similarity), own + earlier


def pairs(own: list[Program], earlier: list[Program], least: float) -> Iterator[Pair]:
    """The pairs of two of `own`, and of one of `own` and one of `earlier`, of at least that similarity."""
    ready = [(program, program.fingerprints) for program in own + earlier if not program.reason]
    count = sum(not program.reason for program in own)
    for index, (first, prints) in enumerate(ready[:count]):
        for second, theirs in ready[index + 1 :]:
            shared, size = len(prints & theirs), min(len(prints), len(theirs))
            if shared >= least * size:
                yield Pair(first, second, shared, size)


def read_program(path: Path, name: str, starter: dict[str, str]) -> Program:
    """The program in a .py file, zip or folder, without the files of the starter."""
    program = Program(printable(name))
    try:
        if kind := what_it_is(path):
            raise CannotGrade(f"is {kind}, not a zip or a folder")
        for file, text in source_texts(path, starter):
            functions, sources = fingerprints_of(file, text)
            program.functions |= functions
            program.sources |= sources
    except (CannotGrade, OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        program.reason = printable(str(error) or f"cannot be parsed: {type(error).__name__}")
    return program


def source_texts(path: Path, starter: dict[str, str]) -> list[tuple[str, str]]:
    """(name, text) of each Python file that is the student's. Raises CannotGrade, or what decoding raises."""
    if path.suffix == ".py" and path.is_file():
        if path.stat().st_size > MAX_SOURCE:
            raise CannotGrade(f"{path.name} has more than {MAX_SOURCE >> 10} kB: too large for this homework")
        return [(path.name, path.read_text(encoding="utf-8-sig"))]
    with tempfile.TemporaryDirectory(prefix="similar-") as scratch:
        submission = read_submission(path, Path(scratch), starter)
        if submission.fatal:
            raise CannotGrade(submission.fatal)
        return [(file.relative_to(scratch).as_posix(), file.read_text(encoding="utf-8-sig"))
                for file in sorted(Path(scratch).rglob("*.py"))]


def fingerprints_of(file: str, text: str) -> tuple[dict[str, set[int]], dict[str, str]]:
    """{function: fingerprints} and {function: source} of a file; what is outside of functions is in "(module)"."""
    tree, lines = ast.parse(text), text.splitlines()
    names, functions, sources = Names(tree), {}, {}
    queue = [("(module)", tree, "")]
    while queue:
        title, root, own = queue.pop()
        nodes, inner = tokens(root, own, names)
        for node in inner:
            arguments = node.args.posonlyargs + node.args.args if isinstance(node, FUNCTIONS) else []
            is_method = isinstance(root, ast.ClassDef) and arguments
            queue.append((node.name if root is tree else f"{title}.{node.name}", node,
                          arguments[0].arg if is_method else own))
        key = f"{file}: {title}"
        functions[key] = functions.get(key, set()) | winnow(nodes)
        if isinstance(root, FUNCTIONS):
            sources[key] = "\n".join(lines[root.lineno - 1 : root.end_lineno])
    return functions, sources


class Names:
    """What the names of a file stand for."""

    def __init__(self, tree: ast.Module):
        self.defined: set[str] = set()  # by the file itself, and free to be renamed
        self.imported: dict[str, str] = {}  # name here -> name in its module, "" for a module
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self.imported |= {(alias.asname or alias.name).split(".")[0]: "" for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                self.imported |= {alias.asname or alias.name: alias.name for alias in node.names}
            elif isinstance(node, FUNCTIONS | ast.ClassDef):
                self.defined.add(node.name)
            elif isinstance(node, ast.arg):
                self.defined.add(node.arg)
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self.defined.add(node.id)


def tokens(root: ast.AST, own: str, names: Names) -> tuple[list[str], list[ast.AST]]:
    """The nodes below `root` in order, as words, and the functions and classes in it, whose nodes are left out.

    `own`: the first argument of the method, whose attributes are free to be renamed. Iterative: trees may be deep.
    """
    words, inner, stack = [], [], children(root)[::-1]
    while stack:
        node = stack.pop()
        if isinstance(node, FUNCTIONS | ast.ClassDef):
            inner.append(node)
        elif not isinstance(node, ast.Import | ast.ImportFrom) and not is_docstring(node):
            words.append(token(node, own, names))
            stack += children(node)[::-1]
    return [word for word in words if word], inner


def children(node: ast.AST) -> list[ast.AST]:
    values = [getattr(node, name, None) for name in node._fields if name not in SKIPPED_FIELDS]
    listed = [value if isinstance(value, list) else [value] for value in values]
    return [child for value in listed for child in value if isinstance(child, ast.AST)]


def is_docstring(node: ast.AST) -> bool:
    """Whether a node is an expression that only says something."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def token(node: ast.AST, own: str, names: Names) -> str:
    """The word for a node: the names of libraries stay, one's own are all alike, and so are constants of one type."""
    if isinstance(node, ast.Name):
        return "name" if node.id in names.defined else names.imported.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return "attribute" if isinstance(node.value, ast.Name) and node.value.id == own else node.attr
    if isinstance(node, ast.Constant):
        return type(node.value).__name__
    return "" if isinstance(node, SILENT) else type(node).__name__


def winnow(words: list[str]) -> set[int]:
    """The smallest of each WINDOW following hashes of GRAM words: two lists that share 11 words in a row share one."""
    if len(words) < GRAM:
        return set()
    ids = np.array([zlib.crc32(word.encode(errors="replace")) for word in words], np.uint64)
    powers = np.array([pow(0x9E3779B97F4A7C15, place + 1, 1 << 64) for place in range(GRAM)], np.uint64)
    hashes = (sliding_window_view(ids, GRAM) * powers).sum(axis=1, dtype=np.uint64)
    hashes = (hashes ^ hashes >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)  # or the last words decide what is kept
    return set(sliding_window_view(hashes, min(WINDOW, len(hashes))).min(axis=1).tolist())
