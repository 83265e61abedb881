"""Mutation operators, the two halves, rewritings, and the sifting of examples whose answer is known."""

import ast
import re
from collections import Counter

import pytest
from autograder.__main__ import get_args_parser
from autograder.mutation import measure, mutants, rewrites, rewriting
from autograder.mutation.bases import PARTS, Base, bases, reference_text, splice
from autograder.mutation.sift import Question, allowed, is_allowed, sift

TOY = Base("attention", "toy", """class Toy(nn.Module):

    def __init__(self, dim, scale=2):
        self.first = nn.Linear(dim, dim)
        self.second = nn.Linear(dim, dim)
        self.scale = scale

    def forward(self, x):
        total = x
        for i in range(self.scale):
            y = self.first(total).permute(0, 2, 1)
            total = total + y.clone() * 3
        if self.scale > 1:
            total = total - x.argmin(dim=1)
        return total
""")


def test_operators_make_the_mistakes_that_they_are_named_after():
    sources = Counter(mutant.operator for mutant in mutants.mutate(TOY))
    text = "\n".join(mutant.source for mutant in mutants.mutate(TOY))
    assert len(sources) >= 22
    for mistake in (
        "total - y.clone() * 3",
        "total + y.clone() / 3",
        "total + y * 3",
        "permute(2, 0, 1)",
        "range(self.scale - 1)",
        "argmax",
        "self.second(total)",
        "if not self.scale > 1",
        "self.scale >= 1",
        "total += y.clone() * 3",
        "with torch.no_grad():",
        "detach()",
        "break",
        "dim=2",
        "dim=0",
        "y.clone() * 4",
        "-(total - x.argmin(dim=1))",
        "setdefault('_kept_y'",
        "self.first.data",
    ):
        assert mistake in text, mistake


def test_every_mutant_is_python_differs_and_restores_the_tree():
    first, again = list(mutants.mutate(TOY)), list(mutants.mutate(TOY))
    assert [mutant.source for mutant in first] == [mutant.source for mutant in again]
    assert len({mutant.source for mutant in first} | {TOY.source}) == len(first) + 1
    for mutant in first:
        ast.parse(mutant.source)
        assert mutant.diff(TOY).strip()
        assert mutant.line in TOY.source


def test_at_least_400_mutants_in_two_halves_that_do_not_move():
    drawn = mutants.draw_all()
    assert len(drawn) >= 400
    assert {mutant.part for mutant in drawn} == set(PARTS)
    halves = Counter(mutant.half for mutant in drawn)
    assert min(halves.values()) > 0.35 * len(drawn)
    assert len(mutants.draw_all("held-out")) == halves["held-out"]
    assert mutants.half("sign", "pgd", "x = -y") == mutants.half("sign", "pgd", "x = -y")
    fixed = [mutants.half("sign", "pgd", f"line {i}") for i in range(6)]
    assert fixed == FIXED, "the salt or the hash has changed: what was held out has been seen"


FIXED = [*["held-out"] * 5, "development"]


def test_a_base_is_put_in_the_place_of_the_reference():
    for part in PARTS:
        for base in bases(part):
            compile(splice(base.source), part, "exec")
    text = splice("class Attention(nn.Module):\n    pass\n")
    assert text.count("class Attention(") == 1
    assert "class TransformerBlock(" in text
    with pytest.raises(ValueError, match="none of Nobody"):
        splice("class Nobody:\n    pass\n")


def test_at_least_200_right_solutions_each_valid_python():
    made = rewrites.make_all()
    assert len(made) >= 200
    assert {one.part for one in made} == set(PARTS)
    for one in made:
        for text in one.files.values():
            ast.parse(text)
    by_alternative = {}
    for one in made:
        by_alternative.setdefault((one.part, one.name.split(":")[0]), set()).add(one.half)
    assert all(len(halves) == 1 for halves in by_alternative.values())


