"""Data loaders: per-image batches from a DataLoader, or batches from the decoded cache by array operations.

Both make the same batches (images N,C,H,W, labels N) in the same order, which depends on (seed, epoch) only.
"""

import hashlib
import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from custom_dataloader import MiniPlacesLoader
from libs.batch_transforms import BatchTransforms
from libs.decoded_cache import CacheUnwritable, DecodedImages, decode, prefetch
from utils import BadInput, seeded

CACHES = ("auto", "off", "disk", "gpu")


class EpochSampler(Sampler):
    """Order of an epoch: a permutation fixed by (seed, epoch) if `shuffle`; of it every `world`-th item from `rank` on.

    Yields keys (epoch, index), all that an item's random transforms depend on (`SeededDataset`). So a resumed run sees
    exactly the batches of an uninterrupted one.
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1):
        # In training all ranks must run the same number of iterations, or they would wait for each other for ever.
        self.length = length // world * world if shuffle else length
        self.images, self.seed, self.shuffle, self.rank, self.world = length, seed, shuffle, rank, world
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """The order of `epoch`; iteration leaves out its first `skip` images, which a resumed run has seen."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        return len(range(self.rank, self.length, self.world))  # of the whole epoch

    def indices(self) -> np.ndarray:
        order = np.arange(self.images)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.images)
        return order[self.rank : self.length : self.world]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, index) for index in self.indices()[self.skip :].tolist())


class SeededDataset(Dataset):
    """`dataset` with its random transforms seeded by (seed, epoch, index): the same for any number of workers."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]):
        with seeded(self.seed, *key):
            return self.dataset[key[1]]


class SkipBad(Dataset):
    """`dataset` whose bad images are None. `bad` N, bool, says which; all worker processes share it."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.bad = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        try:
            return self.dataset[index]
        except BadInput:
            self.bad[index] = True
            return None


def collate_good(items: list) -> tuple[Tensor, Tensor]:
    """A batch of the items that are not None. Raises BadInput if there is none."""
    good = [item for item in items if item is not None]
    if not good:
        raise BadInput(f"none of the {len(items)} images of a batch can be used")
    return default_collate(good)


class CachedDataset(Dataset):
    """A MiniPlacesLoader that takes its images from the decoded cache, for transforms that run per image."""

    def __init__(self, dataset: MiniPlacesLoader, images: DecodedImages):
        self.dataset, self.images = dataset, images

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        if not self.images.good[index]:
            raise BadInput(f"{self.dataset.path(index)}: cannot be used")
        return self.dataset.transforms(self.images[index].copy()), self.dataset.targets[index]


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the worker processes are the parallelism
    torch.set_num_threads(1)
    # Ctrl-C and a scheduler's SIGTERM go to all processes; this one stays until the main one has finished its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(5))


def make_loader(dataset: Dataset, batch_size: int, *, workers: int, seed: int = 0, train: bool = False,
                rank: int = 0, world: int = 1, pin_memory: bool = False, skip_bad: bool = False) -> DataLoader:
    """Per-image loader. Training shuffles, and drops the incomplete last batch (BatchNorm)."""
    dataset, collate = (SkipBad(dataset), collate_good) if skip_bad else (dataset, None)
    sampler = EpochSampler(len(dataset), seed, shuffle=train, rank=rank, world=world)
    return DataLoader(SeededDataset(dataset, seed), batch_size, sampler=sampler, num_workers=workers, drop_last=train,
                      pin_memory=pin_memory, collate_fn=collate, worker_init_fn=_start_worker,
                      persistent_workers=workers > 0, generator=torch.Generator())  # the global one is left alone


class BatchLoader:
    """Batches from the decoded cache, without worker processes.

    On a CPU `threads` make the next batches while the network computes. With a CUDA `device` all pixels are copied
    into its memory, and batches are made there.
    """

    def __init__(self, dataset: MiniPlacesLoader, images: DecodedImages, transforms: BatchTransforms,
                 sampler: EpochSampler, batch_size: int, *, drop_last: bool, threads: int = 1,
                 device: torch.device | None = None, pin_memory: bool = False):
        self.dataset, self.images, self.transforms, self.sampler = dataset, images, transforms, sampler
        self.batch_size, self.drop_last, self.threads = batch_size, drop_last, threads
        self.device, self.pin_memory = device, pin_memory
        self.labels = torch.tensor(dataset.targets)
        self.resident = images.on(device) if device is not None else None

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.sampler.indices()
        draws = self.transforms.draw(self.sampler.seed, self.sampler.epoch, images=len(self.images))
        first = self.sampler.skip // self.batch_size
        batches = (order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(first, len(self)))
        calls = ((self._make, indices, draws) for indices in batches)
        if self.resident is None and self.threads:
            return prefetch(calls, self.threads)
        return (function(*arguments) for function, *arguments in calls)

    def _make(self, indices: np.ndarray, draws: np.ndarray) -> tuple[Tensor, Tensor]:
        indices = indices[self.images.good[indices]]
        if not len(indices):
            raise BadInput(f"none of the images of a batch of {self.dataset.label_file} can be used")
        labels = self.labels[indices]
        if self.resident is not None:
            rows = torch.from_numpy(indices).to(self.device, non_blocking=True)
            return self.transforms.on_device(self.resident[rows], draws[indices]), labels
        images = self.transforms.on_cpu([self.images[i] for i in indices], draws[indices])
        return (images.pin_memory(), labels.pin_memory()) if self.pin_memory else (images, labels)


