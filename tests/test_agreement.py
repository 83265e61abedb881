"""The toolkit against torchattacks and foolbox at equal settings: on a trained network, at least 1,000 images.

Skipped where a package is missing: pip install --no-deps torchattacks foolbox eagerpy, and what they import.
"""

import pytest
import torch
from torch import nn

from extras.attacks import Threat, attack

EPSILON, STEP, STEPS = 0.05, 0.01, 10


def ours(trained, **settings) -> float:
    model, images, labels = trained
    threat = Threat(EPSILON, "untargeted", steps=STEPS, step_size=STEP, valid=([0.0] * 3, [1.0] * 3), **settings)
    outcome = attack(threat, model, images, labels)
    assert 10 < outcome.rate < 99.5, "or agreement says nothing"
    return outcome.rate


def rate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return 100 * (model(images).argmax(1) != labels).float().mean().item()


def test_torchattacks(trained):
    torchattacks = pytest.importorskip("torchattacks")
    model, images, labels = trained
    assert len(images) >= 1000
    theirs = torchattacks.PGD(model, eps=EPSILON, alpha=STEP, steps=STEPS, random_start=False)(images, labels)
    assert ours(trained) == pytest.approx(rate(model, theirs, labels), abs=0.5)


def test_foolbox(trained):
    foolbox = pytest.importorskip("foolbox")
    model, images, labels = trained
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    pgd = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)
    _, theirs, fooled = pgd(wrapped, images, labels, epsilons=EPSILON)
    assert ours(trained) == pytest.approx(100 * fooled.float().mean().item(), abs=0.5)
    assert rate(model, theirs, labels) == pytest.approx(100 * fooled.float().mean().item(), abs=0.5)


def test_the_strong_setting_is_no_weaker(trained):
    """APGD on the margin finds at least what plain steps find, at the same price."""
    assert ours(trained, loss="margin", rule="momentum", keep="best") >= ours(trained) - 0.5
