"""The registry of checks; parts/ has a file of them for each part of the sheet.

    @check("convolution", "forward: stride", weight=2)
    def strides(ask, rng): ...

A check asks a worker to run the student's code, compares the answer with an oracle, and raises compare.Wrong.
`ask(task, arrays, **settings)` is Worker.ask; `rng` is a NumPy generator of this check alone.
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
    def enter(run):
        CHECKS.append(Check(part, title, weight, run))
        return run
    return enter


def checks_of(part: str) -> list[Check]:
    return [entry for entry in CHECKS if entry.part == part]
