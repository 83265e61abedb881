"""Adversarial training: its attacks, the L-inf box, the model's state, the guard against catastrophic overfitting."""

import pytest
import torch
from torch import nn

from extras import adversarial_training
from extras.adversarial_training import AdversarialTraining, n_fgsm, noise_like, pgd
from extras.attacks import frozen
from libs import arguments, checkpoint
from student_code import SimpleNet


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def random_batch(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, 2, 2), torch.arange(count) % 3


def test_noise_is_uniform_and_follows_the_layout():
    torch.manual_seed(0)
    for images in (torch.empty(16, 3, 33, 31), torch.empty(16, 3, 33, 31).to(memory_format=torch.channels_last)):
        noise = noise_like(images, 0.2)
        assert noise.stride() == images.stride()
        assert noise.abs().max() <= 0.2 + 1e-7
        assert noise.mean().abs() < 2e-3
        assert noise.std() == pytest.approx(0.2 / 3**0.5, rel=0.01)
        assert noise.flatten().unique().numel() == 256
    torch.manual_seed(0)
    first = noise_like(images, 1.0)
    torch.manual_seed(0)
    assert torch.equal(first, noise_like(images, 1.0))
    assert not torch.equal(first, noise_like(images, 1.0))


@pytest.mark.parametrize(("attack", "limit"), [(pgd(0.1, 5), 0.1), (pgd(0.1, 3, 0.5), 0.1), (n_fgsm(0.1), 0.3)])
def test_attacks_stay_in_the_box_and_raise_the_loss(attack, limit):
    model, (images, labels) = linear(), random_batch()
    kept = images.clone()
    attacked = attack(model, images, labels)
    assert torch.equal(images, kept)
    assert not attacked.requires_grad
    assert (attacked - images).abs().max() <= limit + 1e-6
    losses = [nn.functional.cross_entropy(model(x), labels).item() for x in (attacked, images)]
    assert losses[0] > losses[1]


def test_a_linear_model_has_a_known_worst_case():
    """Of two logits: the corner of the box along the difference of the weights."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images, labels = random_batch()[0], torch.zeros(6, dtype=torch.long)
    difference = (model[1].weight[1] - model[1].weight[0]).sign().view(3, 2, 2)
    assert torch.allclose(pgd(0.1, 10)(model, images, labels), images + 0.1 * difference)


def test_the_model_stays_as_it_was_also_after_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    model[1].eval()
    model[3].bias.requires_grad_(False)
    images, labels = random_batch()

    def state():
        return ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()],
                [b.clone() for b in model.buffers()], [p.grad for p in model.parameters()])

    before = state()
    n_fgsm(0.1)(model, images, labels)
    with pytest.raises(RuntimeError), frozen(model):
        model(torch.zeros(1, 5, 2, 2))
    after = state()
    assert before[:2] == after[:2]
    assert before[3] == after[3]
    assert all(map(torch.equal, before[2], after[2]))


def train_epochs(counts, model, kind="fast"):
    """One epoch per count of robust probe images: the AdversarialTraining, optimizer, warnings, weights by epoch."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    training, warnings, weights = AdversarialTraining(kind, model, 0.1, random_batch()), [], []
    for epoch, count in enumerate(counts):
        optimizer.param_groups[0]["lr"] = 0.1 / (epoch + 1)
        nn.functional.cross_entropy(model(random_batch()[0]), random_batch()[1]).backward()
        optimizer.step()
        weights.append((model[1].weight.detach().clone(),
                        optimizer.state_dict()["state"][0]["momentum_buffer"].clone()))
        warnings.append(training.after_epoch(count, optimizer))
    return training, optimizer, warnings, weights


def test_catastrophic_overfitting_is_reverted_and_training_continues_with_pgd():
    model = linear()
    training, optimizer, warnings, weights = train_epochs([3, 20, 6, 2], model)
    assert warnings[:3] == [None] * 3
    assert "catastrophic overfitting: 2 of 6 probe images are robust to PGD, 20 were before" in warnings[3]
    assert training.kind == "pgd"
    assert torch.equal(model[1].weight, weights[2][0])
    assert torch.equal(optimizer.state_dict()["state"][0]["momentum_buffer"], weights[2][1])
    assert optimizer.param_groups[0]["lr"] == 0.1 / 4, "the schedule is not reverted"
    assert training.after_epoch(0, optimizer) is None  # nothing to guard any more


