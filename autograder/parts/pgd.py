"""3.3: PGDAttack, followed step by step on a network with a closed-form gradient.

Accuracy is a weak test: gradient ascent on the wrong loss lowers it, too. So the inputs of all forward passes (the
iterates) are compared with the expected steps. A random start and a label chosen once are accepted.
"""

from functools import partial
from itertools import pairwise

import numpy as np

from autograder.checks import check
from autograder.compare import CheckFailed, first_index, format_shape
from autograder.oracle import QuadraticNet


class Case:
    """Images with values outside [0, 1], as normalised images have, and a network with `classes` logits.

    With `curvature` 0 the logits are linear; otherwise the gradient's signs change along the way.
    """

    def __init__(self, rng, steps=6, step=0.05, epsilon=0.2, classes=5, curvature=0.0, N=4):
        self.steps, self.step, self.epsilon = steps, step, epsilon
        self.x = (1.5 * rng.normal(size=(N, 3, 4, 5))).astype(np.float32)
        pixels = self.x[0].size
        self.arrays = {"mean": rng.normal(size=3) * 0.2, "var": rng.uniform(0.5, 2, 3),
                       "w": rng.normal(size=(classes, pixels)) * 0.3, "b": rng.normal(size=classes) * 0.1,
                       "t": rng.normal(size=(classes, pixels)), "c": curvature * rng.uniform(0.5, 1.5, classes)}
        self.arrays = {name: array.astype(np.float32) for name, array in self.arrays.items()}
        self.net = QuadraticNet(self.arrays)
        if curvature:  # near the extremum of the least confident logit, so that steps overshoot
            self.arrays["t"][:] = (self.net.standardize(self.x).mean(0) + 0.15 * rng.normal(size=(classes, pixels)))
            self.net = QuadraticNet(self.arrays)

    def __str__(self) -> str:
        return f"num_steps={self.steps}, step_size={self.step}, epsilon={self.epsilon}"

    def run(self, ask, **settings) -> tuple[dict, dict]:
        facts, results = ask("run_attack", {"x": self.x, **self.arrays}, num_steps=self.steps, step_size=self.step,
                             epsilon=self.epsilon, seed=5, **settings)
        if (got := results["adversarial"]).shape != self.x.shape:
            raise CheckFailed(f"perturb returns the shape {format_shape(got)} for images of {format_shape(self.x)}")
        if not np.isfinite(got).all():
            raise CheckFailed(f"perturb returns NaN or infinity ({self})")
        return facts, results

    def iterates(self, results: dict) -> list[np.ndarray]:
        """The inputs of the forward passes, then the result, without consecutive duplicates."""
        queries = list(results.get("queries", []))
        if queries and len(queries[0]) == 1 < len(self.x):
            queries = self.merge_single_image_queries(queries)
        iterates = [*[point for point in queries if point.shape == self.x.shape], results["adversarial"]]
        return [point for n, point in enumerate(iterates) if n == 0 or not np.array_equal(point, iterates[n - 1])]

    def merge_single_image_queries(self, queries: list[np.ndarray]) -> list[np.ndarray]:
        """Batches from forward passes on single images, each assigned to the nearest image; [] if counts differ."""
        paths: list[list] = [[] for _ in self.x]
        for query in queries:
            paths[int(np.abs(self.x - query).max((1, 2, 3)).argmin())].append(query[0])
        return [np.stack(batch) for batch in zip(*paths)] if len({len(path) for path in paths}) == 1 else []

    def labels(self, point: np.ndarray) -> np.ndarray:
        return self.net.logits(point).argmin(1)

    def outside_box(self, point: np.ndarray, slack: float = 1e-4) -> np.ndarray:
        """Mask of the values of `point` outside the epsilon box."""
        return np.abs(point.astype(np.float64) - self.x) > self.epsilon * (1 + slack) + 1e-6


def has_clear_sign(gradient: np.ndarray) -> np.ndarray:
    """Mask of the values that are far enough from zero for a reliable sign."""
    return np.abs(gradient) > 1e-4 * np.abs(gradient).max()


def is_step(case: Case, before, after, gradient, factor: float = -1.0) -> bool:
    """Whether `after` is one sign-gradient step from `before`, clipped to the box or not.

    `factor` is -1 for descent, 1 for ascent.
    """
    unclipped, clear = before + factor * case.step * np.sign(gradient), has_clear_sign(gradient)
    clipped = np.clip(unclipped, case.x - case.epsilon, case.x + case.epsilon)
    candidates = clipped, unclipped, clipped.clip(0, 1)
    return any(bool(np.all(np.abs(after - wanted)[clear] < 1e-4)) for wanted in candidates)


