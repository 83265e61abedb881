"""Decode every image once, keep the pixels on disk, and make batches from them by array operations.

The pixels lie beside the data, in DIR/.decoded/SPLIT-KEY/: `pixels.bin`, all images' H,W,3 bytes in a row, read as a
memory map, so that they take no memory that anything else wants; and `shapes.npy`, N,2. KEY is made of the label
file's content and the size and time of every image: whatever changes, the old pixels are not found any more.
"""

import hashlib
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import hardware
from batch_transforms import BatchTransforms
from custom_dataloader import MiniPlacesLoader, Shuffle, make_loader
from utils import BadInput

FOLDER = ".decoded"
SPARE = 2**30  # bytes of disk that a cache leaves free
FORMAT = f"1, OpenCV {cv2.__version__}".encode()  # another version may decode to other pixels


class NoRoom(BadInput):
    """The pixels cannot be kept: no room, or no right to write."""


class Damaged(BadInput):
    """A folder of decoded images is not whole; it is made again."""


# ------------------------------------------------------------------------------------------------- on disk


class Decoded:
    """The images of a split as arrays H,W,3 uint8 RGB, by index; read only."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.shapes = np.load(folder / "shapes.npy")  # (N, 2): height, width
            self.pixels = np.memmap(folder / "pixels.bin", np.uint8, mode="r").view(np.ndarray)  # memmaps cut slowly
        except (OSError, ValueError) as error:
            raise Damaged(f"{folder}: {error}") from None
        self.ends = np.cumsum(3 * self.shapes.prod(axis=1, dtype=np.int64))
        if self.ends[-1] != len(self.pixels):
            raise Damaged(f"{folder}: pixels.bin has {len(self.pixels)} bytes, expected {self.ends[-1]}")
        self.one_size = bool((self.shapes == self.shapes[0]).all())
        self.images = self.pixels.reshape(len(self), *self.shapes[0], 3) if self.one_size else None

    def __reduce__(self):
        return Decoded, (self.folder,)  # another process maps the file; the pixels do not travel

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        if self.one_size:
            return self.images[index]
        height, width = self.shapes[index]
        end = self.ends[index]
        return self.pixels[end - 3 * height * width : end].reshape(height, width, 3)

    def on(self, device: torch.device) -> Tensor:
        """All of it as one tensor N,H,W,3 on `device`, 1 GiB at a time; for images of one size."""
        step = max(1, 2**30 // self.images[0].size)
        there = torch.empty(self.images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(self), step):
            there[start : start + step] = torch.from_numpy(self.images[start : start + step].copy()).to(device)
        return there


def decoded(dataset: MiniPlacesLoader, show: bool = True) -> Decoded:
    """The images of `dataset`, decoded now unless they are there already. Raises NoRoom; BadInput for bad images."""
    folder = dataset.root_folder / FOLDER / f"{dataset.split}-{key_of(dataset)}"
    if folder.is_dir():
        try:
            return Decoded(folder)
        except Damaged:
            shutil.rmtree(folder, ignore_errors=True)
    dataset.check_images()
    try:
        _decode(dataset, folder, show)
    except OSError as error:
        raise NoRoom(f"{folder.parent}: decoded images cannot be kept there ({error.strerror})") from None
    _clear(folder)
    return Decoded(folder)


def _clear(folder: Path) -> None:
    """Remove what label lines or images that have changed left beside `folder`, and what a killed process did."""
    split = folder.name.rpartition("-")[0]
    for old in folder.parent.glob(f"{split}-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    for part in folder.parent.glob(f".{split}-*.part"):
        if time.time() - max((file.stat().st_mtime for file in part.iterdir()), default=0) > 3600:
            shutil.rmtree(part, ignore_errors=True)


def key_of(dataset: MiniPlacesLoader) -> str:
    """A name for exactly these labels and image files."""
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


def _decode(dataset: MiniPlacesLoader, folder: Path, show: bool) -> None:
    """Decode in threads (OpenCV lets go of Python's lock), write in order, and give the folder its name at the end."""
    _check_room(dataset, folder)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        shapes = []
        images = _ahead(((dataset.load, i) for i in range(len(dataset))), 2 * hardware.cores())
        with (part / "pixels.bin").open("wb") as file:
            for image in tqdm(images, f"decoding {dataset.split}", len(dataset), unit="image", leave=False,
                              disable=None if show else True):
                shapes.append(image.shape[:2])
                file.write(image.data)
        np.save(part / "shapes.npy", np.array(shapes))
        try:
            os.replace(part, folder)
        except OSError:
            if not folder.is_dir():  # another process was not faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_room(dataset: MiniPlacesLoader, folder: Path) -> None:
    some = [dataset.load(i).size for i in range(0, len(dataset), max(1, len(dataset) // 16))]
    needed = len(dataset) * sum(some) // len(some)
    free = shutil.disk_usage(dataset.root_folder).free
    if needed + SPARE > free:
        raise NoRoom(f"{folder.parent}: {len(dataset):,} decoded images take {needed / 1e9:.1f} GB, and "
                     f"{free / 1e9:.1f} GB of the disk are free")


# ------------------------------------------------------------------------------------------------- batches


class BatchLoader:
    """What `make_loader` makes, from decoded images: batches (images N,C,H,W, labels N), the same order, no processes.

    On a CPU `threads` make the next batches while the network computes; with a CUDA `device` all pixels
    lie in its memory, and batches are made there.
    """

    def __init__(self, dataset: MiniPlacesLoader, images: Decoded, transforms: BatchTransforms, sampler: Shuffle,
                 batch_size: int, *, drop_last: bool, threads: int = 1, device: torch.device | None = None,
                 pin_memory: bool = False):
        self.dataset, self.images, self.transforms, self.sampler = dataset, images, transforms, sampler
        self.batch_size, self.drop_last, self.threads = batch_size, drop_last, threads
        self.device, self.pin_memory = device, pin_memory
        self.labels = torch.tensor(dataset.targets)
        self.resident = images.on(device) if device is not None else None

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.array([index for _, index in self.sampler])
        chance = self.transforms.draw(self.sampler.seed, self.sampler.epoch, images=len(self.images))
        batches = (order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self)))
        made = ((self._make, indices, chance) for indices in batches)
        return _ahead(made, self.threads) if self.resident is None and self.threads else (f(*a) for f, *a in made)

    def _make(self, indices: np.ndarray, chance: np.ndarray) -> tuple[Tensor, Tensor]:
        labels = self.labels[indices]
        if self.resident is not None:
            there = torch.from_numpy(indices).to(self.device, non_blocking=True)
            return self.transforms.on_device(self.resident[there], chance[indices]), labels
        images = self.transforms.on_cpu([self.images[i] for i in indices], chance[indices])
        return (images.pin_memory(), labels.pin_memory()) if self.pin_memory else (images, labels)


def _ahead(calls: Iterator[tuple], threads: int) -> Iterator:
    """The results of `calls` (function, *arguments) in their order, made by `threads` a little ahead of their use."""
    with ThreadPoolExecutor(threads, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        waiting: deque = deque()
        for call in calls:
            waiting.append(pool.submit(*call))
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# ------------------------------------------------------------------------------------------------ choosing


def open_loader(dataset: Dataset, batch_size: int, cache: str, device: torch.device, *, workers: int, seed: int = 0,
                train: bool = False, rank: int = 0, world: int = 1) -> tuple[DataLoader | BatchLoader, str]:
    """Batches of `dataset` the fastest way that `cache` (auto, off, disk, gpu) and its transforms allow.

    Also returns a sentence that says which. Raises BadInput if `cache` asks for what cannot be had.
    """
    pin_memory = device.type == "cuda"

    def image_by_image(why: str) -> tuple[DataLoader, str]:
        return make_loader(dataset, batch_size, workers=workers, seed=seed, train=train, rank=rank, world=world,
                           pin_memory=pin_memory), why

    if cache == "off" or not isinstance(dataset, MiniPlacesLoader):
        if cache not in ("off", "auto"):
            raise BadInput(f"--cache {cache}: only images in MiniPlaces' layout can be kept; leave it out")
        if isinstance(dataset, MiniPlacesLoader):
            dataset.check_images()
        return image_by_image("image by image, decoded in each epoch")
    try:
        images = decoded(dataset, show=rank == 0)
    except NoRoom as error:
        if cache != "auto":
            raise
        return image_by_image(f"image by image, decoded in each epoch: {error}")
    dataset.decoded = images
    where = f"decoded once, {images.pixels.size / 1e6:,.0f} MB kept in {images.folder.parent}"
    transforms = BatchTransforms.of(dataset.transforms)
    if transforms is None:
        if cache == "gpu":
            raise BadInput("--cache gpu: these transforms are not all of custom_transforms; take --cache disk")
        return image_by_image(f"{where}; image by image, for these transforms are not all of custom_transforms")
    resident = train and _fits(images, device, cache)
    sampler = Shuffle(len(dataset), seed, shuffle=train, rank=rank, world=world)
    threads = min(workers, 1) if device.type == "cpu" else workers  # more would take the network's cores
    return BatchLoader(dataset, images, transforms, sampler, batch_size, drop_last=train, threads=threads,
                       device=device if resident else None, pin_memory=pin_memory), (
        where + ("; copied to the GPU" if resident else ""))


def _fits(images: Decoded, device: torch.device, cache: str) -> bool:
    """Whether the pixels go to `device`. Half of its free memory stays free for the network."""
    if cache == "disk" or device.type != "cuda":
        return False
    free = torch.cuda.mem_get_info(device)[0]
    if images.one_size and images.pixels.size < free / 2:
        return True
    if cache == "gpu":
        raise BadInput("--cache gpu: the images are of different sizes; take --cache disk" if not images.one_size else
                       f"--cache gpu: {images.pixels.size / 1e9:.1f} GB of images do not fit into half of the "
                       f"{free / 1e9:.1f} GB that are free on the GPU; take --cache disk")
    return False
