"""Compare a result with the expected array, and describe the difference in a sentence."""

from collections.abc import Callable, Iterable

import numpy as np


class CheckFailed(Exception):
    """A check failed. The message is the feedback for the student.

    `follows_from`: check functions. If one of them fails in this grading, too, the mistake counts there, and this check
    passes.
    """

    def __init__(self, message: str, follows_from: Iterable[Callable] = ()):
        super().__init__(message)
        self.follows_from = tuple(follows_from)


class Remark(Exception):
    """A check passed, and the student is told something that costs nothing: the message becomes a note in the mark."""


def format_shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape)) or "a single number"


def expect_close(name: str, got: np.ndarray | None, expected: np.ndarray, case: str = "",
                 mistakes: Iterable[tuple[str, np.ndarray]] = (), tolerance: float = 1e-6,
                 within: np.ndarray | float | None = None) -> None:
    """Raise CheckFailed unless `got` equals `expected` within `tolerance` times its largest absolute value.

    `within`: absolute tolerances instead (autograder.rounding). `name` and `case` describe the array and the
    configuration. `mistakes`: (sentence, result) of known mistakes; the feedback names the first whose result is `got`.
    """
    case = f" ({case})" if case else ""
    if got is None:
        raise CheckFailed(f"{name}{case} is missing: None, expected a tensor of the shape {format_shape(expected)}")
    if got.shape != expected.shape:
        swapped = got.ndim > 1 and got.shape == (*expected.shape[:-2], expected.shape[-1], expected.shape[-2])
        hint = ". Height and width are swapped" if swapped else matching_mistake(got, mistakes, tolerance)
        raise CheckFailed(f"{name}{case} has the shape {format_shape(got)}, expected {format_shape(expected)}{hint}")
    if not np.isfinite(got).all():
        raise CheckFailed(f"{name}{case} holds {'NaN' if np.isnan(got).any() else 'infinity'}: the first at index "
                          f"{first_index(~np.isfinite(got))}")
    if not is_close(got, expected, tolerance, within):
        off = np.abs(got - expected) > (tolerance * max_abs(expected) if within is None else within)
        index, hint = first_index(off), matching_mistake(got, mistakes, tolerance)
        raise CheckFailed(f"{name}{case} is wrong in {off.sum()} of {off.size} values: the first at index {index} is "
                          f"{got[index]:.4g}, expected {expected[index]:.4g}{hint}")


def is_close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-6,
             within: np.ndarray | float | None = None) -> bool:
    """Whether the shapes are equal and the values differ by at most `tolerance` times the largest, or `within`."""
    limit = tolerance * max_abs(expected) if within is None else within
    return got.shape == expected.shape and bool(np.all(np.abs(got - expected) <= limit))


def max_abs(expected: np.ndarray) -> float:
    return max(float(np.abs(expected).max(initial=0)), 1e-12)


def matching_mistake(got: np.ndarray, mistakes: Iterable[tuple[str, np.ndarray]], tolerance: float = 1e-6) -> str:
    """The sentence of the first known mistake whose result equals `got`, or an empty string."""
    return next((f". {sentence}" for sentence, wrong in mistakes if is_close(got, wrong, max(tolerance, 3e-5))), "")


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape)) if mask.ndim else ()