def share_descending(case: Case, start, end, choose) -> float:
    """Of the pixels that changed from `start` to `end`, the share that moved against the gradient of a label's loss.

    `choose` maps logits to labels. They may be chosen at `start` or on the clean image; the better fit counts.
    """
    moved = np.abs(end - start) > 1e-6
    best = np.zeros(len(start))
    for point in (start, case.x):
        gradient = case.net.gradient(start, choose(case.net.logits(point)))
        clear = moved & has_clear_sign(gradient)
        hits = (np.sign(end - start) == -np.sign(gradient)) & clear
        best = np.maximum(best, hits.sum((1, 2, 3)) / np.maximum(clear.sum((1, 2, 3)), 1))
    return float(best.mean())


def least_confident(logits):
    return logits.argmin(1)


def most_confident(logits):
    return logits.argmax(1)


def one_step(ask, rng) -> tuple[Case, dict[str, float]]:
    """Run one step. Returns the case and {kind of step: share of pixels that agree with it}.

    Kinds: "down" or "up" the loss of the "least" or "most" confident label, or of a constant one ("number 3").
    """
    case = Case(rng, steps=1, step=0.05, epsilon=0.5, classes=6)
    iterates = case.iterates(case.run(ask)[1])
    start, end = (iterates[-2] if len(iterates) > 1 else case.x), iterates[-1]
    if np.array_equal(start, end):
        raise CheckFailed("perturb returns its input unchanged: nothing was attacked")
    labels = {"least": least_confident, "most": most_confident,
              **{f"number {n}": partial(constant_label, n) for n in range(6)}}
    agreement = {}
    for name, choose in labels.items():
        agreement[f"down {name}"] = share_descending(case, start, end, choose)
        agreement[f"up {name}"] = share_descending(case, start, 2 * start - end, choose)
    return case, agreement


def constant_label(n: int, logits: np.ndarray) -> np.ndarray:
    """The label n for every row of logits."""
    return np.full(len(logits), n)


@check("pgd", "direction: gradient descent on the loss of its label", weight=3)
def direction(ask, rng):
    """Any label passes; which one is checked by `label`."""
    _, agreement = one_step(ask, rng)
    best = max(agreement, key=agreement.get)
    if agreement["up least"] > 0.95:
        raise CheckFailed("the attack climbs the loss of the least confident label, which makes it even less likely: "
                          "subtract step_size * sign(gradient), do not add it")
    if agreement[best] < 0.95:
        raise CheckFailed(f"only {100 * agreement['down least']:.0f} % of the pixels that moved did so against the "
                          "gradient of the least confident label's loss: is it the sign of the gradient of the input?")
    # With two distant linear logits the gradient's signs are constant: every pixel moves in one direction.
    case = Case(rng, steps=4, step=0.01, epsilon=0.5, classes=2)
    case.arrays["b"][0] += 6 - (case.net.logits(case.x) @ [1, -1]).min()  # keeps the second the least confident
    case.net = QuadraticNet(case.arrays)
    iterates = case.iterates(case.run(ask)[1])
    start = iterates[0] if len(iterates) > 1 and case.outside_box(iterates[0]).sum() == 0 else case.x
    start = next((point for point in iterates[1:-1] if steps_are_uneven(case, start, point)), start)
    if best == "down least" and share_descending(case, start, iterates[-1], least_confident) < 0.9:
        raise CheckFailed(f"the first step descends, but over {case.steps} steps the pixels do not keep that direction "
                          f"({case})")


def steps_are_uneven(case: Case, before, after) -> bool:
    """Whether pixels moved by different distances, some by more than a step, as a random start does."""
    moved = np.abs(after - before)
    return bool(np.ptp(moved) > 1e-4 and moved.max() > case.step * 1.01)


@check("pgd", "the label is the least confident one", weight=2)
def label(ask, rng):
    """Ascent passes, too, if the label is right; `direction` checks that."""
    _, agreement = one_step(ask, rng)
    if max(agreement["down least"], agreement["up least"]) > 0.95:
        return
    if agreement["up most"] > 0.95:
        raise CheckFailed("the attack climbs the loss of the most confident label, an untargeted attack: the sheet "
                          "requires descent on the loss of the least confident label, logits.argmin(dim=1)")
    if agreement["down most"] > 0.95:
        raise CheckFailed("the attack goes down the loss of the most confident label, which makes the network even "
                          "more confident: the sheet requires the least confident label, logits.argmin(dim=1)")
    raise CheckFailed("the attacked label is not the least confident one, logits.argmin(dim=1): "
                      f"after one step {100 * agreement['down least']:.0f} % of the pixels fit that label's loss")


