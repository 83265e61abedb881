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
    beside: bool  # counts only if another check of the part passes


CHECKS: list[Check] = []


def check(part: str, title: str, weight: float = 1.0, beside: bool = False):
    """Register a function as a check of `part`, with `weight` as its share of the part's points.

    `beside`: it looks at something else than the result, such as speed, which counts only if another check passes.
    """
    def register(run):
        CHECKS.append(Check(part, title, weight, run, beside))
        return run
    return register


def consequences(failed: dict[Callable, tuple[Callable, ...]]) -> set[Callable]:
    """Of failed check functions those whose mistake another one has, which itself counts: one mistake costs once.

    `failed`: function -> the functions that its failure may follow from. Of two that follow from each other, the first
    counts.
    """
    counting = {run for run, causes in failed.items() if not causes}
    pending, found = {run: set(causes) for run, causes in failed.items() if causes}, set()
    while pending:
        following = [run for run, causes in pending.items() if causes & counting]
        if following:
            found |= set(following)
        else:
            following = [next(iter(pending))]
            counting |= set(following)
        pending = {run: causes for run, causes in pending.items() if run not in following}
    return found


def checks_of(part: str) -> list[Check]:
    return [entry for entry in CHECKS if entry.part == part]
