"""Rewritings that change no meaning. Each takes a syntax tree and a random generator and changes the tree in place."""

import ast
import copy
import random
from collections.abc import Iterator

TENSOR_METHODS = "softmax", "argmin", "argmax", "sign", "clamp", "matmul", "transpose", "flatten", "unbind", "clone"
PACKED = "permute", "reshape"  # torch.permute takes its sizes as a tuple
KEPT_ATTRIBUTES = {
    "qkv",
    "proj",
    "scale",
    "num_heads",
    "training",
    "weight",
    "bias",
    "loss_fn",
    "num_steps",
    "step_size",
    "epsilon",
    "features",
    "avgpool",
    "fc",
    "data",
    "grad",
    "requires_grad",
}  # others use these names


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def arguments(function: ast.FunctionDef) -> set[str]:
    return {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}


def names(node: ast.AST, context: type) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, context)}


def blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    """Every list of statements inside a function."""
    for function in functions(tree):
        for node in ast.walk(function):
            for field in ("body", "orelse", "finalbody"):
                if isinstance(getattr(node, field, None), list) and not isinstance(node, ast.Lambda):
                    yield getattr(node, field)


def rename_variables(tree: ast.Module, rng: random.Random) -> None:
    """Every local variable gets another name."""
    for function in functions(tree):
        inner = set().union(*[arguments(other) for other in functions(function)])
        suffix = rng.choice(("_", "_new", "2", "_value"))
        renamed = {name: name + suffix for name in names(function, ast.Store) - inner if not name.startswith("__")}
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id in renamed:
                node.id = renamed[node.id]


def rename_attributes(tree: ast.Module, rng: random.Random) -> dict[str, str]:
    """Attributes that the class sets itself get other names. Returns {new: old}."""
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
           and isinstance(node.value, ast.Name) and node.value.id in ("self", "ctx")} - KEPT_ATTRIBUTES
    prefix = rng.choice(("my_", "the_", "m_"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in own and isinstance(node.value, ast.Name) \
                and node.value.id in ("self", "ctx"):
            node.attr = prefix + node.attr
    return {prefix + name: name for name in own}


def name_results(tree: ast.Module, rng: random.Random) -> None:
    """return f(x) becomes result = f(x); return result."""
    for block in list(blocks(tree)):
        if block and isinstance(block[-1], ast.Return) and isinstance(block[-1].value, (ast.Call, ast.BinOp)):
            block[-1:] = [ast.Assign([ast.Name("result", ast.Store())], block[-1].value),
                          ast.Return(ast.Name("result", ast.Load()))]


def take_apart(tree: ast.Module, rng: random.Random) -> None:
    """The first argument or the receiver of a call, or the left operand, gets a line of its own."""
    count = 0
    for block in list(blocks(tree)):
        for i in reversed(range(len(block))):
            value = block[i].value if isinstance(block[i], (ast.Assign, ast.Return)) else None
            place = _first_evaluated(value)
            if place is not None and rng.random() < 0.7:
                holder, field, index = place
                count += 1
                name = f"step_{count}"
                inner = getattr(holder, field) if index is None else getattr(holder, field)[index]
                new = ast.Name(name, ast.Load())
                if index is None:
                    setattr(holder, field, new)
                else:
                    getattr(holder, field)[index] = new
                block.insert(i, ast.Assign([ast.Name(name, ast.Store())], inner))


def _first_evaluated(value: ast.expr | None):
    """(holder, field, index) of the call or product inside `value` that runs first, if there is one."""
    if isinstance(value, ast.BinOp) and isinstance(value.left, (ast.Call, ast.BinOp)):
        return value, "left", None
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        if isinstance(value.func.value, (ast.Call, ast.BinOp)) and "super" not in ast.unparse(value.func.value):
            return value.func, "value", None
        if isinstance(value.func.value, ast.Name) and value.args and isinstance(value.args[0], (ast.Call, ast.BinOp)):
            return value, "args", 0
    return None


class _Expressions(ast.NodeTransformer):
    def __init__(self, rewrite, rng: random.Random):
        self.rewrite, self.rng = rewrite, rng

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        new = self.rewrite(node) if isinstance(node, ast.expr) and self.rng.random() < 0.8 else None
        return node if new is None else new


def _namespace(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("torch", "F", "nn", "copy")


def call_functions(tree: ast.Module, rng: random.Random) -> None:
    """x.softmax(...) becomes torch.softmax(x, ...), x @ y becomes torch.matmul(x, y)."""
    def rewrite(node):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            return ast.Call(_torch("matmul"), [node.left, node.right], [])
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)) or _namespace(node.func.value):
            return None
        name, receiver = node.func.attr, node.func.value
        if name in TENSOR_METHODS:
            return ast.Call(_torch(name), [receiver, *node.args], node.keywords)
        if name in PACKED and len(node.args) > 1 and not any(isinstance(arg, ast.Starred) for arg in node.args):
            return ast.Call(_torch(name), [receiver, ast.Tuple(node.args, ast.Load())], [])
        return None
    _Expressions(rewrite, rng).visit(tree)


def _torch(name: str) -> ast.expr:
    return ast.Attribute(ast.Name("torch", ast.Load()), name, ast.Load())


def commute(tree: ast.Module, rng: random.Random) -> None:
    """a + b becomes b + a, a * b becomes b * a; not for lists, nor where both sides call something."""
    def rewrite(node):
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, (ast.Add, ast.Mult)):
            return None
        sides = node.left, node.right
        if any(isinstance(side, (ast.List, ast.ListComp, ast.Tuple, ast.Starred)) for side in sides) or all(
                any(isinstance(inner, ast.Call) for inner in ast.walk(side)) for side in sides):
            return None
        return ast.BinOp(node.right, node.op, node.left)
    _Expressions(rewrite, rng).visit(tree)


