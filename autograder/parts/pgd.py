"""3.3: PGDAttack, watched step by step on a network whose gradient is known by hand.

Accuracy says little: an attack that climbs instead of descending lowers it, too. So each query that the attack makes of
the network is compared with the step that should have led there. A random start and a label chosen once are accepted.
"""

from functools import partial
from itertools import pairwise

import numpy as np

from autograder.checks import check
from autograder.compare import Wrong, first, shape
from autograder.oracle import Bowl


class Case:
    """Images far outside [0, 1], as normalised images are, and a network of `classes` logits.

    `bend` 0 makes the logits linear; with a larger one the gradient turns on the way.
    """

    def __init__(self, rng, steps=6, step=0.05, epsilon=0.2, classes=5, bend=0.0, N=4):
        self.steps, self.step, self.epsilon = steps, step, epsilon
        self.x = (1.5 * rng.normal(size=(N, 3, 4, 5))).astype(np.float32)
        pixels = self.x[0].size
        self.arrays = {"mean": rng.normal(size=3) * 0.2, "var": rng.uniform(0.5, 2, 3),
                       "w": rng.normal(size=(classes, pixels)) * 0.3, "b": rng.normal(size=classes) * 0.1,
                       "t": rng.normal(size=(classes, pixels)), "c": bend * rng.uniform(0.5, 1.5, classes)}
        self.arrays = {name: array.astype(np.float32) for name, array in self.arrays.items()}
        self.net = Bowl(self.arrays)
        if bend:  # put every image near the bottom of its least confident label's bowl, so that steps overshoot
            self.arrays["t"][:] = (self.net.z(self.x).mean(0) + 0.15 * rng.normal(size=(classes, pixels)))
            self.net = Bowl(self.arrays)

    def __str__(self) -> str:
        return f"num_steps={self.steps}, step_size={self.step}, epsilon={self.epsilon}"

    def ask(self, ask, **settings) -> tuple[dict, dict]:
        facts, results = ask("attack", {"x": self.x, **self.arrays}, num_steps=self.steps, step_size=self.step,
                             epsilon=self.epsilon, seed=5, **settings)
        if (got := results["adversarial"]).shape != self.x.shape:
            raise Wrong(f"perturb gives {shape(got)} for images of {shape(self.x)}")
        if not np.isfinite(got).all():
            raise Wrong(f"perturb gives NaN or infinity ({self})")
        return facts, results

    def trace(self, results: dict) -> list[np.ndarray]:
        """The points that the attack visited, each once: queries, then the result. Asking twice is no step."""
        queries = list(results.get("queries", []))
        if queries and len(queries[0]) == 1 < len(self.x):
            queries = self.together(queries)
        points = [*[point for point in queries if point.shape == self.x.shape], results["adversarial"]]
        return [point for n, point in enumerate(points) if n == 0 or not np.array_equal(point, points[n - 1])]

    def together(self, queries: list[np.ndarray]) -> list[np.ndarray]:
        """Queries of one image each as queries of the batch: each belongs to the image that it is nearest to."""
        walks: list[list] = [[] for _ in self.x]
        for query in queries:
            walks[int(np.abs(self.x - query).max((1, 2, 3)).argmin())].append(query[0])
        return [np.stack(points) for points in zip(*walks)] if len({len(walk) for walk in walks}) == 1 else []

    def labels(self, point: np.ndarray) -> np.ndarray:
        return self.net.logits(point).argmin(1)

    def away(self, point: np.ndarray, slack: float = 1e-4) -> np.ndarray:
        """Which pixels of `point` are outside the box."""
        return np.abs(point.astype(np.float64) - self.x) > self.epsilon * (1 + slack) + 1e-6


def usable(gradient: np.ndarray) -> np.ndarray:
    """Where a gradient is far enough from zero for its sign to be beyond doubt."""
    return np.abs(gradient) > 1e-4 * np.abs(gradient).max()


def is_step(case: Case, before, after, gradient, factor: float = -1.0) -> bool:
    """Whether `after` is one signed step against `gradient` from `before`. The box is not judged here."""
    free, sure = before + factor * case.step * np.sign(gradient), usable(gradient)
    boxed = np.clip(free, case.x - case.epsilon, case.x + case.epsilon)
    return any(bool(np.all(np.abs(after - wanted)[sure] < 1e-4)) for wanted in (boxed, free, boxed.clip(0, 1)))


