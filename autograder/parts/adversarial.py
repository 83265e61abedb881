"""3.3, bonus: adversarial training with a known-good PGD, judged by the images that the first convolution is shown.

The images that count are those of the forward passes to which the gradient of the training loss comes back.
"""

import numpy as np

from autograder.checks import check
from autograder.compare import CheckFailed, format_shape
from autograder.oracle import softmax
from autograder.process import StudentError

CLASSES, MOVED, MAX_EPSILON = 5, 1e-4, 0.5
# Two networks, batches of two, one and three; an evaluation in between; a second epoch. (network, images, mode)
EPOCHS = [(0, 0, 2, "train"), (1, 2, 3, "train"), (0, 2, 3, "train"), (0, 3, 6, "train"), (0, 0, 2, "eval"),
          (1, 3, 6, "train"), (0, 4, 6, "validate"), (0, 0, 2, "train"), (0, 2, 5, "train")]


class Call:
    """One forward pass of a network for the images x, in "train", "eval" or "validate" mode."""

    def __init__(self, x: np.ndarray, call: tuple, facts: dict, arrays: dict):
        self.network, first, last, self.mode = call
        self.x, self.facts, self.logits = x[first:last], facts, arrays["logits"]
        self.passes, self.clean, self.plain = facts["passes"], arrays.get("clean"), arrays.get("plain")
        self.used = arrays.get("used", arrays.get("last"))  # none is used if the network does not learn
        if self.logits.shape != (len(self.x), CLASSES):
            raise CheckFailed(f"its logits have the shape {format_shape(self.logits)} for {len(self.x)} images and "
                              f"{CLASSES} classes ({'training' if self.mode == 'train' else 'evaluation'} mode)")

    def rows(self, n: int) -> list[int]:
        """The rows of `used` that belong to image n: the nearest ones, if there are not as many rows as images."""
        if len(self.used) == len(self.x):
            return [n]
        return [row for row, image in enumerate(self.used) if np.abs(self.x - image).max((1, 2, 3)).argmin() == n]

    def distances(self, n: int) -> list[float]:
        return [float(np.abs(self.used[row] - self.x[n]).max()) for row in self.rows(n)]

    def __str__(self) -> str:
        return f"a batch of {len(self.x)}"


def name_of_class(ask, rng) -> str:
    """AdvSimpleNet, or SimpleNet if AdvSimpleNet is not there or not written: the sheet attaches the attack to it."""
    x = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
    try:
        ask("train_networks", {"x": x}, calls=[[0, 0, 2, "train"]], seed=7, name="AdvSimpleNet")
    except StudentError as error:
        if error.kind not in ("Missing", "NotImplementedError"):
            raise
        try:
            _, results = ask("train_networks", {"x": x}, calls=[[0, 0, 2, "train"]], seed=7, name="SimpleNet")
        except StudentError:
            raise error from None
        if "0.used" not in results or np.array_equal(results["0.used"], x):
            raise error from None
        return "SimpleNet"
    return "AdvSimpleNet"


def run_epochs(ask, rng, mode: str = "train") -> list[Call]:
    """The calls of EPOCHS in this mode. Raises CheckFailed if none of those in training mode uses attacked images."""
    x, name = rng.normal(size=(6, 3, 32, 32)).astype(np.float32), name_of_class(ask, rng)
    facts, results = ask("train_networks", {"x": x}, calls=EPOCHS, seed=7, name=name)
    calls = [Call(x, call, facts["calls"][m], {key.partition(".")[2]: array for key, array in results.items()
                                               if key.startswith(f"{m}.")}) for m, call in enumerate(EPOCHS)]
    training = [call for call in calls if call.mode == "train"]
    if any(call.used is None for call in training):
        raise CheckFailed(
            f"the images never reach a convolution of {name} with 3 input channels: build it from conv_op"
        )
    if not any(far > MOVED for call in training for n in range(len(call.x)) for far in call.distances(n)):
        which = (
            "only one forward pass," if all(len(call.passes) == 1 for call in training) else "the loss's forward pass"
        )
        raise CheckFailed(
            f"in training mode {name} makes {which} on clean images: no adversarial sample is used. main.py "
            "calls model(images), without labels, so forward has to run the attack if self.training"
        )
    return [call for call in calls if (call.mode == "train") == (mode == "train")]


@check("adversarial", "in training mode the loss uses attacked images: every image of every batch", weight=3)
def attacks_in_training(ask, rng):
    calls = run_epochs(ask, rng)
    for m, call in enumerate(calls):
        clean = [n for n in range(len(call.x)) if not call.rows(n) or min(call.distances(n)) <= MOVED]
        if clean and max(max(call.distances(n), default=0) for n in clean) > MOVED:
            raise CheckFailed(f"in {call}, the loss uses the clean images beside the attacked ones: the adversarial "
                              "sample of each image takes its place")
        if len(clean) == len(call.x):
            raise CheckFailed(f"the loss uses clean images in step {m + 1} of {len(calls)}, {call}, though it uses "
                              "attacked ones in another: attack each batch")
        if clean:
            raise CheckFailed(f"in {call} images, {len(clean)} are not attacked: the adversarial sample of each image "
                              "takes its place")


