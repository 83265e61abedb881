"""similar: a copy is found whatever it was renamed to, independent solutions are not alike, hostile files get a row."""

import ast
import csv
import random

import pytest
from autograder import __main__ as cli
from autograder import similar
from autograder.solution import CODE, student_text
from autograder.variants import right, textbook
from hand_ins import make_submission

REFERENCE = (CODE / "student_code.py").read_text()
IMPORTS = "\n".join(line for line in REFERENCE.splitlines() if line.startswith(("import ", "from ")))
TEXTBOOK = IMPORTS + "\n" + "\n".join(textbook.PARTS.values())
UNUSUAL = {"convolution": "slices, no unfold", "attention": "einsum", "pgd": "autograd.grad",
           "vit": "own names, zero positions, extra norm, deep head",
           "adversarial": "inside SimpleNet itself, as in 2024",
           "block": "own MLP, own windows, norms in the other order"}
THIRD = "\n".join([IMPORTS, *(variant.source for variant in right.RIGHT if UNUSUAL.get(variant.part) == variant.name)])


class Rename(ast.NodeTransformer):
    """Renames what the file defines, and attributes of self; drops docstrings and annotations; changes numbers."""

    def __init__(self, tree: ast.Module):
        self.names = similar.Names(tree).defined

    def visit_Name(self, node):
        node.id = self.new(node.id)
        return node

    def visit_arg(self, node):
        node.arg, node.annotation = self.new(node.arg), None
        return node

    def visit_Attribute(self, node):
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "ctx"):
            node.attr = f"my_{node.attr}"
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        node.name, node.returns = self.new(node.name), None
        node.body = [inner for inner in node.body if not similar.is_docstring(inner)] or [ast.Pass()]
        return self.generic_visit(node)

    def visit_ClassDef(self, node):
        node.name = self.new(node.name)
        return self.generic_visit(node)

    def visit_Constant(self, node):
        return ast.Constant(node.value + 1) if type(node.value) in (int, float) else node

    def new(self, name: str) -> str:
        return f"my_{name}" if name in self.names else name


def disguised(text: str) -> str:
    """A copy with new names, numbers and layout, no comments, and functions and classes in another order."""
    tree = ast.parse(text)
    tree = Rename(tree).visit(tree)
    first = [node for node in tree.body if not isinstance(node, similar.FUNCTIONS | ast.ClassDef)]
    others = [node for node in tree.body if node not in first]
    random.Random(0).shuffle(others)
    tree.body = first + others
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def alike(folder, **texts) -> dict[tuple[str, str], float]:
    """{(name, name): similarity} of submissions with these texts."""
    for name, text in texts.items():
        make_submission(folder, text, f"{name}.zip")
    pairs, programs = similar.compare(folder, [], [], 0.001)
    assert [program.reason for program in programs] == [""] * len(texts)
    return {(pair.first.name[:-4], pair.second.name[:-4]): round(pair.similarity, 2) for pair in pairs}


def test_a_renamed_copy_is_the_same_program_and_independent_ones_are_near_a_tenth(folder):
    found = alike(folder, a=REFERENCE, b=disguised(REFERENCE), c=TEXTBOOK, d=THIRD)
    assert found["a", "b"] == 1
    assert max(found["a", "c"], found["a", "d"]) < 0.25, found
    assert 0.25 < found["c", "d"] < 0.6, found  # a third of `d` was made from `c`: attention, attack, AdvSimpleNet


def test_one_copied_function_is_shown_beside_its_source(folder):
    attack = textbook.PARTS["pgd"]
    make_submission(folder, THIRD, "ann.zip")
    copied = disguised(attack).replace("my_PGD", "PGD")
    make_submission(folder, THIRD.replace("class PGDAttack", "class Old") + copied, "bob.zip")
    make_submission(folder, IMPORTS + attack + textbook.PARTS["vit"], "cy.zip")
    pairs, _ = similar.compare(folder, [], [], 0.001)
    pair = next(pair for pair in pairs if (pair.first.name, pair.second.name) == ("bob.zip", "cy.zip"))
    assert (1.0, "student_code.py: PGDAttack.my_perturb", "student_code.py: PGDAttack.perturb") in pair.functions()


def test_what_students_were_given_does_not_count(folder, tmp_path):
    for name, year in (("ann", 2022), ("bob", 2025)):
        make_submission(folder, student_text(year), f"{name}.zip")
    pairs, programs = similar.compare(folder, [], [], 0.001)
    assert not pairs
    assert {program.reason for program in programs} == {"too little code of its own to compare"}
    (tmp_path / "given.py").write_text(TEXTBOOK)
    make_submission(folder, disguised(TEXTBOOK), "cy.zip")
    _, programs = similar.compare(folder, [], [tmp_path / "given.py"], 0.001)
    assert programs[-1].reason == "too little code of its own to compare"


