"""Transforms for batches against the same transforms image by image, given the same random numbers."""

import random

import cv2
import numpy as np
import pytest
import torch

import custom_transforms as T
from libs import batch_transforms
from libs.batch_transforms import BatchTransforms
from student_code import get_train_transforms, get_val_transforms
from utils import IMAGENET_MEAN, IMAGENET_STD, denormalize

CLOSE = [T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


def ramp(height: int, width: int) -> np.ndarray:
    """An image that grows evenly to the right, downwards, and along the diagonal: interpolating it is exact."""
    y, x = np.mgrid[:height, :width]
    right, down = 200 * x / (width - 1), 200 * y / (height - 1)
    return (np.stack([right, down, (right + down) / 2], axis=-1) + 20).round().astype(np.uint8)


class Told:
    """Stands in for Python's `random`, and gives the numbers of one row of `chance`."""

    def __init__(self, numbers, steps):
        self.queue, self.place, used = [], [], 0
        for step in steps:
            draws = {T.RandomHorizontalFlip: 1, T.RandomColor: 3, T.RandomRotate: 1, T.RandomSizedCrop: 22}
            row = list(numbers[used : used + draws.get(type(step), 0)])
            used += len(row)
            if isinstance(step, T.RandomSizedCrop):  # its place is drawn after its size
                self.place, row = row[:2], row[2:]
            self.queue += row

    def random(self):
        return self.queue.pop(0)

    def uniform(self, low, high):
        return low + (high - low) * self.queue.pop(0)

    def randint(self, low, high):
        return low + int(self.place.pop(0) * (high - low + 1))


def one_by_one(images, transforms, chance, monkeypatch) -> torch.Tensor:
    seen = []
    for image, numbers in zip(images, chance):
        monkeypatch.setattr(T, "random", Told(numbers, transforms.transforms))
        seen.append(transforms(image))
    return torch.stack(seen)


LISTS = {
    "the sheet's": get_train_transforms(),
    "flip": T.Compose([T.RandomHorizontalFlip(), T.CenterCrop(64), *CLOSE]),
    "rotate": T.Compose([T.Scale(100), T.RandomRotate(25), T.CenterCrop((50, 44)), *CLOSE]),
    "crop": T.Compose([T.RandomSizedCrop(48, area=(0.1, 0.5), aspect=(0.5, 2)), *CLOSE]),
    "crops that rarely fit": T.Compose([T.RandomSizedCrop(48, area=(0.9, 1.0), aspect=(0.4, 2.5)), *CLOSE]),
    "colour": T.Compose([T.Scale(90), T.RandomColor(0.4), T.CenterCrop(80), *CLOSE]),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("size", [(128, 128), (100, 151), (170, 120)])
def test_the_same_chance_gives_the_same_view(monkeypatch, name, size):
    """On ramps, of which every interpolation is exact, but for rounding and the outermost pixels."""
    batch = BatchTransforms.of(LISTS[name])
    chance = batch.draw(5, images=40)
    images = [ramp(*size)] * len(chance)
    expected = denormalize(one_by_one(images, LISTS[name], chance, monkeypatch))[..., 2:-2, 2:-2]
    for got in (batch.on_cpu(images, chance), batch.on_device(torch.from_numpy(np.stack(images)), chance)):
        assert got.shape[0] == 40
        assert got.is_contiguous(memory_format=torch.channels_last) or got.is_contiguous()
        assert 255 * (denormalize(got)[..., 2:-2, 2:-2] - expected).abs().max() < 4


def photographs(count: int = 24) -> list[np.ndarray]:
    from demo import data as demo_data

    return [demo_data.draw(i % 10, 0, 0, i) for i in range(count)]


def test_the_distribution_is_the_sheets():
    """Moments of many draws; not of the finest detail, of which one interpolation leaves more than three."""
    images, transforms, rounds = photographs(), get_train_transforms(), 12
    batch = BatchTransforms.of(transforms)
    random.seed(0)
    alone = torch.stack([transforms(image) for _ in range(rounds) for image in images])
    together = torch.cat([batch.on_cpu(images, batch.draw(0, epoch, images=len(images))) for epoch in range(rounds)])
    for moment in (lambda x: x.mean((0, 2, 3)), lambda x: x.std((0, 2, 3)), lambda x: x.mean((2, 3)).std(0),
                   lambda x: torch.nn.functional.avg_pool2d(x, 16).std((0, 2, 3))):
        assert torch.allclose(moment(alone), moment(together), rtol=0.05, atol=0.04)


def test_validation_has_the_same_bits():
    transforms = get_val_transforms()
    images = [*photographs(3), ramp(100, 151), ramp(300, 200)]
    expected = torch.stack([transforms(image) for image in images])
    assert torch.equal(BatchTransforms.of(transforms).on_cpu(images, np.empty((5, 0))), expected)


def test_colour_has_the_same_bits(monkeypatch):
    """Rounding and clipping included: values above 255 stop there."""
    transforms = T.Compose([T.RandomColor(0.9), T.CenterCrop(60), *CLOSE])
    batch = BatchTransforms.of(transforms)
    chance = batch.draw(1, images=8)
    images = [ramp(60, 60)] * 8
    assert torch.equal(batch.on_cpu(images, chance), one_by_one(images, transforms, chance, monkeypatch))


def test_a_crop_that_does_not_fit_is_refused():
    transforms = T.Compose([T.RandomHorizontalFlip(), T.CenterCrop(64), *CLOSE])
    batch = BatchTransforms.of(transforms)
    for crop in (lambda: transforms(ramp(50, 90)), lambda: batch.on_cpu([ramp(50, 90)], batch.draw(0, images=1))):
        with pytest.raises(ValueError, match="a crop of 64x64 does not fit an image of 90x50"):
            crop()


def test_chance_belongs_to_the_image_and_the_epoch():
    batch = BatchTransforms.of(get_train_transforms())
    first, again, later = batch.draw(3, 0, images=10), batch.draw(3, 0, images=10), batch.draw(3, 1, images=10)
    assert (first == again).all()
    assert not (first == later).any()
    images = photographs(10)
    whole = batch.on_cpu(images, first)
    assert torch.equal(whole[4:7], batch.on_cpu(images[4:7], first[4:7]))  # whatever else is in the batch


def test_the_batch_forms_belong_to_the_code_as_it_is():
    """If this fails: let the batch form in batch_transforms.py follow the change first, then take these over."""
    now = {kind.__name__: batch_transforms.fingerprint(kind) for kind in batch_transforms.APPLY}
    assert now == batch_transforms.SHIPPED


def test_edited_helper_code_is_obeyed(monkeypatch):
    monkeypatch.setitem(batch_transforms.SHIPPED, "RandomRotate", "another")
    batch_transforms._unmodified.cache_clear()
    assert BatchTransforms.of(get_train_transforms()) is None
    assert BatchTransforms.of(get_val_transforms()) is not None
    monkeypatch.undo()
    batch_transforms._unmodified.cache_clear()


@pytest.mark.parametrize("split", [get_train_transforms, get_val_transforms])
def test_normalize_with_numbers_of_64_bit(split):
    """OpenCV fills its own array, and not ours, if the table has another type."""
    plain, wide = split(), split()
    wide.transforms[-1] = T.Normalize(np.array(IMAGENET_MEAN), np.array(IMAGENET_STD))
    chance = BatchTransforms.of(plain).draw(0, images=3)
    batches = [BatchTransforms.of(transforms).on_cpu(photographs(3), chance) for transforms in (plain, wide)]
    assert torch.allclose(*batches, atol=1e-5)


class Posterise:
    """A student's own."""

    def __call__(self, image):
        return image // 64 * 64


class MyFlip(T.RandomHorizontalFlip):
    """May do anything."""


@pytest.mark.parametrize("transforms", [
    T.Compose([T.Scale(144), Posterise(), T.CenterCrop(128), *CLOSE]),
    T.Compose([MyFlip(), T.CenterCrop(128), *CLOSE]),
    T.Compose([T.Scale(144), T.CenterCrop(128), T.ToTensor()]),  # not normalised
    T.Compose([T.Scale(144), *CLOSE]),  # images of other shapes would not make a batch
    T.Compose([T.Scale(144, interpolations=[cv2.INTER_CUBIC]), T.CenterCrop(128), *CLOSE]),
    T.Compose([T.Scale((150, 140)), T.CenterCrop(128), *CLOSE]),
    T.Compose([T.RandomColor(0.1), T.RandomColor(0.1), T.CenterCrop(99), *CLOSE]),
    T.Compose([*CLOSE]), T.Compose([]), lambda image: image],
    ids=range(10))
def test_unknown_transforms_are_left_to_the_image_by_image_way(transforms):
    assert BatchTransforms.of(transforms) is None