@check("adversarial", "in evaluation mode it does not attack", weight=2)
def does_not_attack_in_evaluation(ask, rng):
    for call in run_epochs(ask, rng, "eval"):
        if len(call.used) != len(call.x) or not np.array_equal(call.used, call.x) or call.facts["attacks"]:
            raise CheckFailed("in evaluation mode it attacks, too: attack only if self.training")


@check(
    "adversarial", "the forward pass that the loss uses runs in training mode, and each call keeps the mode", weight=2
)
def modes(ask, rng):
    for call in run_epochs(ask, rng):
        if not call.facts["modes_kept"]:
            raise CheckFailed("forward leaves the network in evaluation mode: from the second batch on it would not "
                              "attack, and BatchNorm and Dropout would be inactive")
        if not all(training for _, training, used in call.passes if used):
            raise CheckFailed("the forward pass that the loss uses runs in evaluation mode: switch back before it")
    if not all(call.facts["modes_kept"] for call in run_epochs(ask, rng, "eval")):
        raise CheckFailed("in evaluation mode, forward switches the network to training mode: restore the mode that "
                          "it had")


@check("adversarial", "every parameter learns from the attacked images, and from nothing else", weight=2)
def gradients(ask, rng):
    for call in run_epochs(ask, rng):
        if call.facts["stale"]:
            raise CheckFailed(
                "forward leaves gradients on the parameters: the attack's gradients would be added to the loss's"
            )
        if not call.facts["frozen_kept"]:
            raise CheckFailed("forward leaves parameters frozen (requires_grad False): restore the former values")
        if not call.facts["attached"]:
            raise CheckFailed(f"the logits have no gradient, in {call}: forward runs under no_grad, or the output is "
                              "detached")
    facts, results = ask("training_slopes", {"x": rng.normal(size=(3, 3, 32, 32)).astype(np.float32)}, seed=7,
                         name=name_of_class(ask, rng))
    if "names" not in facts:  # judged in float32 and without differences
        if dead := [name for name, has in zip(call.facts["names"], call.facts["has_gradient"]) if not has]:
            raise CheckFailed(
                f"the loss's gradient does not reach {', '.join(dead[:3])}: the output is detached from it"
            )
        return
    if facts["gap"] > 1e-6:
        raise CheckFailed("in training mode the logits are not the network's own for the attacked images: nothing else "
                          "belongs to the loss's forward pass")
    analytic, numeric = results["analytic"], results["numeric"]
    # In both directions: in one, a difference may straddle the kink of a ReLU.
    off = (np.abs(analytic - numeric) > 5e-3 * np.abs(numeric) + 1e-5 * np.abs(numeric).max()).all(1)
    if off.any():
        wrong = [name for name, is_off in zip(facts["names"], off) if is_off]
        zero = "none" if not analytic[off].any() else "another"
        raise CheckFailed(
            f"{len(wrong)} of {len(off)} parameters get {zero} gradient than the loss has for the attacked "
            f"images, e.g. {wrong[0]}: forward runs under no_grad, or something in it is detached"
            if zero == "another"
            else f"the loss's gradient does not reach {len(wrong)} of {len(off)} parameters, e.g. {wrong[0]}: "
            "forward runs under no_grad, or something in it is detached"
        )


@check("adversarial", "the attack stays within epsilon and makes the network less confident", weight=2)
def attack_is_one(ask, rng):
    calls = run_epochs(ask, rng)
    for call in calls:
        asked = max((attack["epsilon"] for attack in call.facts["attacks"]), default=MAX_EPSILON)
        if asked > MAX_EPSILON:
            raise CheckFailed(
                f"the attack's epsilon is {asked:g}: far more than the 0.1 of an attack that looks like the image"
            )
        far = max((far for n in range(len(call.x)) for far in call.distances(n)), default=0.0)
        if far > asked * 1.001 + 1e-5:
            raise CheckFailed(
                f"the training images differ from the clean ones by up to {far:.2g}: more than an attack with "
                f"epsilon {asked:g} allows"
            )
    judged = [fooled for call in calls if call.clean is not None and call.plain is not None for fooled in success(call)]
    if judged and sum(judged) < len(judged):
        raise CheckFailed(
            f"for {len(judged) - sum(judged)} of {len(judged)} training images the attack makes the network "
            "more confident: neither does the loss of the least confident label fall, nor that of the most "
            "confident one rise"
        )


def success(call: Call) -> list[bool]:
    """For each attacked image, whether the least confident label gained or the most confident one lost."""
    fooled = []
    for n, logits in enumerate(call.clean):
        for row in call.rows(n):
            before, after = (np.log(softmax(one.astype(np.float64))) for one in (logits, call.plain[row]))
            if np.abs(call.used[row] - call.x[n]).max() > MOVED:
                fooled.append(bool(after[before.argmin()] > before.min() or after[before.argmax()] < before.max()
                                   or after.min() > before.min()))
    return fooled


@check("adversarial", "the input is unchanged, and nothing is left behind", weight=1)
def input_untouched(ask, rng):
    for call in run_epochs(ask, rng) + run_epochs(ask, rng, "eval"):
        if call.facts["input_changed"]:
            raise CheckFailed("forward modifies its input images")
        if call.facts["input_requires_grad"]:
            raise CheckFailed("forward leaves requires_grad=True on its input images: attack a detached copy")
        if call.facts["process_changed"]:
            raise CheckFailed(f"forward changes {', '.join(call.facts['process_changed'])} of torch for all code that "
                              "follows: set it back")
