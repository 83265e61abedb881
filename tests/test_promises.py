"""docs/promises.md names a test for each promise; here each of them exists, and looks at something."""

import ast
import re
from functools import cache

import pytest
from conftest import ROOT

TEXT = (ROOT / "docs/promises.md").read_text()
NAMED = re.findall(r"`(tests/\w+\.py)::(\w+)`", TEXT)


@cache
def functions(file: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_exists_and_can_fail(file, name):
    assert (ROOT / file).exists(), f"{file} is not there"
    assert name in functions(file), f"{file} has no {name}"
    checks = [node for node in ast.walk(functions(file)[name]) if isinstance(node, ast.Assert)]
    raises = "pytest.raises" in ast.unparse(functions(file)[name])
    helpers = {node.func.id for node in ast.walk(functions(file)[name]) if isinstance(node, ast.Call)
               and isinstance(node.func, ast.Name)} & set(functions(file))
    assert checks or raises or any("assert" in ast.unparse(functions(file)[helper]) for helper in helpers)


def test_every_row_names_a_test():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "held by" not in line]
    assert len(rows) > 30
    assert [row for row in rows if not re.search(r"`tests/\w+\.py::\w+`", row)] == []


def test_slow_ones_are_called_slow():
    """In the row, or in the sentence above its table."""
    for section in TEXT.split("\n## ")[1:]:
        for row in (line for line in section.splitlines() if line.startswith("| ")):
            slow = [name for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", row)
                    if any(ast.unparse(mark) in ("slow", "pytest.mark.slow") for mark in
                           functions(file)[name].decorator_list)]
            assert not slow or "slow" in row or "All *slow*" in section, f"{slow} are slow"
