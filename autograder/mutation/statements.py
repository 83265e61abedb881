"""Mutation operators on statements. Each yields (description, new block) for statement `i` of a block."""

import ast
from collections.abc import Iterator

from autograder.mutation.expressions import Scope

Block = list[ast.stmt]
Found = Iterator[tuple[str, Block]]
FORGETFUL = ast.Assign, ast.AugAssign, ast.Expr, ast.Return


def _with(block: Block, i: int, *new: ast.stmt, count: int = 1) -> Block:
    """`block` with `count` statements from `i` on replaced by `new`; never empty."""
    return [*block[:i], *new, *block[i + count:]] or [ast.Pass()]


def remove(block: Block, i: int, scope: Scope) -> Found:
    """Leave a statement out."""
    yield "removed", _with(block, i)


def exchange(block: Block, i: int, scope: Scope) -> Found:
    """Exchange a statement and the next."""
    if i + 1 < len(block):
        yield "exchanged with the next", _with(block, i, block[i + 1], block[i], count=2)


def twice(block: Block, i: int, scope: Scope) -> Found:
    """Run a statement twice."""
    if isinstance(block[i], (ast.Assign, ast.AugAssign, ast.Expr)):
        yield "runs twice", _with(block, i, block[i], block[i])


def branch(block: Block, i: int, scope: Scope) -> Found:
    """An if always, never, or the other way round; a with or try without its frame."""
    this = block[i]
    if isinstance(this, ast.If):
        yield "condition negated", _with(block, i, ast.If(ast.UnaryOp(ast.Not(), this.test), this.body, this.orelse))
        yield "always", _with(block, i, *this.body)
        yield "never", _with(block, i, *this.orelse)
    elif isinstance(this, ast.With):
        yield "without its context", _with(block, i, *this.body)
    elif isinstance(this, ast.Try):
        yield "without its finally", _with(block, i, *this.body)


def loop(block: Block, i: int, scope: Scope) -> Found:
    """Break at the end of a loop; move a line out of it, before or behind; one into it."""
    this = block[i]
    if not isinstance(this, (ast.For, ast.While)):
        return

    def with_body(body: Block) -> ast.stmt:
        fields = dict(ast.iter_fields(this))
        return type(this)(**{**fields, "body": body or [ast.Pass()]})

    yield "break at its end", _with(block, i, with_body([*this.body, ast.Break()]))
    for j, line in enumerate(this.body):
        rest = with_body(this.body[:j] + this.body[j + 1:])
        yield f"line {j + 1} moved before the loop", _with(block, i, line, rest)
        yield f"line {j + 1} moved behind the loop", _with(block, i, rest, line)
    if i and isinstance(block[i - 1], ast.Assign):
        yield "the line before moved inside", _with(block, i - 1, with_body([block[i - 1], *this.body]), count=2)
    if i + 1 < len(block) and isinstance(block[i + 1], (ast.Assign, ast.Expr)):
        yield "the line behind moved inside", _with(block, i, with_body([*this.body, block[i + 1]]), count=2)


def without_gradient(block: Block, i: int, scope: Scope) -> Found:
    """Put no_grad around a line."""
    if isinstance(block[i], FORGETFUL) and "super().__init__" not in ast.unparse(block[i]):
        yield "under no_grad", _with(block, i, ast.With(
            [ast.withitem(ast.parse("torch.no_grad()", mode="eval").body)], [block[i]]))


def augmented(block: Block, i: int, scope: Scope) -> Found:
    """x = x + y to x += y, which changes the caller's tensor; x += y to x = y and to x -= y."""
    this = block[i]
    if isinstance(this, ast.Assign) and isinstance(this.value, ast.BinOp) and ast.unparse(this.targets[0]) in (
            ast.unparse(this.value.left), ast.unparse(this.value.left).split(".")[0]):
        yield "in place", _with(block, i, ast.AugAssign(this.targets[0], this.value.op, this.value.right))
    if isinstance(this, ast.AugAssign):
        yield "assigns", _with(block, i, ast.Assign([this.target], this.value))
        if isinstance(this.op, ast.Add):
            yield "subtracts", _with(block, i, ast.AugAssign(this.target, ast.Sub(), this.value))


def remember(block: Block, i: int, scope: Scope) -> Found:
    """Keep a variable's first value between calls, in the module or on the object."""
    this = block[i]
    if not (isinstance(this, ast.Assign) and isinstance(this.targets[0], ast.Name)):
        return
    name, value = this.targets[0].id, ast.unparse(this.value)
    for holder, words in (("globals()", "in the module"), ("self.__dict__", "on the object")):
        if holder == "globals()" or "self" in scope.variables:
            source = f"{name} = {holder}.setdefault('_kept_{name}', {value})\n"
            yield f"{name} kept {words}", _with(block, i, *ast.parse(source).body)


def through(block: Block, i: int, scope: Scope) -> Found:
    """Put a layer that nobody asked for behind what is assigned or returned."""
    this = block[i]
    if isinstance(this, (ast.Assign, ast.Return)) and isinstance(this.value, (ast.Call, ast.BinOp)):
        for template in ("F.relu({})", "F.dropout({}, 0.1)", "{}.mean(0, keepdim=True)", "{}[:1]"):
            value = ast.parse(template.format(f"({ast.unparse(this.value)})"), mode="eval").body
            new = ast.Return(value) if isinstance(this, ast.Return) else ast.Assign(this.targets, value)
            yield f"through {template.format('it')}", _with(block, i, new)


def negate(block: Block, i: int, scope: Scope) -> Found:
    """The negative of what is assigned or returned."""
    this = block[i]
    if isinstance(this, (ast.Assign, ast.Return)) and isinstance(this.value, (ast.Call, ast.BinOp)):
        value = ast.UnaryOp(ast.USub(), this.value)
        new = ast.Return(value) if isinstance(this, ast.Return) else ast.Assign(this.targets, value)
        yield "negated", _with(block, i, new)


OPERATORS = [remove, exchange, twice, branch, loop, without_gradient, augmented, remember, through, negate]
