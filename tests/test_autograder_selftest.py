"""A sample of selftest, and what the sandbox enforces on this machine."""

import re
import sys

import pytest
from autograder import doctor, selftest
from autograder.variants.cheats import CHEATS
from autograder.variants.right import RIGHT
from autograder.variants.wrong import WRONG

pytestmark = pytest.mark.slow

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


@LINUX
def test_doctor(capsys):
    assert doctor.examine() == 0
    printed = capsys.readouterr().out
    assert re.search("use a convolution +refused: Forbidden", printed)
    assert re.search("take three gigabytes +refused", printed)


def test_number_and_names_of_the_variants():
    assert len(WRONG) >= 60
    assert len(RIGHT) >= 20
    assert len(CHEATS) >= 30
    names = [(variant.part, variant.name) for variant in [*WRONG, *RIGHT, *CHEATS]]
    assert len(set(names)) == len(names)


@LINUX
@pytest.mark.parametrize(("kind", "variant"), selftest.select(every=24), ids=lambda it: getattr(it, "name", it))
def test_the_grader_on_wrong_right_and_hostile_solutions(kind, variant):
    """Every 24th; python -m autograder selftest grades all."""
    outcome = selftest.grade_variant(kind, variant, seed=21)
    assert outcome.passed, outcome
