"""Code for a GPU, checked without one: on torch's meta device an operation that mixes devices fails, as on a GPU.

Tensors there have shapes and no values. What looks at values cannot run there: evaluation, the probes of adversarial
training's guard, and extras/attacks.py, which drops images that are fooled.
"""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from custom_dataloader import open_split
from extras.adversarial_training import AdversarialTraining
from libs import networks
from libs.batch_transforms import BatchTransforms
from libs.decoded_cache import decode
from libs.engine import train_one_epoch
from libs.hardware import Hardware
from libs.loaders import BatchLoader, EpochSampler
from libs.progress import Progress
from libs.recipe import Muon
from student_code import GradAttention, PGDAttack, SimpleNet, get_train_transforms, get_val_transforms

META = torch.device("meta")


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """torch knows no autocast for meta, and says so with an error."""
    real = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind != "meta" and real(kind))
    monkeypatch.setattr(Hardware, "autocast", lambda *_: nullcontext())


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(2, 3, 128, 128, device=META), torch.zeros(2, dtype=torch.long, device=META)


def step(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, perturb=None) -> None:
    """Forward, loss, backward, update."""
    images, labels = batch()
    images = images if perturb is None else perturb(images, labels)
    F.cross_entropy(model.train()(images), labels).backward()
    assert all(p.grad.device == META for p in model.parameters())
    (optimizer or torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)).step()


def leaky(x: torch.Tensor) -> torch.Tensor:
    return x * torch.ones(5)  # on the CPU


def test_a_tensor_on_another_device_is_noticed():
    class Leaky(nn.Linear):
        def forward(self, x):
            return leaky(super().forward(x.flatten(1)))

    with pytest.raises(RuntimeError, match="device"):
        step(Leaky(3 * 128 * 128, 5).to(META))


@pytest.mark.parametrize(("name", "conv"), [
    *((name, None) for name in networks.MODEL_NAMES), ("simplenet", "unfold"), ("simplenet", "flat"),
    *(pytest.param(name, conv, marks=pytest.mark.slow) for name in networks.MODEL_NAMES if name not in
      ("vit", "resnet18", "simplenet") for conv in ("unfold", "flat"))])
def test_every_network_trains(name, conv):
    """adv-simplenet attacks its images inside."""
    step(networks.build(name, 5, (128, 128), conv).to(META))


def test_the_recipes_optimizer():
    model = SimpleNet(num_classes=5).to(META)
    step(model, Muon(model, 0.01, 0.05))


@pytest.mark.parametrize("kind", ["fast", "pgd"])
def test_adversarial_training(kind):
    model = networks.build("customnet", 5, (128, 128)).to(META)
    step(model, perturb=AdversarialTraining(kind, model, 0.1, batch()))


def test_the_attack_and_the_explanation():
    model = SimpleNet(num_classes=5).to(META).eval()
    images, _ = batch()
    assert PGDAttack(nn.CrossEntropyLoss(), num_steps=2).perturb(model, images).device == META
    assert GradAttention(nn.CrossEntropyLoss()).explain(model, images).shape == (2, 1, 128, 128)


@pytest.mark.parametrize("transforms", [get_train_transforms, get_val_transforms])
def test_batch_transforms(transforms):
    batched = BatchTransforms.of(transforms())
    images = torch.empty(2, 150, 170, 3, dtype=torch.uint8, device=META)
    there = batched.on_device(images, batched.draw(0, images=2))
    assert (there.shape, there.device) == ((2, 3, 128, 128), META)


class FirstBatches:
    """The first two of many: at its end, an epoch reads its loss."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return 99

    def __iter__(self):
        return (item for item, _ in zip(self.loader, range(2)))


def test_an_epoch_from_pixels_on_the_device(scenes):
    dataset, names = open_split(scenes, "train", get_train_transforms())
    transforms, sampler = BatchTransforms.of(dataset.transforms), EpochSampler(len(dataset))
    loader = BatchLoader(dataset, decode(dataset), transforms, sampler, 4, drop_last=True, device=META)
    model, hardware = SimpleNet(num_classes=len(names)).to(META), Hardware(META)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    progress = Progress("train", FirstBatches(loader), print_freq=99, show=False)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):  # the mean loss at the end
        train_one_epoch(model, nn.CrossEntropyLoss(), optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, float),
                        progress, hardware, torch.amp.GradScaler("cpu", enabled=False), clip_grad=1.0)
    assert progress.batches == 2
