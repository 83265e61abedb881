"""3.3, bonus: adversarial training, around a known-good PGD, by what the first convolution gets to see."""

import numpy as np

from autograder.checks import check
from autograder.compare import Wrong
from autograder.process import StudentError


def train(ask, rng, training: bool = True) -> tuple[dict, dict, np.ndarray]:
    x = rng.normal(size=(2, 3, 48, 48)).astype(np.float32)
    settings = {"seed": 7, "training": training}
    try:
        facts, results = ask("adversarial_training", {"x": x}, own_attack=False, **settings)
    except StudentError as error:
        # The stand-in leaves the network in training mode; an attack of the student's that does not is as good.
        if error.kind != "RecursionError":
            raise
        facts, results = ask("adversarial_training", {"x": x}, own_attack=True, **settings)
    if not facts["passes"]:
        raise Wrong(f"the images never reach a convolution of {facts['class']} with 3 input channels: build it from "
                    "conv_op")
    return facts, results, x


def attacked(facts: dict, results: dict, x: np.ndarray) -> None:
    """Raise Wrong unless the last pass, the one that is learnt from, saw attacked images."""
    if len(facts["passes"]) == 1 or np.array_equal(results["last"], x):
        never = "once, with the clean images" if len(facts["passes"]) == 1 else "with the clean images in its last pass"
        raise Wrong(f"in training mode {facts['class']} runs {never}: no adversarial sample is trained on. The driver "
                    "calls model(images), without labels, so that forward has to attack by itself if self.training")


@check("adversarial", "in training it learns from attacked images", weight=3)
def attacks(ask, rng):
    facts, results, x = train(ask, rng)
    attacked(facts, results, x)
    far = float(np.abs(results["last"] - x).max())
    if far > 0.5:
        raise Wrong(f"the images that it trains on are up to {far:.2g} away from the clean ones: more than an attack "
                    "of epsilon 0.1 may do")
    if results["logits"].shape != (2, 5):
        raise Wrong(f"it gives {results['logits'].shape} logits for 2 images and 5 classes")


@check("adversarial", "in evaluation it does not attack", weight=2)
def evaluates(ask, rng):
    attacked(*train(ask, rng))
    facts, results, x = train(ask, rng, training=False)
    if len(facts["passes"]) > 1 or not np.array_equal(results["last"], x):
        raise Wrong("in evaluation mode it attacks as well: only if self.training")


@check("adversarial", "the pass that is learnt from runs in training mode, which stays on afterwards", weight=2)
def modes(ask, rng):
    facts, results, x = train(ask, rng)
    attacked(facts, results, x)
    if not facts["modes_same"]:
        raise Wrong("forward leaves the network in evaluation mode: from the second batch on it would not attack, and "
                    "BatchNorm and Dropout would stand still")
    if not facts["passes"][-1]:
        raise Wrong("the pass that is learnt from runs in evaluation mode: switch back before it")


@check("adversarial", "gradients of the loss reach every parameter, and the attack leaves none", weight=2)
def learns(ask, rng):
    facts, results, x = train(ask, rng)
    attacked(facts, results, x)
    if facts.get("left_over"):
        raise Wrong("after forward there are gradients on the parameters already: the attack's would be added to the "
                    "loss's")
    if not all(facts["reached"]):
        raise Wrong(f"the loss's gradient reaches {sum(facts['reached'])} of {len(facts['reached'])} parameters: "
                    "forward runs under no_grad, or the output is detached, or parameters stay frozen")


@check("adversarial", "the images handed in stay as they were", weight=1)
def input_untouched(ask, rng):
    facts, results, x = train(ask, rng)
    attacked(facts, results, x)
    if facts["input_changed"]:
        raise Wrong("forward writes into the images that it was given")