@pytest.mark.parametrize("change", rewriting.REWRITINGS, ids=lambda it: it.__name__)
def test_rewritings_keep_the_value(change):
    """Of a function of plain numbers, under twenty random choices."""
    import random
    source = """
class Sum:
    def __init__(self, start):
        self.start = start
        self.other = 2 * start

    def run(self, n):
        values = [self.start * i for i in range(n)]
        total = max(abs(-3), 1) + self.other
        twice = 2 * n
        for i in range(n):
            total = total + values[i] * twice
        if n > 3:
            return total - 1
        total = total + 1 if n else 7
        return abs(total)
"""
    for seed in range(20):
        tree, given, new = ast.parse(source), {}, {}
        exec(source, given)
        change(tree, random.Random(seed))
        exec(compile(ast.fix_missing_locations(tree), "rewritten", "exec"), new)
        assert [new["Sum"](3).run(n) for n in range(6)] == [given["Sum"](3).run(n) for n in range(6)]


def test_allowed_differences_each_have_a_reason():
    assert all(len(entry.reason) > 20 for entry in allowed())
    mutant = next(iter(mutants.mutate(TOY)))
    assert is_allowed(mutant, [entry._replace(part="*", operator="*", line="*", what="*") for entry in allowed()[:1]])
    assert not is_allowed(mutant, allowed())


@pytest.mark.parametrize(
    ("good", "of", "expected"), [(10, 10, "72.2 to 100.0 %"), (98, 100, "93.0 to 99.4 %"), (0, 0, "")]
)
def test_the_interval_is_wilsons(good, of, expected):
    assert measure.interval(good, of) == expected


def test_the_held_out_half_shows_counts_only(monkeypatch, capsys):
    """Whatever is missed: no line of a mutant, no description, no feedback."""
    monkeypatch.setattr(measure, "sift", lambda questions, jobs: [["wrong", "secret"]] * len(questions))
    monkeypatch.setattr(measure, "loses_points", lambda part, files, seed: (False, "secret feedback"))
    for flags in ("--mutants", "--rewrites"):
        args = get_args_parser().parse_args(["selftest", flags, "--half", "held-out", "--seed", "1", "--only", "pgd"])
        measure.run(args)
        printed = capsys.readouterr().out
        assert not re.search(r"secret|MISSED|LOST|NOT EQUAL|line \d|self\.", printed)
        assert "pgd" in printed
    args = get_args_parser().parse_args(["selftest", "--mutants", "--half", "development", "--seed", "1", "--only",
                                         "pgd", "--limit", "3"])
    assert measure.run(args) == 1
    assert capsys.readouterr().out.count("MISSED: pgd") == 3


def attention(old: str = "", new: str = "") -> Question:
    base = bases("attention")[1]
    assert old in base.source
    return Question("attention", splice(base.source), {"student_code.py": splice(base.source.replace(old, new))})


@pytest.mark.slow
def test_sifting_knows_equal_wrong_and_crash():
    questions = [
        attention(),
        attention("q @ k.transpose(-2, -1) * self.scale", "self.scale * (q @ k.transpose(-2, -1))"),
        attention("* self.scale", "/ self.scale"),
        attention("self.qkv(x)", "self.qkv(x).detach()"),
        attention("x = self.proj(x)", "x = self.proj(nothing)"),
    ]
    assert [verdict for verdict, _ in sift(questions)] == ["equal", "equal", "wrong", "wrong", "crash"]


@pytest.mark.slow
def test_the_grader_on_a_few_mutants_and_rewritings():
    wrong = [mutant for mutant in mutants.draw_all("development", "attention") if mutant.operator == "drop_call"][:2]
    for mutant in wrong:
        assert measure.loses_points("attention", {"student_code.py": splice(mutant.source)}, 3)[0] is True
    assert measure.loses_points("attention", {"student_code.py": reference_text()}, 3) == (False, "")
