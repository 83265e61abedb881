"""The self-check fails faulty attacks, each on the right check, and passes a sound one."""

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
    """PGD away from the predicted label of the clean image."""

    sign = -1.0

    def perturb(self, model, images):
        with attacks.frozen(model), torch.no_grad():
            predicted = model(images).argmax(1)
        loss = nn.CrossEntropyLoss()
        return PGDAttack(lambda logits, _: self.sign * loss(logits, predicted), self.num_steps, self.step_size,
                         self.epsilon).perturb(model, images)


class WrongSign(Untargeted):
    sign = 1.0


class Unclipped(Untargeted):
    def perturb(self, model, images):
        return super().perturb(model, images) * 1.01


class InPlace(Untargeted):
    def perturb(self, model, images):
        return images.copy_(super().perturb(model, images))


class LeavesTrainingMode(Untargeted):
    def perturb(self, model, images):
        model.train()
        return super().perturb(model, images)


def run_checks(trained, attack=Untargeted, steps=10, step=0.03, epsilon=0.1) -> dict:
    model, images, labels = trained
    check = SelfCheck(partial(attack, nn.CrossEntropyLoss()), steps, step, epsilon, model, images[:60], labels[:60],
                      contextlib.nullcontext)
    results = check.run()
    model.eval()
    return {result.name: result for result in results}


def test_a_sound_attack_passes(trained):
    found = run_checks(trained, steps=20, step=0.02)
    assert len(found) == 11
    assert not [str(check) for check in found.values() if not check.passed]
    assert "% robust to all attacks" in found["a strong attack fools few more"].figures


@pytest.mark.parametrize(("attack", "failed"), [
    (WrongSign, "random noise is weaker"), (Unclipped, "perturbations are within epsilon"),
    (Unclipped, "epsilon 0 changes nothing"), (InPlace, "model and images are unchanged"),
    (LeavesTrainingMode, "model and images are unchanged")])
def test_faulty_attacks_fail(trained, attack, failed):
    check = run_checks(trained, attack)[failed]
    assert not check.passed
    assert f"FAILED  {failed}" in str(check)
    assert check.advice in str(check)


def test_a_weak_attack_fails(trained):
    found = run_checks(trained, steps=2, step=0.005)
    assert not found["doubling the steps changes little"].passed
    assert not found["a strong attack fools few more"].passed


def test_masked_gradients_fail(trained):
    model, images, labels = trained

    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model((x * 20).round() / 20)

    found = run_checks((Rounded().eval(), images, labels))
    assert not found["input gradients are not zero"].passed
    assert not found["unbounded, it fools every image"].passed


def test_the_worst_case_is_over_attacks_within_epsilon(trained):
    model, images, labels = trained
    check = SelfCheck(partial(Untargeted, nn.CrossEntropyLoss()), 5, 0.02, 0.05, model, images[:60], labels[:60],
                      contextlib.nullcontext)
    check.rate(), check.rate(epsilon=0.5), check.rate(epsilon=2)
    assert len(check.fooled) == 3, "clean, and two of the three attacks"


def test_a_decrease_by_one_image_is_tolerated(trained):
    model, images, labels = trained
    for count, decrease in ((40, 2.5), (200, 0.5)):
        check = SelfCheck(None, 1, 1, 1, model, images[:count], labels[:count], None)
        assert check.non_decreasing([1, 2, 2, 2 - decrease, 5])
        assert not check.non_decreasing([1, 2, 2 - 2 * decrease])


def test_sample():
    data = [(torch.full((1,), float(i)), i % 3) for i in range(1000)]
    images, labels = sample(data, 4)
    assert images[:, 0].tolist() == [0, 333, 666, 999]
    assert labels.tolist() == [0, 0, 0, 0]


def test_main_prints_and_saves_the_table(drive, scenes):
    trained = drive(scenes, "--epochs", 1, "-b", 8)
    saved = trained.folder / "models/checkpoint.pth.tar"
    run = drive(scenes, "--resume", saved, "-a", "--self-check", "--num-steps", 2)
    assert run.code == 0, run.out
    assert "self-check on 12 images, 2 steps of 0.01, epsilon 0.1" in run.out
    assert run.out.count("passed  ") + run.out.count("FAILED  ") == 11
    assert '"name": "input gradients are not zero"' in (run.folder / "results.json").read_text()
    wrong = drive(scenes, "--resume", saved, "-e", "--self-check")
    assert "--self-check goes with -a" in wrong.out
