"""Decoded cache: every image is decoded once, and its pixels are kept on disk.

DIR/.decoded/SPLIT-KEY/ holds `pixels.bin`, the H,W,3 bytes of all images one after the other, read as a memory map,
`shapes.npy`, N,2, and `sums.npy`, a CRC-32 of each image. An image that cannot be used is 0x0. KEY is a hash of the
label file and of every image's size and time, so a changed data set gets a new cache.
"""

import hashlib
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from custom_dataloader import MiniPlacesLoader
from libs import hardware
from utils import BadInput

FOLDER = ".decoded"
SPARE = 2**30  # bytes of disk to leave free
FORMAT = f"1, OpenCV {cv2.__version__}".encode()  # versions of OpenCV may decode differently


class CacheUnwritable(BadInput):
    """The cache cannot be written: disk full or permission denied."""


class CacheDamaged(BadInput):
    """The cache is incomplete or damaged; it is made again."""


class DecodedImages:
    """The images of a split as arrays H,W,3 uint8 RGB, by index; read only."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.shapes = np.load(folder / "shapes.npy")  # (N, 2): height, width
            self.pixels = np.memmap(folder / "pixels.bin", np.uint8, mode="r")
            self.pixels = self.pixels.view(np.ndarray)  # slices of a memmap are slow
            sums = folder / "sums.npy"
            self.sums = np.load(sums) if sums.exists() else None  # caches of earlier versions have none
        except (OSError, ValueError) as error:
            raise CacheDamaged(f"{folder}: {error}") from None
        self.ends = np.cumsum(3 * self.shapes.prod(axis=1, dtype=np.int64))
        if self.ends[-1] != len(self.pixels):
            raise CacheDamaged(f"{folder}: pixels.bin has {len(self.pixels)} bytes, expected {self.ends[-1]}")
        if self.sums is not None and len(self.sums) != len(self.shapes):
            raise CacheDamaged(f"{folder}: sums.npy has {len(self.sums)} rows, expected {len(self.shapes)}")
        self.checked = np.full(len(self.shapes), self.sums is None)
        self.good = self.ends > np.concatenate([[0], self.ends[:-1]])  # (N,): has pixels
        self.one_size = bool((self.shapes == self.shapes[0]).all() and self.good[0])
        self.images = self.pixels.reshape(len(self), *self.shapes[0], 3) if self.one_size else None

    def __reduce__(self):
        return DecodedImages, (self.folder,)  # pickled for a worker process, which maps the file itself

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        height, width = self.shapes[index]
        end = self.ends[index]
        image = (self.images[index] if self.one_size else
                 self.pixels[end - 3 * height * width : end].reshape(height, width, 3))
        if not self.checked[index]:  # once in each run, when it is used: reading all at the start would take long
            self._check(index, image)
        return image

    def _check(self, index: int, image: np.ndarray) -> None:
        if zlib.crc32(image) != self.sums[index]:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise CacheDamaged(f"{self.folder}: image {index} is not what was decoded: the disk or something else has "
                               "changed it. This cache is removed now, and the next start makes it again")
        self.checked[index] = True

    def on(self, device: torch.device) -> Tensor:
        """All images as one tensor N,H,W,3 on `device`, copied 1 GiB at a time; they must be of one size."""
        for index in range(len(self)):
            self._check(index, self.images[index])
        step = max(1, 2**30 // self.images[0].size)
        there = torch.empty(self.images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(self), step):
            there[start : start + step] = torch.from_numpy(self.images[start : start + step].copy()).to(device)
        return there


def decode(dataset: MiniPlacesLoader, show: bool = True, skip_bad: bool = False) -> DecodedImages:
    """The decoded images of `dataset`, cached or decoded now.

    Raises CacheUnwritable, and BadInput for bad images; with `skip_bad` these are 0x0.
    """
    folder = dataset.root_folder / FOLDER / f"{dataset.split}-{key_of(dataset)}"
    images = _open(folder)
    if images is None:
        if not skip_bad:
            dataset.check_images()
        try:
            _decode(dataset, folder, show, skip_bad)
        except OSError as error:
            raise CacheUnwritable(f"{folder.parent}: decoded images cannot be cached there "
                                  f"({error.strerror})") from None
        _clear(folder)
        images = DecodedImages(folder)
    if not skip_bad and not images.good.all():
        raise BadInput(dataset.describe(dict.fromkeys(np.flatnonzero(~images.good), "it could not be decoded")))
    return images


def _open(folder: Path) -> DecodedImages | None:
    """The cache in `folder`, if it is there and whole; what is not whole is removed."""
    if not folder.is_dir():
        return None
    try:
        return DecodedImages(folder)
    except CacheDamaged:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _clear(folder: Path) -> None:
    """Remove the caches of earlier versions of this data, and partial ones of processes that were killed."""
    split = folder.name.rpartition("-")[0]
    for old in folder.parent.glob(f"{split}-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    for part in folder.parent.glob(f".{split}-*.part"):
        if time.time() - max((file.stat().st_mtime for file in part.iterdir()), default=0) > 3600:
            shutil.rmtree(part, ignore_errors=True)


def key_of(dataset: MiniPlacesLoader) -> str:
    """Hash of the label file and of the size and time of every image file."""
    digest = hashlib.sha256(FORMAT + dataset.label_file.read_bytes())
    with ThreadPoolExecutor(8) as pool:
        for state in pool.map(_size_and_time, map(dataset.path, range(len(dataset))), chunksize=512):
            digest.update(state)
    return digest.hexdigest()[:16]


def _size_and_time(path: Path) -> bytes:
    try:
        state = path.stat()
    except OSError:
        return b"missing"  # named by check_images
    return b"%d %d;" % (state.st_size, state.st_mtime_ns)


def _decode(dataset: MiniPlacesLoader, folder: Path, show: bool, skip_bad: bool) -> None:
    """Decode in threads (OpenCV releases the GIL) and write in order; the folder gets its name when it is complete."""
    load = partial(_load_or_nothing, dataset) if skip_bad else dataset.load
    _check_room(dataset, folder, load)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        shapes, sums = [], []
        images = prefetch(((load, i) for i in range(len(dataset))), 2 * hardware.cores())
        with (part / "pixels.bin").open("wb") as file:
            for image in tqdm(images, f"decoding {dataset.split}", len(dataset), unit="image", leave=False,
                              disable=None if show else True):
                shapes.append(image.shape[:2])
                sums.append(zlib.crc32(image))
                file.write(image.data)
        np.save(part / "sums.npy", np.array(sums, np.uint32))
        np.save(part / "shapes.npy", np.array(shapes))
        try:
            os.replace(part, folder)
        except OSError:
            if not folder.is_dir():  # unless another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _load_or_nothing(dataset: MiniPlacesLoader, index: int) -> np.ndarray:
    try:
        return dataset.load(index)
    except BadInput:
        return np.zeros((0, 0, 3), np.uint8)


def _check_room(dataset: MiniPlacesLoader, folder: Path, load: Callable) -> None:
    some = [load(i).size for i in range(0, len(dataset), max(1, len(dataset) // 16))]
    needed = len(dataset) * sum(some) // len(some)
    free = shutil.disk_usage(dataset.root_folder).free
    if needed + SPARE > free:
        raise CacheUnwritable(f"{folder.parent}: {len(dataset):,} decoded images take {needed / 1e9:.1f} GB, and "
                     f"{free / 1e9:.1f} GB of the disk are free")


def prefetch(calls: Iterator[tuple], threads: int) -> Iterator:
    """Run `calls` (function, *arguments) in a thread pool, `threads` + 1 ahead of use; yield the results in order."""
    with ThreadPoolExecutor(threads, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        waiting: deque = deque()
        for call in calls:
            waiting.append(pool.submit(*call))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
