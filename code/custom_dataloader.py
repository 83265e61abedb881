"""From a folder to images and labels: MiniPlaces' layout, or torchvision's MNIST, CIFAR-10 and Oxford-IIIT Pet."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.utils.data import DataLoader, Dataset, Sampler

from utils import BadInput, image_file_flaw, load_image, seeded

# ------------------------------------------------------------------------------------------- label files


def read_labels(label_file: str | os.PathLike, num_classes: int | None = None) -> list[tuple[str, int, int]]:
    """Read lines of `path label` into (path, label, line number). Blank lines are skipped; tabs count as spaces.

    Raises BadInput, with file and line, if a line has no label, or one outside [0, num_classes).
    """
    rows = []
    try:
        lines = Path(label_file).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise BadInput(f"{label_file}: there is no such file; it has a line 'path label' for each image") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{label_file}: not a text file ({error.reason} at byte {error.start})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().replace("\t", " ").rpartition(" ")
        if not name or not label.isdecimal():
            raise BadInput(f"{label_file}:{number}: expected 'path label', such as 'train/a/abbey/00000001.jpg 0', "
                           f"but the line is {line.strip()!r}")
        if num_classes is not None and int(label) >= num_classes:
            raise BadInput(f"{label_file}:{number}: label {label} is outside 0..{num_classes - 1}")
        rows.append((name.strip(), int(label), number))
    if not rows:
        raise BadInput(f"{label_file}: the label file is empty; it needs a line 'path label' for each image")
    return rows


class MiniPlacesLoader(Dataset):
    """Images and labels in MiniPlaces' layout: `label_file` (default ROOT/SPLIT.txt), images under ROOT/images/.

    Items are (transforms(image), label); the image is H,W,3 uint8 RGB before the transforms.
    `num_classes` None takes any labels. Raises BadInput as `read_labels` does; `check_images` looks at the files.
    """

    def __init__(self, root_folder, label_file=None, num_classes=100, split="train", transforms=None):
        self.root_folder = Path(root_folder)
        self.label_file = Path(label_file) if label_file is not None else self.root_folder / f"{split}.txt"
        self.split, self.transforms = split, transforms
        rows = read_labels(self.label_file, num_classes)
        self.names = [name for name, _, _ in rows]
        self.targets = [label for _, label, _ in rows]
        self.lines = [number for _, _, number in rows]
        self.decoded: Sequence[np.ndarray] | None = None  # all images, where somebody keeps them (data_cache)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root_folder / "images" / self.names[index]

    def load(self, index: int) -> np.ndarray:
        """The image as it is on disk, H,W,3."""
        if self.decoded is not None:
            return self.decoded[index].copy()  # a student's transform may write into it
        try:
            return load_image(self.path(index))
        except BadInput as error:
            raise BadInput(f"{self.label_file}:{self.lines[index]}: {error}") from None

    def __getitem__(self, index: int):
        image = self.load(index)
        return (self.transforms(image) if self.transforms else image), self.targets[index]

    def check_images(self) -> None:
        """Look at every file once, without decoding it, so that a bad one is named before training starts.

        Raises BadInput with the first five that are missing, empty, cut off or no image.
        """
        with ThreadPoolExecutor(8) as pool:
            flaws = list(pool.map(image_file_flaw, map(self.path, range(len(self))), chunksize=256))
        bad = [f"{self.label_file}:{self.lines[i]}: {self.path(i)}: {flaw}" for i, flaw in enumerate(flaws) if flaw]
        if bad:
            more = [f"... and {len(bad) - 5} more"] if len(bad) > 5 else []
            raise BadInput("\n".join([f"{len(bad)} of {len(self)} images cannot be used", *bad[:5], *more]))


# --------------------------------------------------------------------------------- any folder we understand


class ArrayImages(Dataset):
    """A torchvision data set of PIL images, seen as H,W,3 uint8 RGB arrays like everything else here."""

    def __init__(self, dataset: Dataset, transforms: Callable | None = None):
        self.dataset, self.transforms = dataset, transforms

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        try:
            image, label = self.dataset[index]
        except OSError as error:  # PIL's for what is missing or no image
            raise BadInput(f"{type(self.dataset).__name__} in {self.dataset.root}: image {index}: {error}") from None
        image = np.asarray(image.convert("RGB"))
        return (self.transforms(image) if self.transforms else image), label


# The folder that tells each torchvision data set; its class; the arguments for training and validation.
TORCHVISION = {
    "MNIST/raw": (torchvision.datasets.MNIST, {"train": True}, {"train": False}),
    "cifar-10-batches-py": (torchvision.datasets.CIFAR10, {"train": True}, {"train": False}),
    "oxford-iiit-pet": (torchvision.datasets.OxfordIIITPet, {"split": "trainval"}, {"split": "test"}),
}


def open_split(folder: str | os.PathLike, split: str, transforms: Callable | None = None) -> tuple[Dataset, list[str]]:
    """Open the split "train" or "val" of whatever data lies in `folder`. Returns the data set and the class names.

    MiniPlaces' layout is told by train.txt or val.txt, torchvision's data sets by the folder that their download
    makes in (or under) `folder`. Raises BadInput if the folder holds none of them, or a flaw of the label file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder}: there is no such folder. {HOW_TO_GET_DATA}")
    if any((folder / name).exists() for name in ("train.txt", "val.txt")):
        names = class_names(folder)
        return MiniPlacesLoader(folder, num_classes=len(names), split=split, transforms=transforms), names
    there = [marker for marker in TORCHVISION if (folder / marker).is_dir()]
    if len(there) > 1:
        raise BadInput(f"{folder}: holds several data sets, {', '.join(there)}; name the folder of one: "
                       f"{folder / there[-1]}")
    for marker, (kind, *arguments) in TORCHVISION.items():
        for root in (folder, *list(folder.resolve().parents)[: marker.count("/") + 1]):
            if (root / marker).is_dir() and (root / marker).resolve().is_relative_to(folder.resolve()):
                dataset = _open_torchvision(kind, root, arguments[split == "val"])
                return ArrayImages(dataset, transforms), [str(name) for name in dataset.classes]
    raise BadInput(f"{folder}: holds no data that is understood: neither train.txt and val.txt with images/ "
                   f"(MiniPlaces' layout) nor one of the folders {', '.join(TORCHVISION)}. "
                   + (f"Did you mean {within}?" if (within := folder_within(folder)) else HOW_TO_GET_DATA))


