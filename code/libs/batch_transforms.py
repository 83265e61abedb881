"""Batched version of `custom_transforms`: one affine warp and one lookup table per image.

Scaling, flipping, rotating and cropping are affine maps of pixel positions, so a list of them is one affine map and one
interpolation. Colour and normalisation act on single values: a lookup table of 256 values per channel. The random
numbers of a whole epoch are drawn at once.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import custom_transforms as T


@dataclass
class Views:
    """Affine map and colour gains of each of B images, composed transform by transform.

    `maps` B,3,3 takes a pixel (x, y, 1) of the output to its position in the image (pixel centres are integers);
    `gains` B,3 are the factors of the colour channels; `heights`, `widths` B the size so far.
    """

    heights: np.ndarray
    widths: np.ndarray
    maps: np.ndarray = field(init=False)
    gains: np.ndarray = field(init=False)

    def __post_init__(self):
        self.maps = np.tile(np.eye(3), (len(self.heights), 1, 1))
        self.gains = np.ones((len(self.heights), 3))

    def resize(self, heights: np.ndarray, widths: np.ndarray) -> None:
        """Resize to heights x widths."""
        x, y = self.widths / widths, self.heights / heights
        self._compose(x, 0, (x - 1) / 2, 0, y, (y - 1) / 2)
        self._size(heights, widths)

    def crop(self, top, left, heights, widths) -> None:
        self._compose(1, 0, left, 0, 1, top)
        self._size(heights, widths)

    def flip(self, which: np.ndarray) -> None:
        self._compose(np.where(which, -1, 1), 0, np.where(which, self.widths - 1, 0), 0, 1, 0)

    def rotate(self, radians: np.ndarray) -> None:
        """Rotate counter-clockwise about the centre; the size stays."""
        cosine, sine, x, y = np.cos(radians), np.sin(radians), (self.widths - 1) / 2, (self.heights - 1) / 2
        self._compose(cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)

    def _compose(self, *rows) -> None:
        inner = np.tile(np.eye(3), (len(self.heights), 1, 1))
        for position, values in enumerate(rows):
            inner[:, position // 3, position % 3] = values
        self.maps = self.maps @ inner

    def _size(self, heights, widths) -> None:
        self.heights, self.widths = np.broadcast_to(heights, len(self.maps)), np.broadcast_to(widths, len(self.maps))


# ------------------------------------------------------- each transform, given its random numbers
# `draws` B,k are uniform in [0, 1); k stands in DRAWS.


def _scale(transform: T.Scale, views: Views, _: np.ndarray) -> None:
    factor = transform.size / np.minimum(views.heights, views.widths)
    views.resize(*(np.maximum(transform.size, np.rint(side * factor)) for side in (views.heights, views.widths)))


def _center_crop(transform: T.CenterCrop, views: Views, _: np.ndarray) -> None:
    width, height = transform.size
    small = np.flatnonzero((views.heights < height) | (views.widths < width))
    if len(small):
        raise ValueError(f"CenterCrop: a crop of {width}x{height} does not fit an image of "
                         f"{views.widths[small[0]]:.0f}x{views.heights[small[0]]:.0f}")
    views.crop(np.rint((views.heights - height) / 2), np.rint((views.widths - width) / 2), height, width)


def _flip(_: T.RandomHorizontalFlip, views: Views, draws: np.ndarray) -> None:
    views.flip(draws[:, 0] < 0.5)


def _color(transform: T.RandomColor, views: Views, draws: np.ndarray) -> None:
    views.gains = 1 + transform.color_range * (2 * draws - 1)


def _rotate(transform: T.RandomRotate, views: Views, draws: np.ndarray) -> None:
    radians = np.deg2rad(transform.degree_range * (2 * draws[:, 0] - 1))
    rectangle = np.vectorize(T.largest_rotated_rectangle, otypes=[float, float])
    widths, heights = rectangle(views.widths, views.heights, radians)
    views.rotate(radians)
    views.crop((views.heights - heights) / 2, (views.widths - widths) / 2, heights, widths)


def _sized_crop(transform: T.RandomSizedCrop, views: Views, draws: np.ndarray) -> None:
    H, W = views.heights, views.widths
    tries = draws[:, 2:].reshape(len(draws), -1, 2)
    low, high = transform.area
    area = (low + (high - low) * tries[..., 0]) * (H * W)[:, None]
    low, high = np.log(transform.aspect)
    ratio = np.exp(low + (high - low) * tries[..., 1])
    widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (widths > 0) & (widths <= W[:, None]) & (heights > 0) & (heights <= H[:, None])
    each, first, some = np.arange(len(draws)), fits.argmax(1), fits.any(1)
    square = np.minimum(H, W)
    h, w = np.where(some, heights[each, first], square), np.where(some, widths[each, first], square)
    top = np.where(some, np.floor(draws[:, 0] * (H - h + 1)), (H - h) // 2)
    left = np.where(some, np.floor(draws[:, 1] * (W - w + 1)), (W - w) // 2)
    views.crop(top, left, h, w)
    views.resize(transform.size, transform.size)


APPLY: dict[type, Callable] = {T.Scale: _scale, T.CenterCrop: _center_crop, T.RandomHorizontalFlip: _flip,
                               T.RandomColor: _color, T.RandomRotate: _rotate, T.RandomSizedCrop: _sized_crop}
DRAWS = {T.RandomHorizontalFlip: 1, T.RandomColor: 3, T.RandomRotate: 1, T.RandomSizedCrop: 2 + 2 * 10}


class BatchTransforms:
    """A list of transforms that ends with ToTensor and Normalize, applied to whole batches.

    A list without random transforms (validation) runs step by step and gives the same bits as per image. A random one
    becomes one warp: the same distribution, interpolated once instead of three times.
    """

    def __init__(self, steps: Sequence[Callable], normalize: Sequence[Callable]):
        self.steps = list(steps)
        self.counts = [DRAWS.get(type(step), 0) for step in self.steps]
        levels = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)  # one pixel of each level
        self.table = T.Compose(normalize)(levels)[:, :, 0].t().contiguous().float().numpy()  # (256, 3)

    @classmethod
    def of(cls, transforms: Callable) -> "BatchTransforms | None":
        """The batched version of a Compose; None if it has other transforms, such as a student's own."""
        steps = transforms.transforms if type(transforms) is T.Compose else []
        if [type(step) for step in steps[-2:]] != [T.ToTensor, T.Normalize]:
            return None
        geometry = steps[:-2]
        known = all(type(step) in APPLY and _unmodified(type(step)) and _bilinear(step) for step in geometry)
        sized = bool(geometry) and type(geometry[-1]) in (T.CenterCrop, T.RandomSizedCrop)  # a batch is of one size
        colors = sum(type(step) is T.RandomColor for step in geometry)
        return cls(geometry, steps[-2:]) if known and sized and colors <= 1 else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output."""
        size = self.steps[-1].size
        return (size, size) if isinstance(size, int) else size[::-1]

    def draw(self, *key: int, images: int) -> np.ndarray:
        """Random numbers of an epoch, a row per image, fixed by `key`, for instance (seed, epoch)."""
        return np.random.default_rng([*key, 1]).random((images, sum(self.counts)))

    def views(self, shapes: np.ndarray, draws: np.ndarray) -> Views:
        """Views of images of `shapes` B,2 (height, width), with the random numbers `draws` B,k."""
        views, used = Views(shapes[:, 0].astype(float), shapes[:, 1].astype(float)), 0
        for step, count in zip(self.steps, self.counts):
            APPLY[type(step)](step, views, draws[:, used : used + count])
            used += count
        return views

    def tables(self, gains: np.ndarray) -> np.ndarray:
        """Gains B,3 -> lookup tables B,256,3 from a colour level to its normalised value after RandomColor."""
        levels = np.arange(256.0)[:, None] * gains[:, None]  # (B, 256, 3)
        np.clip(np.rint(levels, out=levels), 0, 255, out=levels)
        levels += 0, 256, 512  # index into the flattened columns of the table
        return self.table.T.ravel().take(levels.astype(np.intp))

    def on_cpu(self, images: Sequence[np.ndarray], draws: np.ndarray) -> Tensor:
        """Images H,W,3 uint8 of any size -> B,3,h,w float32 in the channels-last layout."""
        batch = torch.empty(len(images), 3, *self.size, memory_format=torch.channels_last)
        rows = batch.permute(0, 2, 3, 1).numpy()
        if not sum(self.counts):
            for image, out in zip(images, rows):
                cv2.LUT(T.Compose(self.steps)(image), self.table[None], dst=out)
            return batch
        views = self.views(np.array([image.shape[:2] for image in images]), draws)
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen, opaque = (np.empty((*self.size, channels), np.uint8) for channels in (4, 3))  # reused for each image
        for image, out, affine, table in zip(images, rows, views.maps[:, :2], self.tables(views.gains)):
            image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)  # OpenCV 5 warps four channels faster than three
            cv2.warpAffine(image, affine, self.size[::-1], dst=seen, flags=how, borderMode=cv2.BORDER_REPLICATE)
            cv2.LUT(cv2.cvtColor(seen, cv2.COLOR_RGBA2RGB, dst=opaque), table[None], dst=out)
        return batch

    def on_device(self, images: Tensor, draws: np.ndarray) -> Tensor:
        """Images B,H,W,3 uint8 -> B,3,h,w float32 on their device, by one grid_sample."""
        B, H, W, _ = images.shape
        views = self.views(np.full((B, 2), (H, W)), draws)
        h, w = self.size
        to_unit = np.array([[2 / W, 0, 1 / W - 1], [0, 2 / H, 1 / H - 1], [0, 0, 1]])  # grid_sample's coordinates
        from_unit = np.array([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2], [0, 0, 1]])
        maps = torch.from_numpy((to_unit @ views.maps @ from_unit)[:, :2]).float().to(images.device)
        grid = F.affine_grid(maps, [B, 3, h, w], align_corners=False)
        seen = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
        gains = torch.from_numpy(views.gains).float().to(images.device)[:, :, None, None]
        table = torch.from_numpy(self.table).to(images.device)
        zero, slope = table[0].view(3, 1, 1), (table[255] - table[0]).view(3, 1, 1) / 255
        return zero + slope * (seen * gains).clamp(0, 255)


@cache
def _unmodified(kind: type) -> bool:
    """True if the source is unmodified; an edited transform falls back to per-image processing."""
    return fingerprint(kind) == SHIPPED[kind.__name__]


def fingerprint(kind: type) -> str:
    return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:12]


# After a change of custom_transforms, first change the functions above; tests/test_batch_transforms.py prints hashes.
SHIPPED = {"Scale": "f2b7f4837f74", "CenterCrop": "d15dbdb79ec0", "RandomHorizontalFlip": "3733328f7744",
           "RandomColor": "c39d3ddae11d", "RandomRotate": "42683efc2662", "RandomSizedCrop": "f9703ebfc115"}


def _bilinear(step: Callable) -> bool:
    """Whether `step` interpolates bilinearly only, and scales to a size given as one number: what one warp can do."""
    plain = not isinstance(step, T.Scale) or isinstance(step.size, int)
    return plain and getattr(step, "interpolations", (cv2.INTER_LINEAR,)) == (cv2.INTER_LINEAR,)
