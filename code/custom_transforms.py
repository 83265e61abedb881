"""Image augmentation on NumPy arrays: H,W,3 uint8 RGB in, the same out, until ToTensor. Helper code of the sheet.

Random choices come from Python's `random` module, so `random.seed` makes each of them repeatable.
"""

import math
import random
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from utils import resize_image


def draw(interpolations: Sequence[int]) -> int:
    """One of them; where there is only one, no random number is used up."""
    return interpolations[0] if len(interpolations) == 1 else random.choice(interpolations)


class Compose:
    """Apply `transforms` one after the other."""

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = list(transforms)

    def __call__(self, img):
        for transform in self.transforms:
            img = transform(img)
        return img

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(str, self.transforms))})"


class Scale:
    """Resize so that the shorter side is `size` pixels (an int), or to `size` = (width, height).

    Each call draws one of `interpolations`; give exactly one for a repeatable result (validation does).
    """

    def __init__(self, size: int | tuple[int, int], interpolations: Sequence[int] = (cv2.INTER_LINEAR,)):
        self.size, self.interpolations = size, tuple(interpolations)

    def __call__(self, img: np.ndarray) -> np.ndarray:
        height, width = img.shape[:2]
        if isinstance(self.size, int):
            factor = self.size / min(height, width)
            target = max(self.size, round(width * factor)), max(self.size, round(height * factor))
        else:
            target = tuple(self.size)
        return img if target == (width, height) else resize_image(img, target, draw(self.interpolations))


class CenterCrop:
    """The middle `size` x `size` pixels (or `size` = (width, height)). The image has to be at least that large."""

    def __init__(self, size: int | tuple[int, int]):
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def __call__(self, img: np.ndarray) -> np.ndarray:
        (width, height), (rows, columns) = self.size, img.shape[:2]
        if rows < height or columns < width:
            raise ValueError(f"CenterCrop: a crop of {width}x{height} does not fit an image of {columns}x{rows}")
        top, left = round((rows - height) / 2), round((columns - width) / 2)
        return img[top : top + height, left : left + width]


class RandomSizedCrop:
    """A random part of the image, `area` of it in size and `aspect` wide, resized to `size` x `size`.

    If ten draws do not fit into the image, the largest centred square is taken (as in Inception training).
    """

    def __init__(self, size: int, interpolations: Sequence[int] = (cv2.INTER_LINEAR,),
                 area: tuple[float, float] = (0.25, 1.0), aspect: tuple[float, float] = (3 / 4, 4 / 3)):
        self.size, self.interpolations, self.area, self.aspect = size, tuple(interpolations), area, aspect

    def _box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Draw top, left, height, width of the crop."""
        for _ in range(10):
            target = random.uniform(*self.area) * height * width
            ratio = math.exp(random.uniform(*map(math.log, self.aspect)))
            w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < w <= width and 0 < h <= height:
                return random.randint(0, height - h), random.randint(0, width - w), h, w
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side

    def __call__(self, img: np.ndarray) -> np.ndarray:
        top, left, h, w = self._box(*img.shape[:2])
        crop = img[top : top + h, left : left + w]
        return resize_image(crop, (self.size, self.size), draw(self.interpolations))


class RandomHorizontalFlip:
    """Mirror left and right, every second time."""

    def __call__(self, img: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(img[:, ::-1]) if random.random() < 0.5 else img


class RandomColor:
    """Multiply each colour channel by its own factor from [1 - color_range, 1 + color_range]."""

    def __init__(self, color_range: float):
        self.color_range = color_range

    def __call__(self, img: np.ndarray) -> np.ndarray:
        gains = [1 + random.uniform(-self.color_range, self.color_range) for _ in range(3)]
        levels = np.arange(256)  # a table of 3 x 256 values instead of a float copy of the image
        table = np.stack([np.clip(np.rint(levels * gain), 0, 255) for gain in gains], axis=-1)
        return cv2.LUT(img, table[None].astype(np.uint8))


class RandomRotate:
    """Rotate by up to `degree_range` degrees either way, and keep the largest upright rectangle without a void."""

    def __init__(self, degree_range: float, interpolations: Sequence[int] = (cv2.INTER_LINEAR,)):
        self.degree_range, self.interpolations = degree_range, tuple(interpolations)

    def __call__(self, img: np.ndarray) -> np.ndarray:
        degrees = random.uniform(-self.degree_range, self.degree_range)
        height, width = img.shape[:2]
        w, h = largest_rotated_rectangle(width, height, math.radians(degrees))
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
        matrix[:, 2] -= (width - w) / 2, (height - h) / 2  # the crop is part of the same warp
        return cv2.warpAffine(img, matrix, (w, h), flags=draw(self.interpolations),
                              borderMode=cv2.BORDER_REPLICATE)


def largest_rotated_rectangle(width: float, height: float, angle: float) -> tuple[int, int]:
    """Width and height of the largest upright rectangle inside a width x height one turned by `angle` radians."""
    sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
    long, short = max(width, height), min(width, height)
    if short <= 2 * sine * cosine * long or abs(sine - cosine) < 1e-10:  # two corners touch the longer side
        half = 0.5 * short
        w, h = (half / sine, half / cosine) if width >= height else (half / cosine, half / sine)
    else:  # all four corners touch a side
        double = cosine * cosine - sine * sine
        w, h = (width * cosine - height * sine) / double, (height * cosine - width * sine) / double
    return max(1, int(w)), max(1, int(h))


class ToTensor:
    """H,W,3 uint8 (or float in [0, 255]) -> 3,H,W float32 in [0, 1]."""

    def __call__(self, img: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(img.transpose(2, 0, 1))).float().div_(255)


class Normalize:
    """Subtract `mean` and divide by `std`, channel by channel; gives a new tensor."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def __call__(self, tensor: Tensor) -> Tensor:
        return (tensor - self.mean) / self.std
