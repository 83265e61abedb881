"""The self-check finds what is wrong with an attack, and passes one with which nothing is."""

import contextlib
from functools import partial

import pytest
import torch
from torch import nn

from extras import attacks
from extras.self_check import SelfCheck, sample
from student_code import PGDAttack

pytestmark = pytest.mark.slow


class Untargeted(PGDAttack):
    """PGD away from what the network says of the clean image: an attack that an evaluation can rest on."""

    away = -1.0

    def perturb(self, model, images):
        with attacks.frozen(model), torch.no_grad():
            said = model(images).argmax(1)
        loss = nn.CrossEntropyLoss()
        return PGDAttack(lambda logits, _: self.away * loss(logits, said), self.num_steps, self.step_size,
                         self.epsilon).perturb(model, images)


class Uphill(Untargeted):
    away = 1.0


class Unclipped(Untargeted):
    def perturb(self, model, images):
        return super().perturb(model, images) * 1.01


class InPlace(Untargeted):
    def perturb(self, model, images):
        return images.copy_(super().perturb(model, images))


class Rude(Untargeted):
    def perturb(self, model, images):
        model.train()
        return super().perturb(model, images)


def lines(trained, attack=Untargeted, steps=10, step=0.03, epsilon=0.1) -> dict:
    model, images, labels = trained
    check = SelfCheck(partial(attack, nn.CrossEntropyLoss()), steps, step, epsilon, model, images[:60], labels[:60],
                      contextlib.nullcontext)
    found = check.run()
    model.eval()
    return {line.name: line for line in found}


def test_an_honest_attack_passes(trained):
    found = lines(trained, steps=20, step=0.02)
    assert len(found) == 11
    assert not [str(line) for line in found.values() if not line.passed]
    assert "% withstand every attempt" in found["a strong attack finds little more"].figures


@pytest.mark.parametrize(("attack", "failed"), [
    (Uphill, "random noise does worse"), (Unclipped, "no value leaves the box"),
    (Unclipped, "epsilon 0 changes nothing"), (InPlace, "model and images are what they were"),
    (Rude, "model and images are what they were")])
def test_what_is_wrong_is_found(trained, attack, failed):
    line = lines(trained, attack)[failed]
    assert not line.passed
    assert f"FAILED  {failed}" in str(line)
    assert line.advice in str(line)


def test_a_weak_attack_is_found_to_be_weak(trained):
    found = lines(trained, steps=2, step=0.005)
    assert not found["doubling the steps changes little"].passed
    assert not found["a strong attack finds little more"].passed


def test_a_network_that_hides_its_gradients(trained):
    model, images, labels = trained

    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model((x * 20).round() / 20)

    found = lines((Rounded().eval(), images, labels))
    assert not found["gradients are there"].passed
    assert not found["without a bound all are fooled"].passed


def test_what_withstands_is_what_every_attempt_leaves(trained):
    model, images, labels = trained
    check = SelfCheck(partial(Untargeted, nn.CrossEntropyLoss()), 5, 0.02, 0.05, model, images[:60], labels[:60],
                      contextlib.nullcontext)
    check.rate(), check.rate(epsilon=0.5), check.rate(epsilon=2)
    assert len(check.attempts) == 3, "the clean images, and two attempts inside the box; one went beyond"


def test_one_image_is_no_fall(trained):
    model, images, labels = trained
    for count, slip in ((40, 2.5), (200, 0.5)):
        check = SelfCheck(None, 1, 1, 1, model, images[:count], labels[:count], None)
        assert check.rising([1, 2, 2, 2 - slip, 5])
        assert not check.rising([1, 2, 2 - 2 * slip])


def test_sample():
    data = [(torch.full((1,), float(i)), i % 3) for i in range(1000)]
    images, labels = sample(data, 4)
    assert images[:, 0].tolist() == [0, 333, 666, 999]
    assert labels.tolist() == [0, 0, 0, 0]


def test_main_prints_and_keeps_the_table(drive, scenes):
    trained = drive(scenes, "--epochs", 1, "-b", 8)
    saved = trained.folder / "models/checkpoint.pth.tar"
    run = drive(scenes, "--resume", saved, "-a", "--self-check", "--num-steps", 2)
    assert run.code == 0, run.out
    assert "self-check on 12 images, 2 steps of 0.01, epsilon 0.1" in run.out
    assert run.out.count("passed  ") + run.out.count("FAILED  ") == 11
    assert '"name": "gradients are there"' in (run.folder / "results.json").read_text()
    wrong = drive(scenes, "--resume", saved, "-e", "--self-check")
    assert "--self-check goes with -a" in wrong.out
