"""What PGD did: test cases, and the path of each image, found among the images that the network was shown.

Nothing is asked of how the network is called: on the whole batch, on parts of it, on a copy, or once more at the end.
"""

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np

from autograder.compare import CheckFailed, format_shape
from autograder.oracle import QuadraticNet

SHAPE = (3, 6, 7)
ROUNDING = 2e-5  # of a pixel: sums of a few float32 numbers below 3, one of them at each step
RANGE = (-1.6, 2.0)  # of wide images: inside the range that pixels between 0 and 1 have once they are normalised


class Case:
    """Images, the settings of an attack, and a network with `classes` logits.

    The images lie well within 0..1, so that only `wide` ones show another clamp. A larger `slope` makes the logits more
    unequal. With `curvature` 0 they are linear; otherwise the gradient's signs change along the way. See `two_labels`.
    """

    def __init__(self, rng, steps=5, step=0.02, epsilon=0.6, classes=6, curvature=0.0, N=4, wide=False, slope=0.1):
        self.steps, self.step, self.epsilon = steps, step, epsilon
        self.x = rng.uniform(*(RANGE if wide else (0.35, 0.65)), size=(N, *SHAPE)).astype(np.float32)
        pixels = self.x[0].size
        arrays = {"mean": rng.normal(0.5, 0.1, 3), "var": rng.uniform(0.08, 0.15, 3),
                  "w": rng.normal(size=(classes, pixels)) * slope, "b": np.zeros(classes),
                  "t": rng.normal(size=(classes, pixels)), "c": curvature * rng.uniform(0.5, 1.5, classes)}
        # Nearly equal on average, so that images differ in their least confident label, and it changes along the way
        arrays["b"] = 0.15 * rng.normal(size=classes) - QuadraticNet(arrays).logits(self.x).mean(0)
        self.arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
        self.net = QuadraticNet(self.arrays)

    @classmethod
    def two_labels(cls, rng, **settings) -> "Case":
        """Two linear logits, far apart: the signs of the gradient never change, whatever the loss and the label."""
        case = cls(rng, classes=2, slope=0.03, **{"N": 2, **settings})
        case.arrays["b"] += np.array([3, -3], np.float32)
        case.net = QuadraticNet(case.arrays)
        return case

    def __str__(self) -> str:
        return f"num_steps={self.steps}, step_size={self.step:g}, epsilon={self.epsilon:g}"

    @property
    def settings(self) -> dict:
        return {"num_steps": self.steps, "step_size": self.step, "epsilon": self.epsilon}

    def gradients(self, point: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
        """The gradient of each label's loss at one image: labels,C,H,W."""
        labels = np.arange(len(self.arrays["b"]))
        return self.net.gradient(np.repeat(point[None].astype(np.float64), len(labels), 0), labels, smoothing)

    def least(self, point: np.ndarray) -> set[int]:
        """The least confident labels of one image: several if their logits are equal but for rounding."""
        logits = self.net.logits(point[None].astype(np.float64))[0]
        return set(np.flatnonzero(logits <= logits.min() + 1e-4).tolist())


def clear(gradients: np.ndarray) -> np.ndarray:
    """Mask of the values of labels,C,H,W whose sign float32 computes reliably; none for a nearly certain label."""
    sizes = np.abs(gradients)
    return sizes > 1e-3 * sizes.max((1, 2, 3), keepdims=True) + 1e-4 * sizes.max()


class Run:
    """One call of perturb for the images case.x[rows]: the result `end`, and the points that each image visited."""

    def __init__(self, case: Case, rows: slice, facts: dict, end: np.ndarray, queries: np.ndarray):
        self.case, self.facts, self.end, self.x = case, facts, end, case.x[rows]
        if end.shape != self.x.shape:
            raise CheckFailed(f"perturb returns the shape {format_shape(end)} for images of {format_shape(self.x)}")
        if not np.isfinite(end).all():
            raise CheckFailed(f"perturb returns NaN or infinity ({case})")
        self.shown = len(queries)
        owners = np.array(
            [n for start, size in self.sizes() for n in self.owners(queries[start : start + size])], dtype=int
        )
        self.visited = [queries[owners == n] for n in range(len(self.x))]

    def sizes(self) -> list[tuple[int, int]]:
        """(first row, number of rows) of each forward pass."""
        sizes = [int(size) for size, *_ in self.facts["passes"]]
        return list(zip(np.cumsum([0, *sizes]).tolist(), sizes))

    def owners(self, queries: np.ndarray) -> list[int]:
        """The image that each row of a forward pass belongs to: in order for a whole batch, else the nearest."""
        if len(queries) == len(self.x):
            return list(range(len(queries)))
        return [int(np.abs(self.x - query).max((1, 2, 3)).argmin()) for query in queries]

    def require_attack(self) -> None:
        """Raise CheckFailed if nothing was attacked: then no check passes."""
        if np.array_equal(self.end, self.x):
            raise CheckFailed(f"perturb returns its input unchanged: nothing was attacked ({self.case})")
        if not self.shown:
            raise CheckFailed("perturb never calls the network: nothing was attacked")
        if not any(needs_gradient for _, _, needs_gradient, _ in self.facts["passes"]):
            raise CheckFailed("nothing was attacked: no gradient with respect to the images is computed, as none of "
                              "the network's inputs has requires_grad")

    @cached_property
    def paths(self) -> list[list[np.ndarray]]:
        """For each image its points in order, without returns to the clean image and without repetitions."""
        return [distinct([*one, self.end[n]], self.x[n]) for n, one in enumerate(self.visited)]

    def starts(self, n: int) -> list[int]:
        """Indices of visited[n] where the steps of image n may begin: the image itself, or a random start."""
        places = [j for j, point in enumerate(self.visited[n]) if np.array_equal(point, self.x[n])][:1]
        others = (j for j, point in enumerate(self.visited[n]) if not np.array_equal(point, self.x[n]))
        first = next(others, None)
        return places + ([first] if first is not None and self.is_random_start(n, self.visited[n][first]) else [])

    def is_random_start(self, n: int, point: np.ndarray) -> bool:
        """Whether `point` lies at a different distance from image n in each pixel."""
        return len(np.unique(np.abs(point - self.x[n]).round(5))) > 5

    def outside_box(self, n: int, point: np.ndarray) -> np.ndarray:
        """Mask of the pixels of `point` outside the epsilon box around image n."""
        return np.abs(point.astype(np.float64) - self.x[n]) > self.case.epsilon + ROUNDING / 2

    def steps_that_fit(self, n: int, begin: int, is_step: Callable) -> int:
        """How many steps of image n, from visited[n][begin] on, satisfy is_step(before, after).

        The last step ends in the result. A step that leads nowhere needs no forward pass.
        """
        steps, points, here = self.case.steps, list(self.visited[n]), begin
        for done in range(steps):
            point = points[here]
            options = [len(points)] if done == steps - 1 else range(here + 1, len(points))
            end = [*points, self.end[n]]
            there = next((j for j in options if is_step(point, end[j])), None)
            if there is None and not (is_step(point, point) and (done < steps - 1 or np.array_equal(point, end[-1]))):
                return done
            here = here if there is None else there
        return steps

    def fit(self, n: int, is_step: Callable) -> int:
        """`steps_that_fit` from the best start; case.steps if image n took all steps."""
        return max((self.steps_that_fit(n, begin, is_step) for begin in self.starts(n)), default=0)


def distinct(points: list[np.ndarray], origin: np.ndarray) -> list[np.ndarray]:
    """`points` without repetitions, and without `origin` except at the beginning."""
    kept: list[np.ndarray] = []
    for point in points:
        if not kept or not (np.array_equal(point, kept[-1]) or np.array_equal(point, origin)):
            kept.append(point)
    return kept


def attack(ask, *cases: Case, calls: Iterable[tuple[int, int, int]] | None = None, given: list | None = None, seed=5,
           **settings) -> tuple[list[Run], dict]:
    """Have the worker run PGDAttack. Returns a Run for each of `calls`, (case, first image, last image), and the facts.

    All attacks and networks are made before the first call. `given`: the arguments of each PGDAttack after the loss.
    """
    calls = [(n, 0, len(case.x)) for n, case in enumerate(cases)] if calls is None else list(calls)
    arrays = {
        f"{n}.{name}": array for n, case in enumerate(cases) for name, array in {"x": case.x, **case.arrays}.items()
    }
    facts, results = ask("run_attacks", arrays, calls=calls, seed=seed,
                         settings=[case.settings for case in cases] if given is None else given, **settings)
    runs = [Run(cases[n], slice(first, last), facts["calls"][m], results[f"{m}.adversarial"],
                results.get(f"{m}.queries", np.zeros((0, *SHAPE), np.float32)))
            for m, (n, first, last) in enumerate(calls)]
    return runs, facts


def attack_once(ask, case: Case, **settings) -> Run:
    """One call on all images of `case`. Raises CheckFailed if nothing was attacked."""
    run = attack(ask, case, **settings)[0][0]
    if case.steps and case.epsilon:
        run.require_attack()
    return run
