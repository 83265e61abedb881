"""What every other file shares: images on disk, running averages, seeds, safe writing."""

import importlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BadInput(ValueError):
    """Something that the user gave is wrong; the message names it and says what to do. Never a bug of ours."""


def of_the_solution(module: str, flag: str) -> ModuleType:
    """A module that the starter leaves out: it shows what students write. BadInput names the `flag` that needs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise BadInput(f"{flag} needs {module}.py, which is part of the solution and not of the starter") from None


# ---------------------------------------------------------------------------------------------- images


def load_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file as H,W,3 uint8 in RGB order.

    Raises BadInput if the file is missing, is no image, or is a JPEG that ends too early: OpenCV would fill
    the missing half with grey and carry on.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)  # imdecode, unlike imread, takes any file name on Windows
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    if (flaw := _image_flaw(data.tobytes())) is not None:
        raise BadInput(f"{path}: {flaw}")
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise BadInput(f"{path}: not an image that OpenCV can decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_file_flaw(path: str | os.PathLike) -> str | None:
    """What is visibly wrong with an image file, without decoding it; None if nothing is."""
    try:
        return _image_flaw(Path(path).read_bytes())
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _image_flaw(data: bytes) -> str | None:
    if not data:
        return "the file is empty"
    if data[:2] == b"\xff\xd8":
        # The first 64 kB may hold a thumbnail with an end of its own; behind the last end a phone may append things.
        end = data.rfind(b"\xff\xd9")
        return None if end >= min(len(data) - 1024, 2**16) and end > 0 else "the JPEG is cut off (no end marker)"
    if data[:4] in (b"\x89PNG", b"RIFF", b"GIF8", b"II*\0", b"MM\0*") or data[:2] == b"BM":
        return None
    return "not an image file (no JPEG, PNG, WebP, GIF, TIFF or BMP header)"


def save_image(path: str | os.PathLike, img: np.ndarray) -> None:
    """Write an H,W,3 uint8 RGB image; the suffix chooses the format. Raises BadInput if it cannot be encoded."""
    done, data = cv2.imencode(Path(path).suffix, cv2.cvtColor(img, cv2.COLOR_RGB2BGR))
    if not done:
        raise BadInput(f"{path}: cannot be encoded as {Path(path).suffix}")
    with writing(path) as part:
        data.tofile(part)


def resize_image(img: np.ndarray, new_size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize H,W[,C] to `new_size`, which is (width, height) as in OpenCV."""
    return cv2.resize(img, tuple(new_size), interpolation=interpolation)


def denormalize(images: Tensor) -> Tensor:
    """ImageNet-normalised N,3,H,W -> the same images in [0, 1], always on one scale."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.detach().float() * std + mean).clamp(0, 1)


def image_grid(images: Tensor, per_row: int = 10) -> Tensor:
    """Normalised N,3,H,W -> one 3,H',W' mosaic in [0, 1] on the CPU, `per_row` images side by side."""
    return make_grid(denormalize(images).cpu(), nrow=per_row)


# ---------------------------------------------------------------------------------- averages and seeds


def spaced(length: int, count: int) -> list[int]:
    """Up to `count` of the indices 0 to length - 1, at even distances: what is sorted by class gives some of each."""
    return torch.linspace(0, length - 1, min(count, length)).long().tolist()


class AverageMeter:
    """A running mean: `val` the newest value, `sum`, `count`, `avg`. Values may be tensors: nothing is synchronised."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.val = self.sum = self.count = self.avg = 0

    def update(self, val, n: int = 1) -> None:
        """Add the mean `val` of `n` more items."""
        self.val = val
        self.sum = self.sum + val * n
        self.count += n
        self.avg = self.sum / max(self.count, 1)


def seed_everything(*key: int) -> None:
    """Seed Python's, NumPy's and torch's generators with `key`, say (seed, epoch)."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the CPU generators with `key` inside the block, and put them back as they were after it."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


# ----------------------------------------------------------------------------------------------- writing


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path to write to, and move it to `path` when the block ends well: never half a file."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