@check("pgd", "every iterate stays within epsilon of the input", weight=3)
def box(ask, rng):
    for case in (Case(rng, steps=10, step=0.05, epsilon=0.12),
                 Case(rng, steps=12, step=0.08, epsilon=0.1, curvature=0.3),
                 Case(rng, steps=2, step=0.05, epsilon=0.0)):
        facts, results = case.run(ask)
        end = results["adversarial"]
        if facts["num_queries"] == 0 or (np.array_equal(end, case.x) and case.epsilon):
            raise CheckFailed("perturb returns its input unchanged or never calls the network: nothing was attacked")
        if (off := case.outside_box(end)).any():
            raise CheckFailed(f"the result leaves the box ({case}): at index {first_index(off)} it is "
                              f"{np.abs(end - case.x)[off].max():.3g} away from the input{why_outside(case, results)}")
        outside = [n for n, point in enumerate(results.get("queries", [])) if point.shape == case.x.shape
                   and case.outside_box(point).any()]
        if outside:
            raise CheckFailed(f"the result is in the box, but the input of forward pass {outside[0]} of "
                              f"{facts['num_queries']} is outside ({case}): project after each step, not only at the "
                              "end")


def why_outside(case: Case, results: dict) -> str:
    """A hint at the likely cause, to end the sentence."""
    iterates = case.iterates(results)
    steps = [np.abs(after - before).max() for before, after in pairwise(iterates)]
    if (results["adversarial"].min() >= 0 and results["adversarial"].max() <= 1):
        return ". It was clamped to 0..1, but normalised images are not pixels between 0 and 1"
    if steps and max(steps) > case.epsilon * 1.01:
        return ". A single step was larger than epsilon: is it step_size times the sign of the gradient?"
    if steps and all(step <= case.epsilon * 1.01 for step in steps):
        return ". After every step, clip to the box around the input itself, not around the previous iterate"
    return ""


@check("pgd", "clipped to the box only: normalised images are not pixels between 0 and 1", weight=1)
def no_other_clamp(ask, rng):
    case = Case(rng, steps=2, step=0.05, epsilon=5.0)  # more than two steps can reach
    end = case.run(ask)[1]["adversarial"]
    if np.array_equal(end, case.x):
        raise CheckFailed("perturb returns its input unchanged: nothing was attacked")
    if end.min() >= 0 and end.max() <= 1:
        raise CheckFailed("the result was clamped to 0..1, but normalised images are not pixels between 0 and 1")
    if end.min() > case.x.min() + 0.2 or end.max() < case.x.max() - 0.2:
        raise CheckFailed(f"the result lies between {end.min():.2g} and {end.max():.2g}, the images between "
                          f"{case.x.min():.2g} and {case.x.max():.2g}: it was clamped to another range than the box "
                          "around the input")


@check("pgd", "num_steps steps of step_size times the sign of the gradient at the current iterate", weight=3)
def steps(ask, rng):
    for case in (Case(rng, steps=5, step=0.03, epsilon=0.3),
                 Case(rng, steps=8, step=0.05, epsilon=0.15, curvature=0.3)):
        facts, results = case.run(ask)
        if facts["num_queries"] < case.steps:
            raise CheckFailed(f"the network was called {facts['num_queries']} times for num_steps={case.steps}: each "
                              "step needs the gradient at the current iterate")
        iterates = case.iterates(results)
        if "queries" not in results or len(iterates) < 2:
            raise CheckFailed("the network was called on parts of the batch, so that the steps cannot be followed: "
                              "pass the whole batch at once")
        if not any(matches_rule(case, iterates, rule, factor) for rule in label_rules(case) for factor in (-1.0, 1.0)):
            raise CheckFailed(f"the steps are not those of PGD ({case}){diagnosis(case, iterates)}")


def label_rules(case: Case):
    """Functions from an iterate to labels: the least or most confident one, there or at the input, or constant."""
    once, most_likely = case.labels(case.x), case.net.logits(case.x).argmax(1)
    fixed = [partial(constant_label, n) for n in range(len(case.arrays["b"]))]
    anew = [case.labels, lambda point: case.net.logits(point).argmax(1)]
    return [*anew, lambda point: once, lambda point: most_likely, *fixed]


def matches_rule(case: Case, iterates: list, rule, factor: float) -> bool:
    """Whether the iterates are num_steps steps from the input or from a random start, with labels by `rule`."""
    for begin in range(3):  # before a random start there may be a forward pass on the input, for the label
        path = iterates[begin:]
        if len(path) - 1 != case.steps or (begin and not is_random_start(case, iterates[begin - 1], path[0])):
            continue
        if all(is_step(case, before, after, case.net.gradient(before, rule(before)), factor)
               for before, after in pairwise(path)):
            return True
    return False


def is_random_start(case: Case, before, after) -> bool:
    """Whether `after` may be a random start in the box."""
    return steps_are_uneven(case, before, after) and not case.outside_box(after).any()


