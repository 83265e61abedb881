"""3.3: PGDAttack, followed step by step on networks with a closed-form gradient.

Accuracy is a weak test: gradient ascent on the wrong loss lowers it, too. So the images that the network is shown (the
iterates) are compared with the steps of PGD. A random start and a label chosen once are accepted. Each check but the
last looks at one aspect, in cases that the others do not affect, so that one mistake costs once; the last looks at them
all together, and passes if another one has failed.
"""

from itertools import pairwise

import numpy as np

from autograder.attack_path import ROUNDING, Case, Run, attack_once, clear
from autograder.checks import check
from autograder.compare import CheckFailed, Remark, first_index


def share_descending(case: Case, before: np.ndarray, after: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """For each label, the share of the moved pixels of one image that went against the gradient of its loss."""
    gradients = case.gradients(before, smoothing)
    moved = (np.abs(after - before) > 1e-6) & clear(gradients)
    descending = (np.sign(after - before) == -np.sign(gradients)) & moved
    return np.where(moved.any((1, 2, 3)), descending.sum((1, 2, 3)) / np.maximum(moved.sum((1, 2, 3)), 1), 0.5)


def first_steps(ask, rng) -> list[tuple[set[int], int, np.ndarray]]:
    """One step from several images: the least confident labels, the most confident one, and `share_descending`."""
    case = Case(rng, steps=1, slope=0.4)
    run, found = attack_once(ask, case), []
    for n, origin in enumerate(run.x):
        if np.array_equal(run.end[n], origin):
            continue  # `batches` judges this
        shares = [share_descending(case, start, run.end[n]) for start in run.visited[n]]
        if not shares:
            raise CheckFailed(f"image {n} of {len(run.x)} is never shown to the network, nor anything near it")
        best = max(range(len(shares)), key=lambda j: np.abs(shares[j] - 0.5).max())
        start = run.visited[n][best]
        found.append((case.least(start) | case.least(origin), int(case.net.logits(start[None])[0].argmax()),
                      shares[best]))
    return found


@check("pgd", "direction: gradient descent on the loss of its label", weight=3)
def direction(ask, rng):
    """Any label passes, and the untargeted attack; which label is checked by `label`."""
    found = first_steps(ask, rng)
    if any(min(down[list(least)]) < 0.02 for least, _, down in found):
        raise CheckFailed("the attack climbs the loss of the least confident label, which makes it even less likely: "
                          "subtract step_size * sign(gradient), do not add it")
    for n, (least, most, down) in enumerate(found):
        if down.max() < 0.98 and down[most] > 0.02:
            raise CheckFailed(
                f"only {100 * max(down[list(least)]):.0f} % of the pixels of image {n} that moved went "
                "against the gradient of the least confident label's loss: is it the gradient with respect "
                "to this image, at this image, of loss_fn of the logits?", follows_from=[box]
            )


@check("pgd", "the label is the least confident one", weight=2)
def label(ask, rng):
    """At each step, or once for all. Ascent passes, too, if the label is right."""
    for curvature in (0.0, 0.05):
        case = Case(rng, steps=5, curvature=curvature)
        run = attack_once(ask, case)
        # The move from a random start outside the box is mostly the projection, which says nothing of a label.
        outside = [int(run.outside_box(n, path[0]).any()) for n, path in enumerate(run.paths)]
        labels = [[set()] * skip + labels_along(case, path[skip:]) for path, skip in zip(run.paths, outside)]
        if not any(all(follows(case, path, own, rule) for path, own in zip(run.paths, labels))
                   for rule in ("anew", "at the first point", "at the second point")):
            sentence = wrong_label(case, run, labels)
            raise CheckFailed(sentence, follows_from=[] if "nothing" in sentence else [steps])


def labels_along(case: Case, path: list[np.ndarray]) -> list[set[int]]:
    """The labels whose loss falls at each step of a path (rises, if it does so at the first); empty if none fits.

    {-1}: the steps have nothing to do with any label.
    """
    shares = [share_descending(case, *step) for step in pairwise(path)]
    fitting = next((down for down in shares if np.abs(down - 0.5).max() > 0.48), None)
    if fitting is None:  # `direction` judges gradients that are a little wrong
        return [set() if not shares or max(np.abs(down - 0.5).max() for down in shares) > 0.15 else {-1}]
    return [set(np.flatnonzero(down > 0.98 if fitting.max() > 0.98 else down < 0.02).tolist()) for down in shares]


def follows(case: Case, path: list[np.ndarray], labels: list[set[int]], rule: str) -> bool:
    """Whether each label (empty sets apart) is the least confident one, at its own point or at a fixed one."""
    points = path if rule == "anew" else [path[rule == "at the second point"]] * len(path)
    return all(not own or own & case.least(point) for own, point in zip(labels, points))


def wrong_label(case: Case, run: Run, labels: list[list[set[int]]]) -> str:
    n = next(n for n in range(len(labels)) if not follows(case, run.paths[n], labels[n], "anew"))
    step = next(k for k, own in enumerate(labels[n]) if own and not own & case.least(run.paths[n][k]))
    most = int(case.net.logits(run.paths[n][step][None])[0].argmax())
    if labels[n][step] == {-1}:
        return "the steps have nothing to do with the gradient of the loss of any label"
    if labels[n][step] != {most}:
        return (f"the attacked label is not the least confident one, logits.argmin(dim=1), for image {n} of "
                f"{len(labels)}, at step {step + 1} of {case.steps}")
    if share_descending(case, *run.paths[n][step:step + 2])[most] < 0.02:
        return (
            "the attack climbs the loss of the most confident label, an untargeted attack: the sheet requires descent "
            "on the loss of the least confident label, logits.argmin(dim=1)"
        )
    return (
        "the attack goes down the loss of the most confident label, which makes the network even more confident: the "
        "sheet requires the least confident label, logits.argmin(dim=1)"
    )


# ------------------------------------------------------------------------------------------------- the steps


@check("pgd", "num_steps steps of step_size times the sign of the gradient at the current iterate", weight=3)
def steps(ask, rng):
    """Far from the walls of the box: first on a network whose signs never change, then on one where they do."""
    for case in (Case.two_labels(rng, steps=5), Case.two_labels(rng, steps=3, step=0.03)):
        run = attack_once(ask, case)
        for n in range(len(run.x)):
            straight = any(went_straight(run, n, run.visited[n][begin]) for begin in run.starts(n))
            if not straight and not np.array_equal(run.end[n], run.x[n]):
                raise wrong_count_or_size(run, n)
    for curvature in (0.05, 0.15):
        case = Case(rng, steps=8, step=0.012, curvature=curvature)
        run = attack_once(ask, case)
        for n in range(len(run.x)):
            fits = max(run.fit(n, any_step(run, n, factor)) for factor in (-1, 1))
            if fits < case.steps:
                require_own_gradients(run, n)
    images = run.shown / len(run.x)
    if images > 2 * case.steps + 3:
        raise Remark(
            f"each image is shown to the network {images:.0f} times for num_steps={case.steps}: once a step is "
            "enough, and most of the time goes there"
        )


def went_straight(run: Run, n: int, start: np.ndarray) -> bool:
    """Whether each pixel is num_steps steps away from the start, or at the wall of the box."""
    low, high = run.x[n] - run.case.epsilon, run.x[n] + run.case.epsilon
    ends = [np.clip(start + direction * run.case.steps * run.case.step, low, high) for direction in (-1, 1)]
    return bool(np.all(np.min([np.abs(run.end[n] - end) for end in ends], axis=0) < ROUNDING))


def wrong_count_or_size(run: Run, n: int) -> CheckFailed:
    """What is wrong with steps that should go straight on."""
    case, path = run.case, run.paths[n]
    sizes = [np.abs(after - before) for before, after in pairwise(path)]
    gradient = np.abs(case.gradients(path[0])[0])
    if np.ptp(sizes[0]) > 1e-6 and np.corrcoef(sizes[0].ravel(), gradient.ravel())[0, 1] > 0.99:
        return CheckFailed(f"the steps are proportional to the gradient ({case}): take its sign", [box])
    if all(np.abs(size - case.step).max() < ROUNDING for size in sizes) and len(sizes) != case.steps:
        return CheckFailed(f"the images moved in {len(sizes)} steps of {case.step:g}, expected num_steps={case.steps}",
                           [box])
    odd = next((k for k, size in enumerate(sizes) if np.abs(size - case.step).max() >= ROUNDING), None)
    if odd is None:
        return CheckFailed(f"the pixels do not keep the direction of the gradient over {case.steps} steps ({case})",
                           [box, label])
    return CheckFailed(f"step {odd + 1} moves a pixel by {sizes[odd].max():.3g}, expected step_size={case.step:g} "
                       f"({case})", [box])


def any_step(run: Run, n: int, factor: int):
    """Returns is_step(before, after) for steps along the sign of any label's gradient, clipped or not."""
    def is_step(before, after):
        return bool(
            labels_of_step(run, n, before, after, factor) or labels_of_step(run, n, before, after, factor, False)
        )

    return is_step


def labels_of_step(run: Run, n: int, before, after, factor: int = -1, clip: bool = True) -> set[int]:
    """The labels for which `after` is before + factor * step_size * sign(gradient), clipped to image n's box."""
    gradients, case = run.case.gradients(before), run.case
    if np.abs(after - before).max() > case.step + ROUNDING:
        return set()
    wanted = before + factor * case.step * np.sign(gradients)
    if clip:
        wanted = np.clip(wanted, run.x[n] - case.epsilon, run.x[n] + case.epsilon)
    off = (np.abs(after - wanted) > ROUNDING) & clear(gradients)
    return set(np.flatnonzero(~off.any((1, 2, 3))).tolist())


def require_own_gradients(run: Run, n: int) -> None:
    """Raise CheckFailed with the first wrong step of image n, unless its very first one is: `direction` judges that."""
    case, path = run.case, run.paths[n]
    if len(path) > 1 and np.array_equal(path[0], run.x[n]) and run.is_random_start(n, path[1]):
        path = path[1:]
    taken = list(pairwise(path))
    factor = next((f for f in (-1, 1) if taken and any_step(run, n, f)(*taken[0])), None)
    if factor is None:
        return
    wrong = next((k for k, step in enumerate(taken) if not any_step(run, n, factor)(*step)), None)
    if wrong is None:
        raise CheckFailed(f"the images moved in {len(taken)} steps, expected num_steps={case.steps} ({case})")
    # Both may explain one step: the sum of two gradients often has the signs of the first.
    sums = np.cumsum([case.gradients(point)[min(case.least(point))] for point in path[:-1]], axis=0)
    summed = sum(goes_along(*taken[k], factor * sums[k]) for k in range(wrong, len(taken)))
    first = max(sum(goes_along(*step, factor * gradient) for step in taken[wrong:])
                for gradient in case.gradients(path[0]))
    if summed > first:
        raise CheckFailed(
            f"step {wrong + 1} follows the sum of all gradients so far ({case}): clear the gradient between steps"
        )
    if first:
        raise CheckFailed(
            f"step {wrong + 1} follows the gradient at the first point, not at the current iterate ({case})"
        )
    raise CheckFailed(f"step {wrong + 1} is not step_size times the sign of the gradient at the current iterate "
                      f"({case})", follows_from=[direction, box])


def goes_along(before, after, gradient) -> bool:
    sure = np.abs(gradient) > 1e-2 * np.abs(gradient).max()
    return bool((np.sign(after - before) == np.sign(gradient))[sure].mean() > 0.99)


# --------------------------------------------------------------------------------------------------- the box


@check("pgd", "every iterate stays within epsilon of the input", weight=3)
def box(ask, rng):
    inexact = None
    for case in (Case.two_labels(rng, steps=3, step=0.3, epsilon=0.1),
                 Case.two_labels(rng, steps=9, step=0.05, epsilon=0.12),
                 Case(rng, steps=12, step=0.03, epsilon=0.05, curvature=0.1),
                 Case(rng, steps=2, step=0.05, epsilon=0.0)):
        run = attack_once(ask, case)
        for n, origin in enumerate(run.x):
            if (off := run.outside_box(n, run.end[n])).any():
                far = np.abs(run.end[n] - origin)[off].max()
                raise CheckFailed(
                    f"the result leaves the box ({case}): at index {(n, *first_index(off))} it is {far:.3g} "
                    f"away from the input{why_outside(run, n)}"
                )
            if any(run.outside_box(n, point).any() for point in run.visited[n]):
                raise CheckFailed(
                    f"the result is in the box, but not the inputs of all forward passes ({case}): project "
                    "after each step, not only at the end"
                )
            inexact = inexact or inexact_clip(run, n)
    if inexact:
        raise CheckFailed(inexact, follows_from=[steps])


def inexact_clip(run: Run, n: int) -> str:
    """What is wrong, if a step does not end step_size away or at the wall of the box; otherwise an empty string."""
    low, high = run.x[n] - run.case.epsilon, run.x[n] + run.case.epsilon
    for before, after in pairwise(run.paths[n]):
        ends = [np.clip(before + direction * run.case.step, low, high) for direction in (-1, 0, 1)]
        off = np.min([np.abs(after - end) for end in ends], axis=0) > ROUNDING
        if off.any() and not (np.array_equal(before, run.x[n]) and run.is_random_start(n, after)):
            index = first_index(off)
            return (
                f"a pixel {before[index] - run.x[n][index]:.3g} away from the input goes to "
                f"{after[index] - run.x[n][index]:.3g} ({run.case}): clip each pixel to input - epsilon and input + "
                "epsilon, and change nothing else"
            )
    return ""


def why_outside(run: Run, n: int) -> str:
    """A hint at the likely cause, to end the sentence."""
    steps = [np.abs(after - before).max() for before, after in pairwise(run.paths[n])]
    if run.case.epsilon and max(steps, default=0) > max(run.case.step, run.case.epsilon) * 1.01:
        return ". A single step was larger than step_size: is it step_size times the sign of the gradient?"
    if run.case.step > run.case.epsilon > 0 and all(step <= run.case.epsilon * 1.01 for step in steps):
        return ". After every step, clip to the box around the input itself, not around the previous iterate"
    return ""


@check("pgd", "clipped to the box only: normalised images are not pixels between 0 and 1", weight=1)
def no_other_clamp(ask, rng):
    case = Case(rng, steps=2, wide=True)  # wide: some pixels lie further than epsilon outside 0..1
    run = attack_once(ask, case)
    end = run.end
    far = any(run.outside_box(n, end[n]).any() for n in range(len(run.x)))
    if far and end.min() >= 0 and end.max() <= 1:
        raise CheckFailed("the result was clamped to 0..1, but normalised images are not pixels between 0 and 1")
    if far and (end.min() > case.x.min() + case.epsilon or end.max() < case.x.max() - case.epsilon):
        raise CheckFailed(f"the result lies between {end.min():.2g} and {end.max():.2g}, the images between "
                          f"{case.x.min():.2g} and {case.x.max():.2g}: it was clamped to another range than the box "
                          "around the input")