def left_out(loader: DataLoader | BatchLoader) -> list[str]:
    """The images that --bad-images skip has left out so far, in all processes of this loader."""
    if isinstance(loader, BatchLoader):
        bad, dataset = ~loader.images.good, loader.dataset
    elif isinstance(skipping := loader.dataset.dataset, SkipBad):
        bad, dataset = skipping.bad, skipping.dataset
        dataset = dataset.dataset if isinstance(dataset, CachedDataset) else dataset
    else:
        return []
    named = isinstance(dataset, MiniPlacesLoader)
    return [str(dataset.path(i)) if named else f"image {i}" for i in np.flatnonzero(bad).tolist()]


def data_key(loader: DataLoader | BatchLoader) -> str:
    """Hash of the names and labels of a loader's images, in their order: the batches of an epoch depend on them."""
    dataset = loader.dataset
    while not isinstance(dataset, MiniPlacesLoader) and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    rows = (dataset.names, dataset.targets) if isinstance(dataset, MiniPlacesLoader) else type(dataset).__name__
    return f"{len(dataset)} images, {hashlib.sha256(repr(rows).encode()).hexdigest()[:16]}"


# ------------------------------------------------------------------------------------------ choosing one


def open_loader(dataset: Dataset, batch_size: int, cache: str, device: torch.device, *, workers: int, seed: int = 0,
                train: bool = False, rank: int = 0, world: int = 1,
                skip_bad: bool = False) -> tuple[DataLoader | BatchLoader, str]:
    """The fastest loader that `cache` (one of CACHES) and the data set's transforms allow, and a sentence naming it.

    `skip_bad`: bad images are left out of their batches. Raises BadInput for them otherwise, and if `cache` asks for
    what is impossible.
    """
    pin_memory = device.type == "cuda"

    def per_image(source: Dataset, why: str) -> tuple[DataLoader, str]:
        return make_loader(source, batch_size, workers=workers, seed=seed, train=train, rank=rank, world=world,
                           pin_memory=pin_memory, skip_bad=skip_bad), why

    if cache == "off" or not isinstance(dataset, MiniPlacesLoader):
        if cache not in ("off", "auto"):
            raise BadInput(f"--cache {cache}: only images in MiniPlaces' layout can be cached; leave it out")
        if isinstance(dataset, MiniPlacesLoader) and not skip_bad:
            dataset.check_images()
        return per_image(dataset, "per image, decoded in each epoch")
    try:
        images = decode(dataset, show=rank == 0, skip_bad=skip_bad)
    except CacheUnwritable as error:
        if cache != "auto":
            raise
        return per_image(dataset, f"per image, decoded in each epoch: {error}")
    where = f"decoded once, {images.pixels.size / 1e6:,.0f} MB in {images.folder.parent}"
    transforms = BatchTransforms.of(dataset.transforms)
    if transforms is None:
        if cache == "gpu":
            raise BadInput("--cache gpu: these transforms are not all from custom_transforms; take --cache disk")
        return per_image(CachedDataset(dataset, images),
                         f"{where}; per image, since these transforms are not all from custom_transforms")
    resident = train and _fits(images, device, cache)
    sampler = EpochSampler(len(dataset), seed, shuffle=train, rank=rank, world=world)
    threads = min(workers, 1) if device.type == "cpu" else workers  # more would take the network's cores
    return BatchLoader(dataset, images, transforms, sampler, batch_size, drop_last=train, threads=threads,
                       device=device if resident else None, pin_memory=pin_memory), (
        where + ("; copied to the GPU" if resident else ""))


def _fits(images: DecodedImages, device: torch.device, cache: str) -> bool:
    """Whether the pixels go to `device`; half of its free memory is left to the network."""
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