HOW_TO_GET_DATA = ("MiniPlaces comes with 'sh ../download_dataset.sh', and scenes are drawn on the spot by "
                   "'python demo_data.py ../data/demo'")


def folder_within(folder: Path) -> Path | None:
    """A folder right inside `folder` that holds data, as ../data/demo does in ../data."""
    return next((path.parent for path in sorted(folder.glob("*/train.txt"))), None)


def _open_torchvision(kind: type, root: Path, arguments: dict) -> Dataset:
    try:
        return kind(root, **arguments)
    except (RuntimeError, OSError, AssertionError, ValueError, IndexError) as error:
        raise BadInput(f"{root}: {kind.__name__} is there but not whole: {error}") from None


MOST_CLASSES = 100_000  # a larger label is a slip, and would ask for a network that fits into no memory


def class_names(folder: Path) -> list[str]:
    """The names of the classes 0, 1, ... of a folder in MiniPlaces' layout.

    From categories.txt (lines `/a/abbey 0`) where it is, else from the folders of the training images, else
    the numbers. What this file does not name is no class: other labels are errors.
    """
    files = [folder / f"{stem}.txt" for stem in ("categories", "train", "val")]
    source = next(file for file in files if file.exists())
    names: dict[int, str] = {}
    for path, label, _ in read_labels(source, MOST_CLASSES):
        place = path if source.stem == "categories" else path.rpartition("/")[0].removeprefix("train")
        names.setdefault(label, short_name(place if source.stem != "val" else "") or str(label))
    return [names.get(label, str(label)) for label in range(max(names) + 1)]


def short_name(category: str) -> str:
    """'/a/abbey' -> 'abbey', '/b/bow_window/indoor' -> 'bow_window/indoor'."""
    parts = [part for part in category.split("/") if part]
    return "/".join(parts[1:] if len(parts) > 1 and len(parts[0]) == 1 else parts)


# ------------------------------------------------------------------------------------------------ batches


class Shuffle(Sampler):
    """The order of one epoch: a permutation fixed by (seed, epoch), or none; every `world`-th item from `rank` on.

    Yields keys (epoch, index): they tell a `Repeatable` data set all that an item's randomness depends on,
    which is how an interrupted and resumed run sees exactly what an uninterrupted one sees.
    """

    def __init__(self, length: int, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1):
        # In training every process has to take the same number of steps, or the others wait for ever.
        self.length = length // world * world if shuffle else length
        self.images, self.seed, self.shuffle, self.rank, self.world = length, seed, shuffle, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return len(range(self.rank, self.length, self.world))

    def __iter__(self):
        order = range(self.images)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.images).tolist()
        return ((self.epoch, index) for index in order[self.rank : self.length : self.world])


class Repeatable(Dataset):
    """`dataset`, with its random transforms seeded by (seed, epoch, index): the same for any number of workers."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]):
        with seeded(self.seed, *key):
            return self.dataset[key[1]]


def _quiet_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # one thread each: the workers are the parallelism
    torch.set_num_threads(1)


def make_loader(dataset: Dataset, batch_size: int, *, workers: int, seed: int = 0, train: bool = False,
                rank: int = 0, world: int = 1, pin_memory: bool = False) -> DataLoader:
    """Batches (images N,C,H,W, labels N). Training shuffles and drops the incomplete last batch (BatchNorm)."""
    sampler = Shuffle(len(dataset), seed, shuffle=train, rank=rank, world=world)
    return DataLoader(Repeatable(dataset, seed), batch_size, sampler=sampler, num_workers=workers, drop_last=train,
                      pin_memory=pin_memory, worker_init_fn=_quiet_worker, persistent_workers=workers > 0,
                      generator=torch.Generator())  # its own: loading leaves the global random state alone