def share_descending(case: Case, start, end, choose) -> float:
    """The share of pixels that moved against the gradient of the loss of a label, of those that moved.

    `choose` takes logits to labels. The label may be chosen where the step begins or on the clean image: for each
    image the one that fits better counts.
    """
    moved = np.abs(end - start) > 1e-6
    best = np.zeros(len(start))
    for point in (start, case.x):
        gradient = case.net.gradient(start, choose(case.net.logits(point)))
        sure = moved & usable(gradient)
        hits = (np.sign(end - start) == -np.sign(gradient)) & sure
        best = np.maximum(best, hits.sum((1, 2, 3)) / np.maximum(sure.sum((1, 2, 3)), 1))
    return float(best.mean())


def least(logits):
    return logits.argmin(1)


def most(logits):
    return logits.argmax(1)


def one_step(ask, rng) -> tuple[Case, dict[str, float]]:
    """A case of one step, and how well each kind of step explains it: 1 is fully.

    The kinds are down or up the loss of the label that is believed in least, most, or of one fixed label.
    """
    case = Case(rng, steps=1, step=0.05, epsilon=0.5, classes=6)
    trace = case.trace(case.ask(ask)[1])
    start, end = (trace[-2] if len(trace) > 1 else case.x), trace[-1]
    if np.array_equal(start, end):
        raise Wrong("perturb gives back what it was given: nothing was attacked")
    labels = {"least": least, "most": most, **{f"number {n}": partial(always, n) for n in range(6)}}
    explained = {}
    for name, choose in labels.items():
        explained[f"down {name}"] = share_descending(case, start, end, choose)
        explained[f"up {name}"] = share_descending(case, start, 2 * start - end, choose)
    return case, explained


def always(n: int, logits: np.ndarray) -> np.ndarray:
    """The label n for each image, or row of logits."""
    return np.full(len(logits), n)


@check("pgd", "it goes down the loss of its label, not up", weight=3)
def direction(ask, rng):
    """Which label it is, is another check's matter."""
    _, explained = one_step(ask, rng)
    best = max(explained, key=explained.get)
    if explained["up least"] > 0.95:
        raise Wrong("the attack climbs the loss of the least confident label, so that the network believes in it even "
                    "less: subtract step_size * sign(gradient), do not add it")
    if explained[best] < 0.95:
        raise Wrong(f"of the pixels that moved only {100 * explained['down least']:.0f} % moved against the gradient "
                    "of the least confident label's loss: is it the sign of the gradient by the input?")
    # With two linear logits far apart no gradient turns: every pixel ends against the sign that it began with.
    case = Case(rng, steps=4, step=0.01, epsilon=0.5, classes=2)
    case.arrays["b"][0] += 6 - (case.net.logits(case.x) @ [1, -1]).min()  # the second stays the least confident one
    case.net = Bowl(case.arrays)
    trace = case.trace(case.ask(ask)[1])
    start = trace[0] if len(trace) > 1 and case.away(trace[0]).sum() == 0 else case.x
    start = next((point for point in trace[1:-1] if is_jump(case, start, point)), start)
    if best == "down least" and share_descending(case, start, trace[-1], least) < 0.9:
        raise Wrong(f"the first step goes down the loss, but over {case.steps} steps the pixels do not follow it "
                    f"({case})")


def is_jump(case: Case, before, after) -> bool:
    """Whether the way from one point to another is a random start: pixels move by different lengths."""
    moved = np.abs(after - before)
    return bool(np.ptp(moved) > 1e-4 and moved.max() > case.step * 1.01)


@check("pgd", "the label is the least confident one", weight=2)
def label(ask, rng):
    """The direction is another check's matter: here a climbing attack passes if its label is right."""
    _, explained = one_step(ask, rng)
    if max(explained["down least"], explained["up least"]) > 0.95:
        return
    if explained["up most"] > 0.95:
        raise Wrong("the attack climbs the loss of the label that the network believes in most, an untargeted attack: "
                    "the sheet wants to go down the loss of the least confident label, logits.argmin(dim=1)")
    if explained["down most"] > 0.95:
        raise Wrong("the attack goes down the loss of the label that the network believes in most, which makes it "
                    "surer: the sheet wants the least confident label, logits.argmin(dim=1)")
    raise Wrong("the label that is attacked is not the one that the network believes in least, logits.argmin(dim=1): "
                f"after one step {100 * explained['down least']:.0f} % of the pixels fit that label's loss")


