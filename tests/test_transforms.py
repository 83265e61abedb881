"""The augmentation: sizes, ranges, repeatability, and no void in a rotated image."""

import math
import random

import cv2
import numpy as np
import pytest
import torch

import custom_transforms as T
from student_code import get_train_transforms, get_val_transforms
from utils import IMAGENET_MEAN, IMAGENET_STD, resize_image


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)


def test_resize_takes_width_and_height(image):
    assert resize_image(image, (30, 20), cv2.INTER_LINEAR).shape == (20, 30, 3)


@pytest.mark.parametrize(("shape", "size", "expected"), [
    ((100, 150, 3), 50, (50, 75)), ((150, 100, 3), 50, (75, 50)), ((100, 150, 3), (40, 30), (30, 40)),
    ((144, 144, 3), 144, (144, 144)), ((7, 9, 3), 144, (144, 185))])
def test_scale(shape, size, expected):
    assert T.Scale(size)(np.zeros(shape, np.uint8)).shape[:2] == expected


def test_centre_crop(image):
    assert np.array_equal(T.CenterCrop(50)(image), image[25:75, 50:100])
    assert T.CenterCrop((60, 40))(image).shape == (40, 60, 3)
    with pytest.raises(ValueError, match="160x160 does not fit an image of 150x100"):
        T.CenterCrop(160)(image)


def test_random_sized_crop_stays_inside_its_ranges():
    random.seed(0)
    crop = T.RandomSizedCrop(32, area=(0.25, 1.0), aspect=(3 / 4, 4 / 3))
    boxes = [crop._box(100, 150) for _ in range(2000)]
    for top, left, h, w in boxes:
        assert 0 <= top <= 100 - h
        assert 0 <= left <= 150 - w
        assert 0.24 < h * w / 15000 <= 1.01
        assert 0.7 < w / h < 1.4 or (h, w) == (100, 100)
    assert min(h * w for *_, h, w in boxes) < 0.3 * 15000
    assert T.RandomSizedCrop(32)(np.zeros((3, 200, 3), np.uint8)).shape == (32, 32, 3)


def test_flip_flips_every_second_time(image):
    random.seed(0)
    flipped = [np.array_equal(T.RandomHorizontalFlip()(image), image[:, ::-1]) for _ in range(400)]
    assert 160 < sum(flipped) < 240


def test_colour_multiplies_each_channel(image):
    random.seed(1)
    out = T.RandomColor(0.15)(image).astype(float)
    inner = (image > 50) & (image < 200)
    for channel in range(3):
        ratio = out[..., channel][inner[..., channel]] / image[..., channel][inner[..., channel]]
        assert ratio.std() < 0.01
        assert 0.84 < ratio.mean() < 1.16
    assert np.array_equal(T.RandomColor(0)(image), image)
    assert T.RandomColor(0.5)(np.full((4, 4, 3), 255, np.uint8)).max() <= 255


def test_a_rotated_image_has_no_void():
    random.seed(0)
    white = np.full((90, 140, 3), 255, np.uint8)
    for _ in range(50):
        out = T.RandomRotate(45)(white)
        assert out.min() == 255
    assert np.array_equal(T.RandomRotate(0)(white), white)


@pytest.mark.parametrize("degrees", [0, 5, 15, 44, 45, 60, 89, 90, -30])
@pytest.mark.parametrize(("w", "h"), [(100, 100), (140, 90), (30, 200)])
def test_the_largest_rectangle_fits_into_the_turned_one(degrees, w, h):
    angle = math.radians(degrees)
    rw, rh = T.largest_rotated_rectangle(w, h, angle)
    for x, y in ((rw / 2, rh / 2), (rw / 2, -rh / 2)):
        u, v = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
        assert abs(u) <= w / 2 + 1e-6
        assert abs(v) <= h / 2 + 1e-6
    assert rw * rh > 0.2 * min(w, h) ** 2


def test_to_tensor_and_normalize(image):
    tensor = T.ToTensor()(image)
    assert tensor.shape == (3, 100, 150)
    assert tensor[1, 3, 7].item() == pytest.approx(image[3, 7, 1] / 255)
    normal = T.Normalize(IMAGENET_MEAN, IMAGENET_STD)(tensor)
    assert normal[2, 0, 0].item() == pytest.approx((image[0, 0, 2] / 255 - 0.406) / 0.225, rel=1e-5)
    assert tensor.max() <= 1


@pytest.mark.parametrize("shape", [(128, 128, 3), (60, 300, 3), (28, 28, 3)])
def test_the_sheets_pipelines_give_128_pixels(shape):
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    for make in (get_train_transforms, get_val_transforms):
        out = make()(image)
        assert out.shape == (3, 128, 128)
        assert out.dtype == torch.float32


def test_validation_is_the_same_twice(image):
    """Fault 7 of the stock scaffold: its validation drew a random interpolation."""
    assert torch.equal(get_val_transforms()(image), get_val_transforms()(image))
    random.seed(3)
    before = random.getstate()
    get_val_transforms()(image)
    assert random.getstate() == before  # nothing was drawn
    train = [get_train_transforms()(image) for _ in range(2)]
    assert not torch.equal(*train)
    random.setstate(before)
    again = get_train_transforms()(image)
    random.setstate(before)
    assert torch.equal(again, get_train_transforms()(image))
