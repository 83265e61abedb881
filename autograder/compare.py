"""Comparing what came back with what is right, and saying in a sentence what is wrong."""

from collections.abc import Iterable

import numpy as np


class Wrong(Exception):
    """A check failed. The message is the feedback that a student reads."""


def shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape)) or "a single number"


def expect(name: str, got: np.ndarray | None, right: np.ndarray, case: str = "",
           mistakes: Iterable[tuple[str, np.ndarray]] = (), tolerance: float = 1e-6) -> None:
    """Raise Wrong unless `got` is `right` to `tolerance`, relative to the largest value of `right`.

    `case` names the configuration. `mistakes` are wrong formulas and what each gives: if one matches, it is named.
    """
    case = f" ({case})" if case else ""
    if got is None:
        raise Wrong(f"{name}{case} is missing: None came back where a tensor of {shape(right)} was expected")
    if got.shape != right.shape:
        swapped = got.ndim > 1 and got.shape == (*right.shape[:-2], right.shape[-1], right.shape[-2])
        hint = ". Height and width are swapped" if swapped else suspicion(got, mistakes, tolerance)
        raise Wrong(f"{name}{case} has the shape {shape(got)}, expected {shape(right)}{hint}")
    if not np.isfinite(got).all():
        raise Wrong(f"{name}{case} holds {'NaN' if np.isnan(got).any() else 'infinity'}: the first at index "
                    f"{first(~np.isfinite(got))}")
    if not same(got, right, tolerance):
        off = np.abs(got - right) > tolerance * scale(right)
        at = first(off)
        raise Wrong(f"{name}{case} is wrong in {off.sum()} of {off.size} values: the first at index {at}, where "
                    f"{right[at]:.4g} is expected and {got[at]:.4g} came{suspicion(got, mistakes, tolerance)}")


def same(got: np.ndarray, right: np.ndarray, tolerance: float = 1e-6) -> bool:
    return got.shape == right.shape and bool(np.all(np.abs(got - right) <= tolerance * scale(right)))


def scale(right: np.ndarray) -> float:
    return max(float(np.abs(right).max(initial=0)), 1e-12)


def suspicion(got: np.ndarray, mistakes: Iterable[tuple[str, np.ndarray]], tolerance: float = 1e-6) -> str:
    """The first of the wrong formulas that gives just this, as the end of a sentence."""
    return next((f". {sentence}" for sentence, wrong in mistakes if same(got, wrong, max(tolerance, 1e-5))), "")


def first(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape)) if where.ndim else ()