def turn_branches(tree: ast.Module, rng: random.Random) -> None:
    """if c: A else: B becomes if not c: B else: A; what follows an `if` that returns becomes its else."""
    def rewrite(node):
        return ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.orelse, node.body) if isinstance(
            node, ast.IfExp) else None
    _Expressions(rewrite, rng).visit(tree)
    for block in list(blocks(tree)):
        for i, this in enumerate(block):
            if isinstance(this, ast.If) and isinstance(this.body[-1], ast.Return) and not this.orelse and block[i + 1:]:
                this.orelse, block[i + 1:] = block[i + 1:], []
            if isinstance(this, ast.If) and this.orelse:
                this.test = ast.UnaryOp(ast.Not(), this.test)
                this.body, this.orelse = this.orelse, this.body
                break


def while_loops(tree: ast.Module, rng: random.Random) -> None:
    """for i in range(n) becomes a while loop, where nothing continues or breaks."""
    count = 0
    for block in list(blocks(tree)):
        for i in reversed(range(len(block))):
            this = block[i]
            if isinstance(this, ast.For) and ast.unparse(this.iter).startswith("range(") and len(
                    this.iter.args) == 1 and not any(isinstance(x, (ast.Continue, ast.Break)) for x in ast.walk(this)):
                count += 1
                head = ast.parse(f"round_{count} = 0\nwhile round_{count} < {ast.unparse(this.iter.args[0])}:\n"
                                 f"    {ast.unparse(this.target)} = round_{count}\n    round_{count} += 1").body
                head[1].body += this.body
                block[i:i + 1] = head


def unroll_lists(tree: ast.Module, rng: random.Random) -> None:
    """x = [f(y) for y in z] becomes a loop that appends."""
    for block in list(blocks(tree)):
        for i in reversed(range(len(block))):
            this = block[i]
            if isinstance(this, ast.Assign) and isinstance(this.value, ast.ListComp) and isinstance(
                    this.targets[0], ast.Name) and len(this.value.generators) == 1 and not this.value.generators[0].ifs:
                name, made = this.targets[0].id, this.value
                loop = ast.parse(f"{name} = []\nfor {ast.unparse(made.generators[0].target)} in "
                                 f"{ast.unparse(made.generators[0].iter)}:\n    {name}.append({ast.unparse(made.elt)})")
                block[i:i + 1] = loop.body


