"""How far a right float32 result may lie from the float64 oracle.

The model is that of Higham (Accuracy and Stability of Numerical Algorithms, 2002, chapters 2 and 3): a sum of n
products, computed in float32 in any order, is off by about sqrt(n) * UNIT times the sum of the products' absolute
values; the bound n * UNIT is never reached in practice. MARGIN covers the constant and the spread between algorithms.
"""

from collections.abc import Callable

import numpy as np

UNIT = 2.0 ** -24  # float32's relative rounding error
MARGIN = 16.0
DRAWS = 3


def rounded(array: np.ndarray) -> np.ndarray:
    """The nearest float32 numbers, as float64: what the worker gets and the oracle computes with."""
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def single(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays in float32, to send to the worker."""
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def of_sums(absolute_sums: np.ndarray, terms: int) -> np.ndarray:
    """Absolute tolerance of sums of `terms` products whose absolute values add up to `absolute_sums`."""
    return MARGIN * np.sqrt(terms) * UNIT * absolute_sums + 1e-30


def of_composite(function: Callable[[dict], np.ndarray], arrays: dict[str, np.ndarray], terms: int,
                 rng: np.random.Generator) -> float:
    """Absolute tolerance of function(arrays), a chain of sums of `terms` products: condition times backward error.

    A stable algorithm gives the exact result for slightly different data. The largest change of the result when each
    number of the data is changed relatively by +-UNIT, at random, measures the condition; each sum adds sqrt(terms).
    """
    exact, change = function(arrays), 0.0
    for _ in range(DRAWS):
        signs = {name: rng.choice([-1.0, 1.0], size=array.shape) for name, array in arrays.items()}
        moved = function({name: array * (1 + UNIT * signs[name]) for name, array in arrays.items()})
        change = max(change, float(np.abs(moved - exact).max(initial=0)))
    return MARGIN * np.sqrt(terms) * max(change, UNIT * float(np.abs(exact).max(initial=0))) + 1e-30