def diagnosis(case: Case, iterates: list) -> str:
    """A hint at the first step that is wrong, to end the sentence."""
    before, after = iterates[0].astype(np.float64), iterates[1].astype(np.float64)
    if len(iterates) - 1 != case.steps and not steps_are_uneven(case, before, after):
        return f": the images changed in {len(iterates) - 1} steps, expected {case.steps}"
    gradient = case.net.gradient(before, case.labels(before))
    sizes = np.abs(after - before)
    if np.ptp(sizes) > 1e-4 and abs(np.corrcoef(sizes.ravel(), np.abs(gradient).ravel())[0, 1]) > 0.99:
        return ". The first step is proportional to the gradient: take its sign"
    if abs(sizes.max() - case.step) > 1e-4:
        return f". The first step is {sizes.max():.3g}, expected {case.step}"
    for n, (start, end) in enumerate(pairwise(iterates)):
        summed = sum(case.net.gradient(point, case.labels(point)) for point in iterates[:n + 1])
        own = case.net.gradient(start, case.labels(start))
        if not is_step(case, start, end, own):
            if n and (is_step(case, start, end, summed) or is_step(case, start, end, summed / len(case.x))):
                return f". Step {n + 1} follows the sum of all gradients so far: clear the gradient between steps"
            if n and is_step(case, start, end, case.net.gradient(iterates[0], case.labels(iterates[0]))):
                return f". Step {n + 1} follows the gradient at the input, not at the current iterate"
            return f". Step {n + 1} is the first wrong one"
    return ""


@check("pgd", "defaults: num_steps 10, step_size 0.01, epsilon 0.1", weight=1)
def defaults(ask, rng):
    case = Case(rng, steps=10, step=0.01, epsilon=0.1)
    _, results = case.run(ask, use_defaults=True)
    far = float(np.abs(results["adversarial"].astype(np.float64) - case.x).max())
    visited = len(case.iterates(results)) - 1
    if not 10 <= visited <= 11:
        raise CheckFailed(f"PGDAttack(loss_fn) takes {visited} steps, expected 10: num_steps=10 is the default")
    if not 0.02 < far <= 0.1001:
        raise CheckFailed(f"PGDAttack(loss_fn) moves pixels by up to {far:.3g}, expected 0.1: step_size=0.01, "
                          "epsilon=0.1")


@check("pgd", "the network is unchanged: mode, parameters, statistics, no gradients left", weight=2)
def network_untouched(ask, rng):
    case = Case(rng)
    facts, results = case.run(ask)
    if facts["num_queries"] == 0 or np.array_equal(results["adversarial"], case.x):
        raise CheckFailed("perturb returns its input unchanged or never calls the network: nothing was attacked")
    before, after = facts["before"], facts["after"]
    if after["modes"] != before["modes"]:
        raise CheckFailed("perturb leaves the network in training mode, but it was in evaluation mode")
    if np.abs(results["running_mean"] - case.arrays["mean"]).max() > 1e-6:
        raise CheckFailed("perturb changes BatchNorm's running statistics: it calls the network in training mode")
    if after["requires_grad"] != before["requires_grad"]:
        frozen = sum(after["requires_grad"]) < sum(before["requires_grad"])
        raise CheckFailed("perturb leaves parameters frozen (requires_grad False): restore the former "
                          "values" if frozen else
                          "perturb unfreezes a parameter (requires_grad True): restore the former values")
    if not facts["parameters_unchanged"]:
        raise CheckFailed("perturb changes the network's parameters")
    if any(after["has_gradient"]):
        raise CheckFailed("perturb leaves gradients on the parameters, which the next optimiser step would use: "
                          "torch.autograd.grad(loss, input) computes only the gradient of the input")
    facts, _ = case.run(ask, training=True)
    if facts["after"]["modes"] != facts["before"]["modes"]:
        raise CheckFailed("perturb leaves the network in evaluation mode, but it was in training mode: restore the "
                          "mode")


@check("pgd", "the input is unchanged; the result is a new, detached tensor", weight=2)
def input_untouched(ask, rng):
    case = Case(rng, steps=12, step=0.01)
    facts, results = case.run(ask)
    if not np.array_equal(results["x"], case.x):
        raise CheckFailed("perturb modifies its input images: clone them first")
    if np.array_equal(results["adversarial"], case.x):
        raise CheckFailed("perturb returns its input unchanged: nothing was attacked")
    if facts["input_requires_grad"]:
        raise CheckFailed("perturb leaves requires_grad=True on its input images: clone and detach them first")
    if facts["shares_memory"]:
        raise CheckFailed("the result shares memory with the input")
    if facts["attached"]:
        raise CheckFailed("the result is attached to the autograd graph: detach it")
    sizes = facts["graph_sizes"]
    if len(sizes) > 4 and sizes[-1] >= sizes[2] + 3:
        raise CheckFailed(f"the graph grows with each step ({sizes[1]} nodes at the network's input in the second, "
                          f"{sizes[-1]} in the last): detach the images before the next step, or memory runs out")
