"""The correct solutions that mutants are drawn from: the reference's classes and the textbook version of each part."""

import ast
from typing import NamedTuple

from autograder.solution import CODE
from autograder.variants import textbook

PARTS = "convolution", "attention", "block", "vit", "pgd", "adversarial"
# The definitions of student_code.py that belong to each part.
DEFINITIONS = {"convolution": ["CustomConv2DFunction", "compute_dtype"], "attention": ["Attention"],
               "block": ["TransformerBlock"], "vit": ["SimpleViT"], "pgd": ["frozen", "PGDAttack"],
               "adversarial": ["AdvSimpleNet"]}


class Base(NamedTuple):
    """A correct solution of one part: the definitions that replace those of the reference."""

    part: str
    name: str
    source: str


def reference_text() -> str:
    return (CODE / "student_code.py").read_text(encoding="utf-8")


def reference(part: str) -> Base:
    """The reference's definitions of a part, without docstrings and comments."""
    body = [node for node in ast.parse(reference_text()).body if getattr(node, "name", "") in DEFINITIONS[part]]
    return Base(part, "reference", plain(ast.Module(body, [])))


def plain(tree: ast.Module) -> str:
    """The source of a tree without docstrings and annotations of arguments."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            for argument in (*node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def bases(part: str) -> list[Base]:
    tree = ast.parse(textbook.PARTS[part])
    tree.body = [node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    return [reference(part), Base(part, "textbook", plain(tree))]


def splice(source: str, imported: str | None = None) -> str:
    """student_code.py with these definitions in place of its own of the same names; new ones go before the first.

    `imported`: put this line there instead, which imports them.
    """
    text = reference_text()
    new = ast.parse(source)
    names = {node.name for node in new.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    lines, replaced = text.splitlines(), []
    for node in ast.parse(text).body:
        if getattr(node, "name", None) in names:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            replaced.append((first - 1, node.end_lineno))
    if not replaced:
        raise ValueError(f"none of {', '.join(sorted(names))} is defined in student_code.py")
    for begin, end in reversed(replaced[1:]):
        del lines[begin:end]
    begin, end = replaced[0]
    lines[begin:end] = (imported or source.strip("\n")).splitlines()
    return "\n".join(lines) + "\n"
