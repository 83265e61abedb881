"""The registry of checks; parts/ has a file of them for each part of the sheet.

    @check("convolution", "forward: stride", weight=2)
    def strides(ask, rng): ...

A check has a worker run the student's code, compares the result with an oracle, and raises compare.CheckFailed.
`ask(task, arrays, **settings)` is Worker.ask; `rng` is a NumPy generator seeded for this check. The title is part of
that seed.
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
    """Register a function as a check of `part`, with `weight` as its share of the part's points."""
    def register(run):
        CHECKS.append(Check(part, title, weight, run))
        return run
    return register


def checks_of(part: str) -> list[Check]:
    return [entry for entry in CHECKS if entry.part == part]
