"""3.3: the arguments of PGDAttack, independence of calls, what perturb leaves behind, and all aspects together."""

from collections.abc import Callable

import numpy as np

from autograder.attack_path import ROUNDING, Case, Run, attack, attack_once
from autograder.checks import check
from autograder.compare import CheckFailed
from autograder.parts.pgd import box, direction, label, labels_of_step, no_other_clamp, share_descending, steps


def same(run: Run, other: np.ndarray) -> bool:
    """Whether nearly all pixels of each image agree: rounding differs between batch sizes, and may flip a sign."""
    return bool(((np.abs(run.end - other) < ROUNDING).mean((1, 2, 3)) > 0.95).all())


# --------------------------------------------------------------------------------------------- arguments

DEFAULTS = {"num_steps": 10, "step_size": 0.01, "epsilon": 0.1}


@check("pgd", "arguments: loss_fn, num_steps=10, step_size=0.01, epsilon=0.1", weight=1)
def arguments(ask, rng):
    """Each default gives what the attack itself gives for that value, also if the others are positional."""
    for name, case in (("num_steps", Case.two_labels(rng, steps=10, step=0.02)),
                       ("step_size", Case.two_labels(rng, steps=6, step=0.01)),
                       ("epsilon", Case.two_labels(rng, steps=14, step=0.02, epsilon=0.1))):
        explicit = attack_once(ask, case)
        if not same(attack_once(ask, case), explicit.end):
            return  # random numbers that no seed makes repeatable
        by_position = attack_once(ask, case, given=[list(case.settings.values())])
        if not same(by_position, explicit.end):
            raise CheckFailed(f"PGDAttack(loss_fn, {', '.join(map(str, case.settings.values()))}) is not PGDAttack("
                              f"loss_fn, {case}): the order is num_steps, step_size, epsilon")
        without = {key: value for key, value in case.settings.items() if key != name}
        run = attack_once(ask, case, given=[without])
        if not same(run, explicit.end):
            far, wanted = (np.abs(end - case.x).max() for end in (run.end, explicit.end))
            raise CheckFailed(f"without the argument {name}, pixels move by up to {far:.3g}; with {name}="
                              f"{DEFAULTS[name]}, the sheet's default, by up to {wanted:.3g} ({case})")
    require_loss_function(ask, rng)


def require_loss_function(ask, rng) -> None:
    """With label smoothing in loss_fn, the first step has to follow the smoothed loss, if it follows the plain one."""
    case, shares = Case(rng, steps=1, slope=0.6), {}  # unequal logits: there smoothing matters
    for given in (0.0, 0.6):
        run = attack_once(ask, case, label_smoothing=given)
        for smoothing in (0.0, 0.6):
            shares[given, smoothing] = min(
                (np.abs(share_descending(case, run.visited[n][begin], run.end[n], smoothing) - 0.5).max()
                 for n in range(len(run.x)) for begin in run.starts(n)[-1:]), default=0.0)
    if min(shares[0.0, 0.0], shares[0.6, 0.0]) > 0.48 > shares[0.6, 0.6]:
        raise CheckFailed("the attack follows the plain cross-entropy, whatever loss_fn is given: use self.loss_fn")


# ------------------------------------------------------------------------------------------------- calls


@check("pgd", "each image is attacked alike in every batch and every call", weight=2, beside=True)
def batches(ask, rng):
    """Batches of one, of two and the rest, a second call, and another attack on another network in between."""
    try:
        for case in (Case.two_labels(rng, steps=8, step=0.05, epsilon=0.1, N=5), Case(rng, steps=3, N=5)):
            require_same_in_every_call(ask, rng, case)
    except CheckFailed as failed:
        raise CheckFailed(str(failed), follows_from=[direction, label, steps, box]) from None


def require_same_in_every_call(ask, rng, case: Case) -> None:
    other = Case(rng, steps=2, step=0.01, epsilon=0.05, classes=4, N=3)
    expected, repeated = (attack_once(ask, case, seed=seed).end for seed in (5, 6))
    if unchanged := [n for n in range(5) if np.array_equal(expected[n], case.x[n])]:
        raise CheckFailed(f"image {unchanged[0]} of 5 is not attacked")
    if not (np.abs(repeated - expected) < ROUNDING).all():
        return  # a random start shows; the walls of a box hide it
    calls = [(0, 0, 5), (0, 0, 1), (1, 0, 3), (0, 1, 2), (0, 0, 2), (1, 2, 3), (0, 2, 5), (0, 0, 5)]
    for (n, first, last), run in zip(calls, attack(ask, case, other, calls=calls)[0]):
        if n == 0 and not same(run, expected[first:last]):
            batch = {1: "alone in a batch", 5: "in a later call"}.get(last - first, f"in a batch of {last - first}")
            raise CheckFailed(
                f"of 5 images, {first} to {last - 1} get another result {batch} than together in the first "
                "call: each image has its own label, gradient and box, and nothing is kept between calls"
            )


# ------------------------------------------------------------------------------------------ left behind


