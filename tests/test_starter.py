"""The starter of each year: what the sheet gives and what it leaves to write, and the sheet's commands in it."""

import re

import pytest
from autograder import rubric, sheet_commands, starter
from autograder.solution import BEGIN, CODE, StarterError, student_text
from conftest import ROOT
from zip_submission import holes

CONVOLUTION = {"CustomConv2DFunction.forward", "CustomConv2DFunction.backward"}
ALWAYS = {*CONVOLUTION, "CustomNet.__init__", "CustomNet.forward", "SimpleViT.__init__", "SimpleViT.forward",
          "PGDAttack.perturb", "AdvSimpleNet.forward", "GradAttention.explain"}
BLOCK = {"TransformerBlock.attend", "TransformerBlock.forward"}
HOLES = {2022: ALWAYS, 2023: ALWAYS, 2024: {*ALWAYS, "Attention.forward"}, 2025: {*ALWAYS, "Attention.forward", *BLOCK}}


@pytest.mark.parametrize("year", rubric.YEARS)
def test_what_each_year_leaves_to_write(year):
    assert {name for _, name in holes(student_text(year))} == HOLES[year]
    left = {name for _, name in holes(student_text(year, written=True))}
    assert left == (set() if year <= 2023 else {"GradAttention.explain"}), "saliency was on the sheet until 2023"


@pytest.mark.parametrize("year", rubric.YEARS)
def test_the_points_of_each_year(year):
    tables = {**rubric.parts(year), **rubric.manual(year)}
    assert sum(points for name, (points, _) in tables.items() if name not in rubric.BONUS) == rubric.REGULAR == 12
    assert sum(tables[name][0] for name in rubric.BONUS) == 2
    assert set(rubric.WRITEUP) < set(rubric.manual(year))


def test_the_sheet_of_2024():
    """It gives the transformer block and the bias's gradient, and two points for SimpleViT."""
    assert (rubric.parts(2024)["vit"][0], rubric.parts(2025)["vit"][0]) == (2, 1)
    assert "block" not in rubric.parts(2024)
    text = student_text(2024)
    assert re.search(r"if ctx.needs_input_grad\[2\]:\n +grad_bias = grad_output.sum\(\(0, 2, 3\)\)", text)
    assert "grad_bias" not in student_text(2025)
    assert "return x + self.drop_path(self.mlp(self.norm2(x)))" in text


@pytest.mark.parametrize("year", rubric.YEARS)
def test_attention_and_block_are_helper_code_until_2023(year, tmp_path):
    starter.write(tmp_path, year)
    student, helpers = ((tmp_path / "code" / name).read_text() for name in ("student_code.py", "custom_blocks.py"))
    for name in ("Attention", "TransformerBlock"):
        assert (f"class {name}(" in student) == (year >= 2024)
        assert (f"class {name}(" in helpers) == (year <= 2023)
    assert ("from custom_blocks import Attention, TransformerBlock" in student) == (year <= 2023)
    row = next(line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| 3.2 |"))
    assert [f"`{name}`" in row for name in ("Attention", "TransformerBlock", "SimpleViT")] == [
        year >= 2024, year >= 2025, True]
    for name in starter.QUICK:
        starter.CHECKS[name](tmp_path, year)


def test_every_tag_of_a_solution_block_is_in_the_rubric():
    known = {"", "bias", *rubric.PARTS, *rubric.MANUAL}
    for name in ("student_code.py", "custom_blocks.py"):
        found = re.findall(rf"^ *{BEGIN} ?(\w*)$", (CODE / name).read_text(), re.M)
        assert set(found) <= known
        assert len(found) == (CODE / name).read_text().count(BEGIN)


def test_a_starter_with_a_solution_line_is_refused(tmp_path):
    starter.write(tmp_path, 2024)
    path = tmp_path / "code/student_code.py"
    line = "x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)  # (B, nh, H*W, C/nh)"
    path.write_text(f"{path.read_text()}\n{line}\n")
    with pytest.raises(StarterError, match="is a solution line of student_code"):
        starter.no_solution_lines_left(tmp_path, 2024)


def test_the_readme_of_the_starter_has_the_texts_that_a_year_replaces():
    text = (ROOT / "autograder/STARTER.md").read_text()
    assert starter.ROW in text
    assert starter.OPTIONAL in text


@pytest.mark.slow
@pytest.mark.parametrize("year", [2022, 2023, 2024])
def test_the_starter_of_an_earlier_year_scores_zero(year, tmp_path):
    """That of 2025 has all checks in test_the_starter_passes_its_checks."""
    starter.write(tmp_path, year)
    starter.scores_zero(tmp_path, year)


@pytest.mark.slow
@pytest.mark.parametrize("year", [2023, 2024])
def test_every_command_of_an_earlier_sheet(year, tmp_path):
    starter.write(tmp_path, year)
    sheet_commands.every_command_works(tmp_path, year)


@pytest.mark.slow
def test_a_command_that_fails_is_named(tmp_path, monkeypatch):
    starter.write(tmp_path)
    (tmp_path / "code/test_conv.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(StarterError, match=r"python test_conv\.py ends with exit code 3, expected 0"):
        sheet_commands.every_command_works(tmp_path, 2025)