HOSTILE = {
    "deep": "x = " + "-" * 200_000 + "1", "attributes": "x" + ".a" * 100_000, "sum": "x = " + "1+" * 100_000 + "1",
    "elif": "if x: pass\n" + "elif x: pass\n" * 15_000, "syntax": "def f(:", "null": "x = 1\0",
    "large": "x = 1\n" * 90_000, "empty": "", "encoding": "# coding: klingon\n", "surrogate": "x = '\\ud800'",
}


def test_hostile_files_get_a_row_with_the_reason(folder, capsys, tmp_path):
    for name, text in HOSTILE.items():
        make_submission(folder, text, f"{name}.zip")
    (folder / "not.zip").write_bytes(b"PK\x03\x04 cut")
    (folder / "link.zip").symlink_to("/dev/zero")
    (folder / "=1+1.pdf").write_bytes(b"%PDF")
    make_submission(folder, REFERENCE, "ann.zip")
    assert cli.main(["similar", str(folder), "--csv", str(tmp_path / "s.csv")]) == 2
    printed = capsys.readouterr().out
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(HOSTILE) + 3
    assert all(row["why"] for row in rows)
    for words in ("not compared: syntax.zip: student_code.py:1 is not valid Python", "has more than 256 kB",
                  "empty.zip: too little code", "link.zip: is a link", "is cut off", "is a PDF"):
        assert words in printed, words
    assert "'=1+1.pdf" in [row["first"] for row in rows]


def test_deep_but_valid_code_is_compared(folder):
    nested = "".join("    " * depth + f"def f{depth}():\n" for depth in range(60)) + "    " * 60 + "return [1, 2, 3]\n"
    long = "y = " + " + ".join(f"g(x{number}, k=[{number}])" for number in range(400))
    assert alike(folder, a=TEXTBOOK + nested + long, b=disguised(TEXTBOOK) + nested + long) == {("a", "b"): 1.0}


def test_earlier_years_are_compared_with_the_class_only_and_pages_show_both_sides(folder, tmp_path, capsys):
    earlier = tmp_path / "2023"
    earlier.mkdir()
    hostile = "\n\ndef g(x):\n    return '<script>alert(1)</script>', x.permute(1, 0).sum(0) @ x.mean(0).view(2, 3)\n"
    make_submission(folder, disguised(TEXTBOOK) + hostile, "ann.zip")
    for name in ("old.zip", "older.zip"):
        make_submission(earlier, TEXTBOOK + hostile, name)
    command = ["similar", str(folder), "--against", str(earlier), "--html", str(tmp_path / "pages")]
    assert cli.main([*command, "--csv", str(tmp_path / "s.csv")]) == 0
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["first"] for row in rows] == ["ann.zip", "ann.zip"]
    assert [row["second"] for row in rows] == ["2023/old.zip", "2023/older.zip"]
    assert rows[0]["similarity"] in ("1.0", "1")
    assert "py: my_Attention.my_forward = student_code.py: Attention.forward (1.00)" in rows[0]["functions"]
    page = (tmp_path / "pages/pair-1.html").read_text()
    assert "def my_forward" in page
    assert "def forward" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert 'href="pair-2.html"' in (tmp_path / "pages/index.html").read_text()
    assert "2 pairs of at least 0.4, of 3 submissions" in capsys.readouterr().out


def test_two_of_one_team_are_not_listed(folder, tmp_path, capsys):
    for name in ("ann.zip", "bob.zip", "cy.zip"):
        make_submission(folder, TEXTBOOK, name)
    (tmp_path / "r.csv").write_text("login,team\nann,1\nbob,1\ncy,\n")
    assert cli.main(["similar", str(folder), "--roster", str(tmp_path / "r.csv")]) == 0
    printed = capsys.readouterr().out
    assert "ann.zip  bob.zip" not in printed
    assert "ann.zip  cy.zip" in printed
    assert "bob.zip  cy.zip" in printed


def test_a_folder_that_is_not_there(tmp_path, folder, capsys):
    make_submission(folder, TEXTBOOK)
    assert cli.main(["similar", str(folder), "--against", str(tmp_path / "none")]) == 2
    assert "none: there is no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["similar", str(folder), "--least", "0"])