@check("pgd", "it stays in the box of epsilon around the input, at each step", weight=3)
def box(ask, rng):
    for case in (Case(rng, steps=10, step=0.05, epsilon=0.12), Case(rng, steps=12, step=0.08, epsilon=0.1, bend=0.3),
                 Case(rng, steps=2, step=0.05, epsilon=0.0)):
        facts, results = case.ask(ask)
        end = results["adversarial"]
        if facts["count"] == 0 or (np.array_equal(end, case.x) and case.epsilon):
            raise Wrong("perturb gives back what it was given, or never asks the network: nothing was attacked")
        if (off := case.away(end)).any():
            raise Wrong(f"the result leaves the box ({case}): at index {first(off)} it is "
                        f"{np.abs(end - case.x)[off].max():.3g} away from the input{why_outside(case, results)}")
        outside = [n for n, point in enumerate(results.get("queries", [])) if point.shape == case.x.shape
                   and case.away(point).any()]
        if outside:
            raise Wrong(f"the result is in the box, but on the way, at query {outside[0]} of {facts['count']}, the "
                        f"network was asked outside it ({case}): project after each step, not at the end alone")


def why_outside(case: Case, results: dict) -> str:
    trace = case.trace(results)
    steps = [np.abs(after - before).max() for before, after in pairwise(trace)]
    if (results["adversarial"].min() >= 0 and results["adversarial"].max() <= 1):
        return ". It was clamped to 0..1, but normalised images are not pixels between 0 and 1"
    if steps and max(steps) > case.epsilon * 1.01:
        return ". A single step was larger than epsilon: is it step_size times the sign of the gradient?"
    if steps and all(step <= case.epsilon * 1.01 for step in steps):
        return ". After every step, clip to the box around the input itself, not around the point before"
    return ""


@check("pgd", "no clamp but the box: normalised images are not pixels between 0 and 1", weight=1)
def nothing_else(ask, rng):
    case = Case(rng, steps=2, step=0.05, epsilon=5.0)  # far more room than two steps can use
    end = case.ask(ask)[1]["adversarial"]
    if np.array_equal(end, case.x):
        raise Wrong("perturb gives back what it was given: nothing was attacked")
    if end.min() >= 0 and end.max() <= 1:
        raise Wrong("the result was clamped to 0..1, but normalised images are not pixels between 0 and 1")
    if end.min() > case.x.min() + 0.2 or end.max() < case.x.max() - 0.2:
        raise Wrong(f"the result lies between {end.min():.2g} and {end.max():.2g}, the images between "
                    f"{case.x.min():.2g} and {case.x.max():.2g}: "
                    "it was clamped to something else than the box around the input")


@check("pgd", "num_steps steps, each of step_size by the sign of the gradient at that point", weight=3)
def steps(ask, rng):
    for case in (Case(rng, steps=5, step=0.03, epsilon=0.3), Case(rng, steps=8, step=0.05, epsilon=0.15, bend=0.3)):
        facts, results = case.ask(ask)
        if facts["count"] < case.steps:
            raise Wrong(f"the network was asked {facts['count']} times for num_steps={case.steps}: each step needs "
                        "the gradient at the point that it starts from")
        trace = case.trace(results)
        if "queries" not in results or len(trace) < 2:
            raise Wrong("the network was asked for parts of the batch, so that the steps cannot be followed: hand the "
                        "whole batch over at once")
        if not any(follows(case, trace, rule, factor) for rule in rules(case) for factor in (-1.0, 1.0)):
            raise Wrong(f"the steps are not those of PGD ({case}){diagnosis(case, trace)}")


def rules(case: Case):
    """Which label a step takes: chosen anew at each point (the sheet's), or once; the largest for a wrong label."""
    once, surest = case.labels(case.x), case.net.logits(case.x).argmax(1)
    fixed = [partial(always, n) for n in range(len(case.arrays["b"]))]
    anew = [case.labels, lambda point: case.net.logits(point).argmax(1)]
    return [*anew, lambda point: once, lambda point: surest, *fixed]


def follows(case: Case, trace: list, rule, factor: float) -> bool:
    """Whether the trace is num_steps steps from the input, or from a random point in the box."""
    for begin in range(3):  # before a random start the input may have been asked about, for its label
        points = trace[begin:]
        if len(points) - 1 != case.steps or (begin and not starts_anew(case, trace[begin - 1], points[0])):
            continue
        if all(is_step(case, before, after, case.net.gradient(before, rule(before)), factor)
               for before, after in pairwise(points)):
            return True
    return False


def starts_anew(case: Case, before, after) -> bool:
    """Whether the steps begin at `after`, a random point in the box."""
    return is_jump(case, before, after) and not case.away(after).any()


