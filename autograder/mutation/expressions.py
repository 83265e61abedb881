"""Mutation operators on expressions. Each yields (description, replacement) for one node of the syntax tree.

They are general, after those of the mutation-testing literature (Jia & Harman 2011), and know nothing of the checks.
"""

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

Found = Iterator[tuple[str, ast.expr]]


class Scope(NamedTuple):
    """What a replacement may name: the class's attributes and the variables of the enclosing function."""

    attributes: list[str]
    variables: list[str]


ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
              ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult}
COMPARISONS = {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
               ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq, ast.LtE), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,),
               ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,)}
EXCHANGED = {"argmin": "argmax", "min": "max", "minimum": "maximum", "train": "eval", "sum": "mean", "sign": "tanh",
             "zeros": "ones", "zeros_like": "ones_like", "flatten": "unsqueeze", "softmax": "log_softmax",
             "ModuleList": "Sequential", "enable_grad": "no_grad", "any": "all", "fold": "unfold"}
EXCHANGED |= {new: old for old, new in EXCHANGED.items()}
IN_PLACE = "add", "sub", "mul", "div", "clamp", "relu", "sign", "squeeze", "unsqueeze", "transpose"


def arithmetic(node: ast.AST, scope: Scope) -> Found:
    """+ to -, * to /, and the like."""
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield "operator exchanged", ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)


def operand(node: ast.AST, scope: Scope) -> Found:
    """Drop a term or factor, or exchange both."""
    if isinstance(node, ast.BinOp):
        yield "right operand dropped", node.left
        yield "left operand dropped", node.right
        if not isinstance(node.op, (ast.Add, ast.Mult)):
            yield "operands exchanged", ast.BinOp(node.right, node.op, node.left)


def sign(node: ast.AST, scope: Scope) -> Found:
    """Drop a minus, or put one before a call or a product."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "minus dropped", node.operand
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.MatMult)):
        yield "minus put before", ast.UnaryOp(ast.USub(), node)


def drop_call(node: ast.AST, scope: Scope) -> Found:
    """x.f(...) to x, f(x, ...) to x: .clone(), .detach(), .sign(), a norm, a layer."""
    if not isinstance(node, ast.Call):
        return
    function = node.func
    if isinstance(function, ast.Attribute) and not _is_namespace(function.value):
        yield f".{function.attr}() dropped", function.value
    elif node.args and not isinstance(node.args[0], ast.Starred):
        yield f"{ast.unparse(function)} dropped", node.args[0]


def _is_namespace(node: ast.expr) -> bool:
    """torch, F, nn, self, super(): x in x.f() is no argument of f."""
    name = node.func if isinstance(node, ast.Call) else node
    while isinstance(name, ast.Attribute):
        name = name.value
    own = isinstance(node, ast.Name) or (isinstance(name, ast.Name) and name.id in ("torch", "nn", "super"))
    return own and isinstance(name, ast.Name) and name.id in ("torch", "F", "nn", "self", "super", "ctx")


def arguments(node: ast.AST, scope: Scope) -> Found:
    """Exchange neighbouring arguments (axes of permute among them); leave one out, so that its default holds."""
    if not isinstance(node, ast.Call):
        return
    for i in range(len(node.args) - 1):
        swapped = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2:]]
        yield f"arguments {i + 1} and {i + 2} exchanged", ast.Call(node.func, swapped, node.keywords)
    if len(node.args) > 1:
        yield "last argument left out", ast.Call(node.func, node.args[:-1], node.keywords)
    for keyword in node.keywords:
        rest = [other for other in node.keywords if other is not keyword]
        yield f"argument {keyword.arg or '**'} left out", ast.Call(node.func, node.args, rest)


def elements(node: ast.AST, scope: Scope) -> Found:
    """Exchange neighbours of a tuple: B, H, W, C = x.shape, or what is returned."""
    if isinstance(node, ast.Tuple):
        for i in range(len(node.elts) - 1):
            swapped = [*node.elts[:i], node.elts[i + 1], node.elts[i], *node.elts[i + 2:]]
            yield f"elements {i + 1} and {i + 2} exchanged", ast.Tuple(swapped, node.ctx)


def constant(node: ast.AST, scope: Scope) -> Found:
    """n to n + 1, n - 1 and 0; a fraction doubled, halved and 0; True to False."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, (bool, int, float)):
        return
    value = node.value
    if isinstance(value, bool):
        changed = [not value]
    else:
        changed = [value * 2, value / 2, 0.0] if isinstance(value, float) else [value + 1, value - 1, 0]
    for new in dict.fromkeys(changed):
        if new != value:
            yield f"{value} to {new}", ast.Constant(new)