def helper_functions(tree: ast.Module, rng: random.Random) -> None:
    """What some lines assign is computed by functions of the module."""
    made = []
    for function in functions(tree):
        local = arguments(function) | names(function, ast.Store)
        inner = {node.name for node in ast.walk(function) if isinstance(node, (ast.FunctionDef, ast.alias))}
        for node in ast.walk(function):
            if not (isinstance(node, ast.Assign) and isinstance(node.value, (ast.Call, ast.BinOp))):
                continue
            inside = {type(inner) for inner in ast.walk(node.value)}
            free = sorted(names(node.value, ast.Load) & local)
            if "super" in ast.unparse(node.value) or inside & {ast.ListComp, ast.GeneratorExp, ast.Lambda} or \
                    not free or names(node.value, ast.Load) & inner or rng.random() < 0.4:
                continue
            name = f"helper_{len(made) + 1}"
            made.append(ast.parse(f"def {name}({', '.join(free)}):\n    return {ast.unparse(node.value)}").body[0])
            node.value = ast.parse(f"{name}({', '.join(free)})", mode="eval").body
    tree.body[:0] = made


def mixin(tree: ast.Module, rng: random.Random) -> None:
    """The methods but for __init__ move to a class of their own, from which the class inherits."""
    for i in reversed(range(len(tree.body))):
        this = tree.body[i]
        moved = [node for node in getattr(this, "body", []) if isinstance(node, ast.FunctionDef)
                 and node.name != "__init__"]
        if isinstance(this, ast.ClassDef) and moved:
            this.body = [node for node in this.body if node not in moved] or [ast.Pass()]
            this.bases.insert(0, ast.Name(f"{this.name}Methods", ast.Load()))
            tree.body.insert(i, ast.ClassDef(f"{this.name}Methods", [], [], moved, [], type_params=[]))


def reorder(tree: ast.Module, rng: random.Random) -> None:
    """Neighbouring assignments that do not use each other's names change places."""
    for block in list(blocks(tree)):
        for i in range(len(block) - 1):
            first, second = block[i], block[i + 1]
            if isinstance(first, ast.Assign) and isinstance(second, ast.Assign) and _independent(first, second) \
                    and rng.random() < 0.6:
                block[i], block[i + 1] = second, first


def _independent(first: ast.Assign, second: ast.Assign) -> bool:
    stored = [{ast.unparse(target) for target in this.targets for target in _flat(target)} for this in (first, second)]
    used = [{ast.unparse(node) for node in ast.walk(this.value) if isinstance(node, (ast.Name, ast.Attribute))}
            for this in (first, second)]
    calls = [any(isinstance(node, ast.Call) and ast.unparse(node.func) in ("model", "super().forward", "self.eval")
                 for node in ast.walk(this)) for this in (first, second)]
    return not (stored[0] & used[1] or stored[1] & used[0] or stored[0] & stored[1] or any(calls)
                or any("self" in found and "(self" in ast.unparse(this) for found, this in zip(used, (second, first))))


def _flat(target: ast.expr) -> list[ast.expr]:
    return [inner for part in target.elts for inner in _flat(part)] if isinstance(target, ast.Tuple) else [target]


def document(tree: ast.Module, rng: random.Random) -> None:
    """Docstrings, and a variable that nobody needs."""
    for function in functions(tree):
        words = ast.Expr(ast.Constant(f"{function.name} of the homework."))
        function.body[:0] = [words, *copy.deepcopy(ast.parse("unused = None").body)]


REWRITINGS = [rename_variables, rename_attributes, name_results, take_apart, call_functions, commute, turn_branches,
              while_loops, unroll_lists, helper_functions, mixin, reorder, document]
