"""Data sets: MiniPlaces' layout, or torchvision's MNIST, CIFAR-10 and Oxford-IIIT Pet."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torchvision
from torch.utils.data import Dataset

from utils import BadInput, image_file_flaw, load_image

# ------------------------------------------------------------------------------------------- label files


def read_labels(label_file: str | os.PathLike, num_classes: int | None = None) -> list[tuple[str, int, int]]:
    """Parse lines `path label` into (path, label, line number). Blank lines are skipped; tabs count as spaces.

    Raises BadInput, naming file and line, for a missing label or one outside [0, num_classes).
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
        if "\0" in line:
            raise BadInput(f"{label_file}:{number}: not a line of text (it has a zero byte)")
        name, _, label = line.strip().replace("\t", " ").rpartition(" ")
        if not name or not label.isdecimal():
            raise BadInput(f"{label_file}:{number}: expected 'path label', such as 'train/a/abbey/00000001.jpg 0', "
                           f"but the line is {line.strip()[:100]!r}")
        if num_classes is not None and int(label) >= num_classes:
            raise BadInput(f"{label_file}:{number}: label {label[:20]} is outside 0..{num_classes - 1}")
        rows.append((name.strip(), int(label), number))
    if not rows:
        raise BadInput(f"{label_file}: the label file is empty; it needs a line 'path label' for each image")
    return rows


class MiniPlacesLoader(Dataset):
    """Data set in MiniPlaces' layout: `label_file` (default ROOT/SPLIT.txt), images under ROOT/images/.

    Items are (transforms(image), label), where image is H,W,3 uint8 RGB. `num_classes` None accepts any label.
    Raises BadInput as `read_labels` does; `check_images` checks the image files.
    """

    def __init__(self, root_folder, label_file=None, num_classes=100, split="train", transforms=None):
        self.root_folder = Path(root_folder)
        self.label_file = Path(label_file) if label_file is not None else self.root_folder / f"{split}.txt"
        self.split, self.transforms = split, transforms
        rows = read_labels(self.label_file, num_classes)
        self.names = [name for name, _, _ in rows]
        self.targets = [label for _, label, _ in rows]
        self.lines = [number for _, _, number in rows]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root_folder / "images" / self.names[index]

    def load(self, index: int) -> np.ndarray:
        """The decoded image, H,W,3 uint8 RGB, without transforms."""
        try:
            return load_image(self.path(index))
        except BadInput as error:
            raise BadInput(f"{self.label_file}:{self.lines[index]}: {error}") from None

    def __getitem__(self, index: int):
        image = self.load(index)
        return (self.transforms(image) if self.transforms else image), self.targets[index]

    def check_images(self) -> None:
        """Check the header and end of every image file, so that a bad one is named before training starts.

        Raises BadInput, naming the first five that are missing, empty, truncated or not an image.
        """
        with ThreadPoolExecutor(8) as pool:
            flaws = list(pool.map(image_file_flaw, map(self.path, range(len(self))), chunksize=256))
        if bad := {i: flaw for i, flaw in enumerate(flaws) if flaw}:
            raise BadInput(self.describe(bad))

    def describe(self, bad: dict[int, str]) -> str:
        """The first five of the images `bad`, {index: what is wrong}, with the lines that name them."""
        lines = [f"{self.label_file}:{self.lines[i]}: {self.path(i)}: {flaw}" for i, flaw in list(bad.items())[:5]]
        more = [f"... and {len(bad) - 5} more"] if len(bad) > 5 else []
        return "\n".join([f"{len(bad)} of {len(self)} images cannot be used", *lines, *more])


# -------------------------------------------------------------------------------------- any data folder


class ArrayImages(Dataset):
    """Adapts a torchvision data set of PIL images to items (transforms(H,W,3 uint8 RGB array), label)."""

    def __init__(self, dataset: Dataset, transforms: Callable | None = None):
        self.dataset, self.transforms = dataset, transforms

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        try:
            image, label = self.dataset[index]
        except OSError as error:  # PIL raises it for a missing file or one that is not an image
            raise BadInput(f"{type(self.dataset).__name__} in {self.dataset.root}: image {index}: {error}") from None
        image = np.asarray(image.convert("RGB"))
        return (self.transforms(image) if self.transforms else image), label


# Folder by which a torchvision data set is recognised -> its class, its arguments for training and for validation.
TORCHVISION = {
    "MNIST/raw": (torchvision.datasets.MNIST, {"train": True}, {"train": False}),
    "cifar-10-batches-py": (torchvision.datasets.CIFAR10, {"train": True}, {"train": False}),
    "oxford-iiit-pet": (torchvision.datasets.OxfordIIITPet, {"split": "trainval"}, {"split": "test"}),
}


def open_split(folder: str | os.PathLike, split: str, transforms: Callable | None = None) -> tuple[Dataset, list[str]]:
    """Open split "train" or "val" of the data in `folder`. Returns the data set and the class names.

    MiniPlaces' layout is recognised by train.txt or val.txt, torchvision's data sets by the folder that their download
    makes. Raises BadInput if `folder` has none of them, and as `read_labels` does.
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
    raise BadInput(f"{folder}: has no known data set: neither train.txt and val.txt with images/ "
                   f"(MiniPlaces' layout) nor one of the folders {', '.join(TORCHVISION)}. "
                   + (f"Did you mean {within}?" if (within := folder_within(folder)) else HOW_TO_GET_DATA))


HOW_TO_GET_DATA = ("Download MiniPlaces with 'sh ../download_dataset.sh', or draw the demo scenes with "
                   "'python -m demo.data ../data/demo'")


def folder_within(folder: Path) -> Path | None:
    """A folder directly inside `folder` that has data, as ../data has ../data/demo."""
    return next((path.parent for path in sorted(folder.glob("*/train.txt"))), None)


def _open_torchvision(kind: type, root: Path, arguments: dict) -> Dataset:
    try:
        return kind(root, **arguments)
    except (RuntimeError, OSError, AssertionError, ValueError, IndexError) as error:
        raise BadInput(f"{root}: {kind.__name__} is incomplete: {error}") from None


MOST_CLASSES = 100_000  # a larger label is a typing error, and its network would not fit into memory


def class_names(folder: Path) -> list[str]:
    """Names of the classes 0, 1, ... of a folder in MiniPlaces' layout.

    From categories.txt (lines `/a/abbey 0`) if there is one, else from the folders of the training images, else the
    numbers. Labels that this file does not have are errors.
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