def comparison(node: ast.AST, scope: Scope) -> Found:
    """Off by one, or negated."""
    if isinstance(node, ast.Compare):
        for new in COMPARISONS.get(type(node.ops[0]), ()):
            yield "comparison changed", ast.Compare(node.left, [new(), *node.ops[1:]], node.comparators)


def condition(node: ast.AST, scope: Scope) -> Found:
    """A conditional expression always takes one branch; `and` to `or`, and one side only."""
    if isinstance(node, ast.IfExp):
        yield "always the first branch", node.body
        yield "always the second branch", node.orelse
    if isinstance(node, ast.BoolOp):
        yield "and, or exchanged", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield "first condition only", node.values[0]


def attribute(node: ast.AST, scope: Scope) -> Found:
    """self.x to the class's attributes before and after it."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in scope.attributes:
        i = scope.attributes.index(node.attr)
        for other in dict.fromkeys((scope.attributes[i - 1], scope.attributes[(i + 1) % len(scope.attributes)])):
            if other != node.attr:
                yield f".{node.attr} to .{other}", ast.Attribute(node.value, other, node.ctx)


def variable(node: ast.AST, scope: Scope) -> Found:
    """A variable to the next one of the function: H to W, q to k."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in scope.variables:
        other = scope.variables[(scope.variables.index(node.id) + 1) % len(scope.variables)]
        if other != node.id:
            yield f"{node.id} to {other}", ast.Name(other, node.ctx)


def exchanged_name(node: ast.AST, scope: Scope) -> Found:
    """argmin to argmax, min to max, train to eval, sum to mean, ..."""
    if isinstance(node, ast.Attribute) and node.attr in EXCHANGED:
        yield f"{node.attr} to {EXCHANGED[node.attr]}", ast.Attribute(node.value, EXCHANGED[node.attr], node.ctx)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in EXCHANGED:
        yield f"{node.id} to {EXCHANGED[node.id]}", ast.Name(EXCHANGED[node.id], node.ctx)


def in_place(node: ast.AST, scope: Scope) -> Found:
    """x.clamp(...) to x.clamp_(...)."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in IN_PLACE:
        renamed = ast.Attribute(node.func.value, node.func.attr + "_", node.func.ctx)
        yield f"{node.func.attr} in place", ast.Call(renamed, node.args, node.keywords)


def cut_graph(node: ast.AST, scope: Scope) -> Found:
    """.detach() behind a layer's call or a tensor method, .data behind an attribute that is called or used."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr not in (
            "detach", "__init__", "range", "size", "dim", "append", "parameters", "modules", "eval", "train"):
        yield ".detach() put behind", _method(node, "detach")
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in scope.attributes:
        yield ".data put behind", ast.Attribute(node, "data", ast.Load())


def loop_range(node: ast.AST, scope: Scope) -> Found:
    """range(n) to range(n - 1), range(n // 2), range(n + 1)."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        for op, by in ((ast.Sub(), 1), (ast.Add(), 1), (ast.FloorDiv(), 2)):
            bound = ast.BinOp(node.args[-1], op, ast.Constant(by))
            yield "other number of rounds", ast.Call(node.func, [*node.args[:-1], bound], [])


def subscript(node: ast.AST, scope: Scope) -> Found:
    """Drop an index, or a bound of a slice."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield "index dropped", node.value
    if isinstance(node, ast.Slice) and (node.lower or node.upper):
        yield "bounds dropped", ast.Slice(None, None, node.step)


def _method(value: ast.expr, name: str) -> ast.expr:
    return ast.Call(ast.Attribute(copy.deepcopy(value), name, ast.Load()), [], [])


OPERATORS = [arithmetic, operand, sign, drop_call, arguments, elements, constant, comparison, condition, attribute,
             variable, exchanged_name, in_place, cut_graph, loop_range, subscript]