@pytest.mark.parametrize("counts", [[0, 0, 0], [7, 0], [20, 5, 20, 5], [10, 4]])
def test_noise_in_the_probe_set_is_no_overfitting(counts):
    """Few robust images, or small drops."""
    training, _, warnings, _ = train_epochs(counts, linear())
    assert (training.kind, warnings) == ("fast", [None] * len(counts))


def test_a_resumed_guard_remembers_its_best():
    training, *_ = train_epochs([30, 25], linear())
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    resumed = AdversarialTraining("fast", model, 0.1, random_batch())
    resumed.load_state_dict(training.state_dict(), optimizer)
    assert "catastrophic overfitting" in resumed.after_epoch(3, optimizer)
    again = AdversarialTraining("fast", model, 0.1, random_batch())
    again.load_state_dict(resumed.state_dict(), optimizer)
    assert again.kind == "pgd"


def test_gradients_of_confident_networks_do_not_underflow_in_16_bit():
    """Underflow in fp16 would be gradient masking."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with torch.no_grad():
        model[1].weight.mul_(20)
        images = torch.randn(64, 3, 2, 2)
        labels = model(images).argmax(1)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            sign = adversarial_training.gradient_sign(model, images, labels)
        exact = adversarial_training.gradient_sign(model.double(), images.double(), labels)
        model.float()
        above_rounding = nn.functional.cross_entropy(model(images), labels, reduction="none") > 1e-5
        assert above_rounding.sum() > 10
        assert (sign[above_rounding] == exact[above_rounding].float()).float().mean() > 0.97


def test_probes_are_attacked_with_pgd():
    """After catastrophic overfitting a network resists one step and is fooled by several."""
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = SimpleNet(num_classes=2).eval()
    with torch.no_grad():
        labels = model(images).argmax(1)
    training = AdversarialTraining("fast", model, 0.0, (images, labels))
    assert training.robust_probes() == 32
    training.probe_attack = pgd(5.0, 5)
    assert training.robust_probes() < 26


@pytest.mark.parametrize("kind", ["fast", "pgd"])
def test_the_driver_trains_on_attacked_images(drive, scenes, monkeypatch, kind):
    calls = []
    real = AdversarialTraining.__call__

    def count(self, images, labels):
        attacked = real(self, images, labels)
        calls.append((attacked - images).abs().max().item())
        return attacked

    monkeypatch.setattr(AdversarialTraining, "__call__", count)
    run = drive(scenes, "--adversarial", kind, "--epochs", 1, "-b", 8, "--epsilon", 0.2)
    assert run.code == 0, run.out
    assert len(calls) == 3
    assert max(calls) <= (0.6 if kind == "fast" else 0.2) + 1e-5
    path = run.folder / "models/checkpoint.pth.tar"
    saved = checkpoint.load(path)
    resumed = arguments.restore_settings(arguments.parse_args([str(scenes), "--resume", str(path)]), saved)
    assert (resumed.adversarial, resumed.epsilon) == (kind, 0.2)  # restored on resume
    assert saved["adversary"]["kind"] == kind
    flags = arguments.parse_args([str(scenes), "--resume", str(path), "--epsilon", "0"])
    assert arguments.restore_settings(flags, saved).epsilon == 0


@pytest.mark.parametrize(("flags", "sentence"), [
    ("--adversarial fast --model adv-simplenet", "adv-simplenet, which attacks its images by itself"),
    ("--adversarial slow", "invalid choice"),
    ("--adversarial fast --num-steps 3", "--num-steps goes with -a"),
    ("--adversarial fast -e --resume x", "--adversarial is for training")])
def test_wrong_flags(drive, scenes, flags, sentence):
    run = drive(scenes, *flags.split())
    assert (run.code, sentence in run.out) == (2, True), run.out
