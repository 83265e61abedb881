"""3.3, bonus: adversarial training with a known-good PGD, judged by the inputs of the first convolution."""

import numpy as np

from autograder.checks import check
from autograder.compare import CheckFailed
from autograder.process import StudentError


def run_training(ask, rng, training: bool = True) -> tuple[dict, dict, np.ndarray]:
    """Facts and arrays of one forward pass (and backward, if `training`), and the images."""
    x = rng.normal(size=(2, 3, 48, 48)).astype(np.float32)
    settings = {"seed": 7, "training": training}
    try:
        facts, results = ask("run_adversarial_training", {"x": x}, own_attack=False, **settings)
    except StudentError as error:
        # The known-good PGD does not switch to evaluation mode. A student's own may, which also avoids the recursion.
        if error.kind != "RecursionError":
            raise
        facts, results = ask("run_adversarial_training", {"x": x}, own_attack=True, **settings)
    if not facts["training_modes"]:
        raise CheckFailed(f"the images never reach a convolution of {facts['class']} with 3 input channels: build it "
                          "from conv_op")
    return facts, results, x


def require_attack(facts: dict, results: dict, x: np.ndarray) -> None:
    """Raise CheckFailed unless the last forward pass, which the loss uses, got attacked images."""
    single_pass = len(facts["training_modes"]) == 1
    if single_pass or np.array_equal(results["last"], x):
        which = "only one forward pass," if single_pass else "its last forward pass"
        raise CheckFailed(f"in training mode {facts['class']} makes {which} on clean images: no adversarial sample is "
                          "used. main.py calls model(images), without labels, so forward has to run the attack if "
                          "self.training")


@check("adversarial", "in training mode the loss uses attacked images", weight=3)
def attacks_in_training(ask, rng):
    facts, results, x = run_training(ask, rng)
    require_attack(facts, results, x)
    distance = float(np.abs(results["last"] - x).max())
    if distance > 0.5:
        raise CheckFailed(f"the training images differ from the clean ones by up to {distance:.2g}: more than an "
                          "attack with epsilon 0.1 allows")
    if results["logits"].shape != (2, 5):
        raise CheckFailed(f"its logits have the shape {results['logits'].shape} for 2 images and 5 classes")


@check("adversarial", "in evaluation mode it does not attack", weight=2)
def does_not_attack_in_evaluation(ask, rng):
    require_attack(*run_training(ask, rng))
    facts, results, x = run_training(ask, rng, training=False)
    if len(facts["training_modes"]) > 1 or not np.array_equal(results["last"], x):
        raise CheckFailed("in evaluation mode it attacks, too: attack only if self.training")


@check("adversarial", "the forward pass that the loss uses runs in training mode, which stays on afterwards", weight=2)
def modes(ask, rng):
    facts, results, x = run_training(ask, rng)
    require_attack(facts, results, x)
    if not facts["modes_restored"]:
        raise CheckFailed("forward leaves the network in evaluation mode: from the second batch on it would not "
                          "attack, and BatchNorm and Dropout would be inactive")
    if not facts["training_modes"][-1]:
        raise CheckFailed("the forward pass that the loss uses runs in evaluation mode: switch back before it")


@check("adversarial", "gradients of the loss reach every parameter, and the attack leaves none", weight=2)
def gradients(ask, rng):
    facts, results, x = run_training(ask, rng)
    require_attack(facts, results, x)
    if facts.get("stale_gradients"):
        raise CheckFailed("forward leaves gradients on the parameters: the attack's gradients would be added to the "
                          "loss's")
    if not all(facts["has_gradient"]):
        raise CheckFailed(f"the loss's gradient reaches {sum(facts['has_gradient'])} of {len(facts['has_gradient'])} "
                          "parameters: forward runs under no_grad, or the output is detached, or parameters stay "
                          "frozen")


@check("adversarial", "the input is unchanged", weight=1)
def input_untouched(ask, rng):
    facts, results, x = run_training(ask, rng)
    require_attack(facts, results, x)
    if facts["input_changed"]:
        raise CheckFailed("forward modifies its input images")
