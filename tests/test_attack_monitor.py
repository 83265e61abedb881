"""Notes on a student's attack: each mistake gets its sentence, right attacks get none, and the model is restored."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from libs.attack_monitor import AttackMonitor
from student_code import PGDAttack, SimpleNet
from utils import BadInput


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(SimpleNet(num_classes=10), nn.BatchNorm1d(10)).eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Steps:
    """PGD written out, so that a test can leave out or add a part."""

    epsilon, direction, once = 0.1, -1, False

    def perturb(self, model, input):
        output, label = input.clone(), None
        for _ in range(10):
            output = output.detach().requires_grad_(True)
            logits = model(output)
            label = logits.argmin(1) if label is None or not self.once else label
            gradient, = torch.autograd.grad(F.cross_entropy(logits, label), output)
            output = self.project(output.detach() + self.direction * 0.05 * gradient.sign(), input)
        return output

    def project(self, output, input):
        return input + (output - input).clamp(-self.epsilon, self.epsilon)


class Once(Steps):
    once = True


class Climbs(Steps):
    direction = 1


class NoBox(Steps):
    def project(self, output, input):
        return output


class InPlace(Steps):
    def perturb(self, model, input):
        adversarial = super().perturb(model, input)
        input += 0.01
        return adversarial


class Backward(Steps):
    def perturb(self, model, input):
        model(input).sum().backward()
        return super().perturb(model, input)


class TrainMode(Steps):
    def perturb(self, model, input):
        adversarial = super().perturb(model, input)
        model.train()
        return adversarial


class Freezes(Steps):
    def perturb(self, model, input):
        for p in model.parameters():
            p.requires_grad_(False)
        return super().perturb(model, input)


@pytest.mark.parametrize("attack", [Steps(), Once(), PGDAttack(nn.CrossEntropyLoss())])
def test_right_attacks_get_no_note(attack, model, images):
    monitor = AttackMonitor(attack, model)
    for _ in range(2):
        monitor.perturb(images)
    assert monitor.report() == []


@pytest.mark.parametrize(("attack", "words"), [
    (Climbs(), "the attack climbs"), (NoBox(), "leaves the epsilon box"), (InPlace(), "changes its input images"),
    (Backward(), "leaves gradients"), (TrainMode(), "another mode"), (Freezes(), "frozen or unfrozen")])
def test_each_mistake_has_its_sentence_and_the_model_is_restored(attack, words, model, images):
    monitor, before = AttackMonitor(attack, model), images.clone()
    monitor.perturb(images)
    assert [words in note for note in monitor.report()] == [True], monitor.report()
    assert torch.equal(images, before)
    assert not any(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("returned", [None, torch.zeros(4, 3, 31, 32)])
def test_what_is_no_batch_of_images_is_refused(returned, model, images):
    class Returns:
        def perturb(self, model, input):
            return returned

    with pytest.raises(BadInput, match=r"Returns.perturb returns .*\(4, 3, 32, 32\)"):
        AttackMonitor(Returns(), model).perturb(images)
