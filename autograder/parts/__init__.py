"""What is checked, a file for each part of the sheet. A check asks a worker, compares, and raises Wrong.

    @check("convolution", "forward: stride", weight=2)
    def strides(ask, rng): ...

`ask(task, arrays, **settings)` is Worker.ask; `rng` a NumPy generator of this check's own. A check returns nothing
if all is right. A check that needs the student's code to run at all fails by itself if it does not.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Ask = Callable[..., tuple[dict, dict]]


class Check(NamedTuple):
    part: str
    title: str
    weight: float
    run: Callable[[Ask, np.random.Generator], None]


CHECKS: list[Check] = []


def check(part: str, title: str, weight: float = 1.0):
    """Enter a function among the checks of `part`; it gets `weight` of the part's points."""
    def enter(run):
        CHECKS.append(Check(part, title, weight, run))
        return run
    return enter


def checks_of(part: str) -> list[Check]:
    return [entry for entry in CHECKS if entry.part == part]


from autograder.parts import adversarial, attention, block, convolution, pgd, vit  # noqa: E402, F401