def diagnosis(case: Case, trace: list) -> str:
    before, after = trace[0].astype(np.float64), trace[1].astype(np.float64)
    if len(trace) - 1 != case.steps and not is_jump(case, before, after):
        return f": it took {len(trace) - 1} steps that moved, expected {case.steps}"
    gradient = case.net.gradient(before, case.labels(before))
    sizes = np.abs(after - before)
    if np.ptp(sizes) > 1e-4 and abs(np.corrcoef(sizes.ravel(), np.abs(gradient).ravel())[0, 1]) > 0.99:
        return ". The first step is proportional to the gradient: take its sign"
    if abs(sizes.max() - case.step) > 1e-4:
        return f". The first step is {sizes.max():.3g}, expected {case.step}"
    for n, (start, end) in enumerate(pairwise(trace)):
        summed = sum(case.net.gradient(point, case.labels(point)) for point in trace[:n + 1])
        own = case.net.gradient(start, case.labels(start))
        if not is_step(case, start, end, own):
            if n and (is_step(case, start, end, summed) or is_step(case, start, end, summed / len(case.x))):
                return f". Step {n + 1} follows the sum of all gradients so far: clear the gradient between steps"
            if n and is_step(case, start, end, case.net.gradient(trace[0], case.labels(trace[0]))):
                return f". Step {n + 1} follows the gradient at the start, not at the point reached"
            return f". Step {n + 1} is the first that does not fit"
    return ""


@check("pgd", "the default is 10 steps of 0.01 in a box of 0.1", weight=1)
def defaults(ask, rng):
    case = Case(rng, steps=10, step=0.01, epsilon=0.1)
    _, results = case.ask(ask, by_default=True)
    far = float(np.abs(results["adversarial"].astype(np.float64) - case.x).max())
    visited = len(case.trace(results)) - 1
    if not 10 <= visited <= 11:
        raise Wrong(f"PGDAttack(loss_fn) takes {visited} steps, expected 10: num_steps=10 is the default")
    if not 0.02 < far <= 0.1001:
        raise Wrong(f"PGDAttack(loss_fn) moves pixels by up to {far:.3g}, expected 0.1: step_size=0.01, epsilon=0.1")


@check("pgd", "the network is as it was: mode, parameters, statistics, no gradients left", weight=2)
def network_untouched(ask, rng):
    case = Case(rng)
    facts, results = case.ask(ask)
    if facts["count"] == 0 or np.array_equal(results["adversarial"], case.x):
        raise Wrong("perturb gives back what it was given, or never asks the network: nothing was attacked")
    before, after = facts["before"], facts["after"]
    if after["modes"] != before["modes"]:
        raise Wrong("perturb leaves the network in training mode, where it was in evaluation mode")
    if np.abs(results["running_mean"] - case.arrays["mean"]).max() > 1e-6:
        raise Wrong("perturb moves BatchNorm's running statistics: it calls the network in training mode")
    if after["wants_gradient"] != before["wants_gradient"]:
        frozen = sum(after["wants_gradient"]) < sum(before["wants_gradient"])
        raise Wrong("perturb leaves parameters frozen (requires_grad False): put back what was there" if frozen else
                    "perturb thaws a parameter that was frozen before (requires_grad True): put back what was there")
    if not facts["parameters_same"]:
        raise Wrong("perturb changes the network's parameters")
    if any(after["has_gradient"]):
        raise Wrong("perturb leaves gradients on the parameters, which the next optimiser step would take: "
                    "torch.autograd.grad(loss, input) computes the one gradient that is needed")
    facts, _ = case.ask(ask, training=True)
    if facts["after"]["modes"] != facts["before"]["modes"]:
        raise Wrong("perturb leaves the network in evaluation mode, where it was in training mode: put back what was "
                    "there")


@check("pgd", "the input is as it was; the result is a new tensor without a graph", weight=2)
def input_untouched(ask, rng):
    case = Case(rng, steps=12, step=0.01)
    facts, results = case.ask(ask)
    if not np.array_equal(results["x"], case.x):
        raise Wrong("perturb changes the images that it was given: clone them first")
    if np.array_equal(results["adversarial"], case.x):
        raise Wrong("perturb gives back what it was given: nothing was attacked")
    if facts["input_wants_gradient"]:
        raise Wrong("perturb leaves requires_grad=True on the images that it was given: clone and detach them first")
    if facts["shares_memory"]:
        raise Wrong("the result shares its memory with the input")
    if facts["attached"]:
        raise Wrong("the result still hangs on autograd's graph: detach it")
    depths = facts["depths"]
    if len(depths) > 4 and depths[-1] >= depths[2] + 3:
        raise Wrong(f"the graph grows with each step ({depths[1]} nodes before the network in the second, "
                    f"{depths[-1]} in the last): detach the images before the next step, or memory runs out")
