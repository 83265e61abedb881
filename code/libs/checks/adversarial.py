"""3.3, bonus: AdvSimpleNet, by the images that reach its first convolution."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libs.checks.registry import Check, expect, expect_shape

CLASSES = 5


class Watched(nn.Conv2d):
    """nn.Conv2d that remembers its inputs and modes, for the `conv_op` of a network."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        self.modes.append(self.training)
        return super().forward(x)


def make(student: ModuleType) -> tuple[nn.Module, Watched]:
    """The network and its first convolution. In 2024 the attack was attached to SimpleNet itself."""
    network = getattr(student, "AdvSimpleNet", student.SimpleNet)(conv_op=Watched, num_classes=CLASSES)
    first = [module for module in network.modules() if isinstance(module, Watched) and module.in_channels == 3]
    expect(len(first) == 1, "one convolution with 3 input channels, built from conv_op", len(first))
    return network, first[0]


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def run(student: ModuleType, training: bool) -> tuple[nn.Module, Watched, Tensor, Tensor]:
    """One forward pass: the network, its first convolution, the images, the logits."""
    network, first = make(student)
    x = images()
    logits = network.train(training)(x)
    expect_shape("the logits", logits, (len(x), CLASSES))
    return network, first, x, logits


def attacks_in_training(student: ModuleType) -> None:
    """The loss's forward pass is the last one, on images within a normal attack's reach of the clean ones."""
    _, first, x, _ = run(student, training=True)
    expect(len(first.seen) > 1, "several forward passes through the features in training mode: the attack's, then one "
           "on its result", f"{len(first.seen)} (main.py calls model(images), without labels)")
    expect(not torch.equal(first.seen[-1], x), "the last forward pass, which the loss uses, on adversarial samples",
           "the clean images")
    far = (first.seen[-1] - x).abs().max().item()
    expect(far <= 0.5, "samples near the images (epsilon of the sheet's attack is 0.1)", f"{far:.3g} away")


def not_in_evaluation(student: ModuleType) -> None:
    network, first, x, _ = run(student, training=False)
    expect(len(first.seen) == 1, "one forward pass in evaluation mode", len(first.seen))
    expect(torch.equal(first.seen[0], x), "the clean images in evaluation mode", "others")
    expect(not network.training, "evaluation mode to stay on", "training mode")


def stays_in_training(student: ModuleType) -> None:
    network, first, x, _ = run(student, training=True)
    still = [module.training for module in network.modules()]
    expect(all(still), "training mode afterwards", f"{len(still) - sum(still)} modules in evaluation mode")
    expect(first.modes[-1], "the forward pass that the loss uses in training mode", "evaluation mode")
    count = len(first.seen)
    network(x)
    expect(len(first.seen) == 2 * count, f"{count} forward passes in the second step, as in the first",
           len(first.seen) - count)


def learns(student: ModuleType) -> None:
    network, _, x, logits = run(student, training=True)
    stale = sum(parameter.grad is not None for parameter in network.parameters())
    expect(stale == 0, "no gradients on the parameters before loss.backward()", f"{stale} left by the attack")
    expect(logits.requires_grad, "logits with a graph", "none: the network ran under no_grad, or is frozen")
    F.cross_entropy(logits, torch.arange(len(x))).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    expect(not without, "a gradient for every parameter", f"none for {len(without)}, the first being "
           f"{''.join(without[:1])}")


def input_untouched(student: ModuleType) -> None:
    network, _ = make(student)
    x = images()
    before = x.clone()
    network.train()(x)
    expect(torch.equal(x, before) and not x.requires_grad, "the images as they were", "images that forward changed")


KEY = "generate adversarial samples and feed these into the network during training"
CHECKS = [
    Check("training mode feeds adversarial samples to the network", attacks_in_training,
          KEY + ": forward attacks if the network is in training mode"),
    Check("evaluation mode does not attack", not_in_evaluation, KEY + ", and only then: mind self.training"),
    Check("training mode stays on, without recursion", stays_in_training,
          "the attack calls the network, whose forward attacks: let it see evaluation mode, and switch back after it"),
    Check("every parameter gets a gradient, from the loss alone", learns,
          "only the attack runs outside the graph; nothing stays frozen, and no gradient of the attack remains"),
    Check("the images are unchanged", input_untouched, "attack a detached copy"),
]
