"""Real photographs: MINIPLACES10 names a folder of ten MiniPlaces classes. Skipped, and said so, without one."""

import json
import os
from pathlib import Path

import pytest
import torch

from custom_dataloader import MiniPlacesLoader, open_split
from student_code import get_train_transforms

pytestmark = [pytest.mark.real,
              pytest.mark.skipif("MINIPLACES10" not in os.environ, reason="MINIPLACES10 names no folder")]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(os.environ["MINIPLACES10"])


def test_every_image_can_be_read(folder):
    for split, count in (("train", 1500), ("val", 500)):
        dataset, names = open_split(folder, split)
        dataset.check_images()
        assert (len(dataset), len(names), dataset[count - 1][0].shape) == (count, 10, (128, 128, 3))
        assert names[:3] == ["abbey", "bathroom", "coast"]


def test_the_normalised_images_have_mean_0_and_deviation_1(folder):
    dataset = MiniPlacesLoader(folder, num_classes=10, transforms=get_train_transforms())
    images = torch.stack([dataset[i][0] for i in range(0, 1500, 10)])
    assert images.mean().abs() < 0.3
    assert 0.8 < images.std() < 1.3


@pytest.mark.parametrize(("model", "flags", "at_least"), [("simplenet", "--lr 0.05", 22), ("vit", "--lr 0.001", 25)])
def test_a_network_learns_and_is_fooled(folder, drive, model, flags, at_least):
    """Five epochs from scratch; guessing gets 10 %."""
    trained = drive(folder, "--model", model, *flags.split(), *"--epochs 5 --warmup 1 -b 50 --amp auto".split())
    assert trained.code == 0, trained.out
    results = json.loads((trained.folder / "results.json").read_text())
    assert results["best_top1"] >= at_least
    best = trained.folder / "models" / "model_best.pth.tar"
    evaluated = drive(folder, "-e", "--resume", best)
    assert json.loads((evaluated.folder / "results.json").read_text())["alone"]["top1"] == results["best_top1"]
    attacked = drive(folder, "-a", "--resume", best, "--epsilon", 0.2, "--step-size", 0.05)
    assert json.loads((attacked.folder / "results.json").read_text())["difference"]["top1"] < -3