@check("pgd", "the network and torch are unchanged: mode, parameters, statistics, no gradients left", weight=2)
def network_untouched(ask, rng):
    case = Case(rng)
    (run,), facts = attack(ask, case, sensitive=True)
    run.require_attack()
    before, after = run.facts["before"], run.facts["after"]
    if after["modes"] != before["modes"]:
        raise CheckFailed("perturb leaves the network in training mode, but it was in evaluation mode")
    if any(training for _, training, _, _ in run.facts["passes"]) or after["buffers"] != before["buffers"]:
        raise CheckFailed("perturb calls the network in training mode, though it was in evaluation mode, so that "
                          "BatchNorm's running statistics change and dropout disturbs the gradients")
    if after["requires_grad"] != before["requires_grad"]:
        frozen = sum(after["requires_grad"]) < sum(before["requires_grad"])
        raise CheckFailed("perturb leaves parameters frozen (requires_grad False): restore the former "
                          "values" if frozen else
                          "perturb unfreezes a parameter (requires_grad True): restore the former values")
    if after["parameters"] != before["parameters"]:
        raise CheckFailed("perturb changes the network's parameters")
    if any(after["has_gradient"]):
        raise CheckFailed("perturb leaves gradients on the parameters, which the next optimiser step would use: "
                          "torch.autograd.grad(loss, input) computes only the gradient of the input")
    if after["hooks"] != before["hooks"]:
        raise CheckFailed("perturb leaves hooks on the network: remove() them")
    if run.facts["process_changed"]:
        raise CheckFailed(
            f"perturb changes {', '.join(run.facts['process_changed'])} of torch for all code that follows: set it back"
        )
    if set(facts["draws"]) & set(attack(ask, case, seed=6, sensitive=True)[1]["draws"]):
        raise CheckFailed("perturb sets the seed of all random numbers (manual_seed), so that the training after it "
                          "repeats them")
    (run,), _ = attack(ask, case, training=True)
    if run.facts["after"]["modes"] != run.facts["before"]["modes"]:
        raise CheckFailed("perturb leaves the network in evaluation mode, but it was in training mode: restore the "
                          "mode")


@check("pgd", "the input is unchanged; the result is a new, detached tensor", weight=2)
def input_untouched(ask, rng):
    run = attack_once(ask, Case(rng, steps=20, step=0.01))
    if run.facts["input_changed"]:
        raise CheckFailed("perturb modifies its input images: clone them first")
    if run.facts["input_requires_grad"]:
        raise CheckFailed("perturb leaves requires_grad=True on its input images: clone and detach them first")
    if run.facts["shares_memory"]:
        raise CheckFailed("the result shares memory with the input")
    if run.facts["attached"]:
        raise CheckFailed("the result is attached to the autograd graph: detach it")
    sizes = [size for *_, size in run.facts["passes"]]
    if max(sizes) > max(sizes[:2]) + 12:
        raise CheckFailed(
            f"the graph grows with each step ({max(sizes[:2])} nodes at the network's input at the beginning, "
            f"{max(sizes)} later): detach the images before the next step, or memory runs out"
        )


# ---------------------------------------------------------------------------------------------- together


@check("pgd", "all steps of all images, for other settings, networks and batches", weight=3, beside=True)
def everything(ask, rng):
    """Also for no step, one step, an epsilon of 0, steps larger than epsilon, and values outside 0..1."""
    try:
        for settings in ((1, 0.04, 0.1), (7, 0.01, 0.5), (12, 0.05, 0.08), (3, 0.3, 0.1), (4, 0.02, 0.0),
                         (0, 0.01, 0.1), (9, 0.02, 0.07), (25, 0.004, 0.03)):
            case = Case(rng, *settings, classes=int(rng.integers(3, 9)), curvature=float(rng.choice([0.0, 0.05])),
                        N=int(rng.choice([1, 2, 3, 5])), wide=bool(rng.integers(2)),
                        slope=float(rng.choice([0.1, 0.3])))
            run = attack_once(ask, case, training=bool(rng.integers(2)), reduction=str(rng.choice(["mean", "sum"])))
            require_all_steps(run)
    except CheckFailed as failed:
        raise CheckFailed(str(failed), follows_from=OTHERS) from None


def require_all_steps(run: Run) -> None:
    """Raise CheckFailed unless each image takes exactly the steps of PGD, with one rule for its labels."""
    case = run.case
    if not case.steps:
        if not all(np.array_equal(end, run.x[n]) or (run.is_random_start(n, end) and not run.outside_box(n, end).any())
                   for n, end in enumerate(run.end)):
            raise CheckFailed("num_steps=0 still changes the images")
        return
    best = (0, 0)
    for rule in ("anew", 0, 1, 2):  # labels of each point, or of the image, of the first start, of the second
        fits = [run.fit(n, least_step(run, n, rule)) for n in range(len(run.x))]
        best = max(best, (min(fits), int(np.argmin(fits))))
    steps, n = best
    if steps < case.steps:
        raise CheckFailed(f"step {steps + 1} of {case.steps} is wrong for image {n} of {len(run.x)} ({case}, "
                          f"{len(case.arrays['b'])} classes): expected the sign of the gradient of the least confident "
                          "label's loss, times step_size, clipped to the box around the input")


def least_step(run: Run, n: int, rule: str | int) -> Callable:
    """Returns is_step(before, after) for the least confident label, chosen at each step or once for all."""
    places = [run.x[n], *(run.visited[n][begin] for begin in run.starts(n))]

    def is_step(before, after):
        place = before if rule == "anew" else places[min(rule, len(places) - 1)]
        return bool(labels_of_step(run, n, before, after) & run.case.least(place))
    return is_step


OTHERS = [direction, label, box, no_other_clamp, steps, arguments, batches, network_untouched,
          input_untouched]
