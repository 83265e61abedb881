"""Draw mutants: every operator at every place of a base, thinned to a number for each part, split into two halves."""

import ast
import difflib
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from autograder.mutation import expressions, statements
from autograder.mutation.bases import PARTS, Base, bases

SALT = "halves of 2025"
HALVES = "development", "held-out"
PER_PART = 150  # mutants drawn for each part, before sifting


class Mutant(NamedTuple):
    part: str
    base: str  # name of the base
    operator: str
    line: str  # the text of the mutated line
    number: int  # of the line in the base's source
    what: str  # one line
    source: str  # definitions, for bases.splice

    @property
    def half(self) -> str:
        return half(self.operator, self.part, self.line)

    def describe(self) -> str:
        return f"{self.part}, {self.base}, line {self.number}: {self.operator}: {self.what}: {self.line}"

    def diff(self, base: Base) -> str:
        lines = difflib.unified_diff(base.source.splitlines(), self.source.splitlines(), lineterm="", n=1)
        return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))


def half(*identity: str) -> str:
    """The half that something belongs to, fixed by a hash of what it is: it does not move when others come or go."""
    return HALVES[digest(SALT, *identity)[0] % 2]


def digest(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode()).digest()


def draw(part: str, count: int | None = PER_PART) -> list[Mutant]:
    """At most `count` mutants of a part, the operators in turn, each operator's in the order of a hash."""
    queues = defaultdict(list)
    for base in bases(part):
        for mutant in mutate(base):
            queues[mutant.operator].append(mutant)
    for queue in queues.values():
        queue.sort(key=lambda mutant: digest(SALT, mutant.source))
    drawn = []
    while any(queues.values()) and (count is None or len(drawn) < count):
        drawn += [queue.pop() for _, queue in sorted(queues.items()) if queue]
    return drawn[:count]


def draw_all(half: str | None = None, only: str | None = None) -> list[Mutant]:
    return [mutant for part in PARTS if (only or "") in part for mutant in draw(part) if half in (None, mutant.half)]


def mutate(base: Base) -> Iterator[Mutant]:
    """Every mutant of a base that is valid Python and differs from it, each text once."""
    seen = {base.source}
    tree = ast.parse(base.source)
    for owner, scope in _functions(tree):
        for operator, number, what, change in _changes(owner, scope):
            undo = change()
            try:
                source = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
            finally:
                undo()
            if source not in seen and _compiles(source):
                seen.add(source)
                line = base.source.splitlines()[number - 1].strip()
                yield Mutant(base.part, base.name, operator, line, number, what, source)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, expressions.Scope]]:
    for top in tree.body:
        attributes = sorted({node.attr for node in ast.walk(top) if isinstance(node, ast.Attribute)
                             and isinstance(node.value, ast.Name) and node.value.id in ("self", "ctx")
                             and isinstance(node.ctx, ast.Store)})
        for node in ast.walk(top):
            if isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in node.args.args]
                stored = [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)
                          and isinstance(inner.ctx, ast.Store)]
                yield node, expressions.Scope(attributes, list(dict.fromkeys([*names, *stored])))


def _changes(function: ast.FunctionDef, scope: expressions.Scope):
    """(operator, line number, description, change) of each place below a function; change() returns its undo()."""
    for parent, field, index, child in _places(function):
        if isinstance(child, ast.stmt):
            block = getattr(parent, field)
            for operator in statements.OPERATORS:
                for what, new in operator(block, index, scope):
                    yield operator.__name__, child.lineno, what, _setter(parent, field, None, new)
        else:
            for operator in expressions.OPERATORS:
                for what, new in operator(child, scope):
                    yield operator.__name__, getattr(child, "lineno", parent.lineno if hasattr(parent, "lineno") else
                                                     function.lineno), what, _setter(parent, field, index, new)


def _setter(parent: ast.AST, field: str, index: int | None, new):
    """A function that puts `new` into a field, or into place `index` of it, and returns one that restores it."""
    def change():
        holder = getattr(parent, field)
        if index is None:
            setattr(parent, field, new)
            return lambda: setattr(parent, field, holder)
        old, holder[index] = holder[index], new
        return lambda: holder.__setitem__(index, old)

    def change_plain():
        old = getattr(parent, field)
        setattr(parent, field, new)
        return lambda: setattr(parent, field, old)

    return change if isinstance(getattr(parent, field), list) else change_plain


def _places(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """(parent, field, index, child) below a function. Messages of errors are no behaviour: `raise` is left alone."""
    waiting = [function]
    while waiting:
        parent = waiting.pop(0)
        for field, value in ast.iter_fields(parent):
            for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(child, (ast.expr, ast.stmt, ast.keyword, ast.comprehension, ast.withitem, ast.arguments)
                              ) and not isinstance(child, (ast.Raise, ast.JoinedStr, ast.FunctionDef)):
                    yield parent, field, index, child
                    waiting.append(child)
