"""Shared helpers: image files, running averages, seeding, atomic writes."""

import os
import random
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# CS 771 Homework 2, section 3.3: the attack's defaults. `step_size` and `epsilon` are in normalised input units.
ASSIGNMENT_ATTACK = {"num_steps": 10, "step_size": 0.01, "epsilon": 0.1}


class BadInput(ValueError):
    """Invalid user input: a flag, a file, a line. The message names it and says what to do."""


def innermost_line(error: BaseException, filename: str) -> traceback.FrameSummary | None:
    """The innermost line of `error`'s traceback that is in a file of this name; None if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if Path(frame.filename).name == filename), None)


# torch's settings for the whole program: how to read and how to set each.
SETTINGS = {"torch's grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
            "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
            "torch's anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
            "torch's number of threads": (torch.get_num_threads, torch.set_num_threads)}


@contextmanager
def settings_kept() -> Iterator[None]:
    """Raise AssertionError if the block leaves torch's settings changed; they are put back in any case."""
    before = {name: get() for name, (get, _) in SETTINGS.items()}
    try:
        yield
        for name, (get, _) in SETTINGS.items():
            assert get() == before[name], f"expected {name} to stay {before[name]}; got {get()} afterwards"
    finally:
        for name, (get, put_back) in SETTINGS.items():
            if get() != before[name]:
                put_back(before[name])


# ---------------------------------------------------------------------------------------------- images


def load_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file as H,W,3 uint8 in RGB order.

    Raises BadInput if the file is missing, is not an image, or is a truncated JPEG, which OpenCV would fill up with
    grey without an error.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)  # imdecode, unlike imread, takes any file name on Windows
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    if (flaw := _image_flaw(data.tobytes())) is not None:
        raise BadInput(f"{path}: {flaw}")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:  # of more than 2^30 pixels, or more than fit into memory
        raise BadInput(f"{path}: OpenCV cannot decode it ({error.err})") from None
    if image is None:
        raise BadInput(f"{path}: not an image that OpenCV can decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_file_flaw(path: str | os.PathLike) -> str | None:
    """Describe what is wrong with an image file, judging by its header and end; None if nothing is. Does not decode."""
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
        # An embedded thumbnail has an end marker of its own, in the first 64 kB; phones append data after the last one.
        end = data.rfind(b"\xff\xd9")
        return None if end >= min(len(data) - 1024, 2**16) and end > 0 else "the JPEG is truncated (no end marker)"
    if data[:4] in (b"\x89PNG", b"RIFF", b"GIF8", b"II*\0", b"MM\0*") or data[:2] == b"BM":
        return None
    return "not an image file (no JPEG, PNG, WebP, GIF, TIFF or BMP header)"


def save_image(path: str | os.PathLike, img: np.ndarray) -> None:
    """Write an H,W,3 uint8 RGB image in the format of the suffix. Raises BadInput if OpenCV cannot encode it."""
    done, data = cv2.imencode(Path(path).suffix, cv2.cvtColor(img, cv2.COLOR_RGB2BGR))
    if not done:
        raise BadInput(f"{path}: cannot be encoded as {Path(path).suffix}")
    with writing(path) as part:
        data.tofile(part)


def resize_image(img: np.ndarray, new_size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize H,W[,C] to `new_size`, which is (width, height) as in OpenCV."""
    return cv2.resize(img, tuple(new_size), interpolation=interpolation)


def denormalize(images: Tensor) -> Tensor:
    """Undo the ImageNet normalisation: N,3,H,W -> the same images in [0, 1]."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.detach().float() * std + mean).clamp(0, 1)


def image_grid(images: Tensor, per_row: int = 10) -> Tensor:
    """Normalised N,3,H,W -> one 3,H',W' mosaic in [0, 1] on the CPU, `per_row` images side by side."""
    return make_grid(denormalize(images).cpu(), nrow=per_row)


# ---------------------------------------------------------------------- choosing items, averages, seeds


def spaced(length: int, count: int) -> list[int]:
    """Up to `count` evenly spaced indices of range(length): of a list sorted by class, some of each class."""
    return torch.linspace(0, length - 1, min(count, length)).long().tolist()


def spread(labels: Tensor, count: int) -> Tensor:
    """Indices of up to `count` items, covering as many labels as possible: the first item of each label comes first."""
    nth = [(labels[:i] == label).sum().item() for i, label in enumerate(labels)]
    return torch.tensor(sorted(range(len(labels)), key=lambda i: (nth[i], i))[:count], device=labels.device)


class AverageMeter:
    """Running mean: latest value `val`, `sum`, `count`, `avg`. Values may be tensors, which are not synchronised."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.val = self.sum = self.count = self.avg = 0

    def update(self, val, n: int = 1) -> None:
        """Add the mean `val` of `n` items."""
        self.val = val
        self.sum = self.sum + val * n
        self.count += n
        self.avg = self.sum / max(self.count, 1)


def seed_everything(*key: int) -> None:
    """Seed the generators of Python, NumPy and torch from `key`, for instance (seed, epoch)."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict:
    """States of the generators of Python, NumPy, torch and `device`, as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {"python": [version, torch.tensor(words), gauss],
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest], "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None}


def set_random_state(state: dict, device: torch.device) -> None:
    """Return to what `random_state` gave; its seed is kept where there was no GPU."""
    random.setstate(python_state(state["python"]))
    np.random.set_state(numpy_state(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def python_state(saved: list) -> tuple:
    """What random.setstate takes, of what `random_state` gave."""
    version, words, gauss = saved
    return version, tuple(words.tolist()), gauss


def numpy_state(saved: list) -> tuple:
    """What np.random.set_state takes, of what `random_state` gave."""
    name, keys, *rest = saved
    return name, keys.numpy().astype(np.uint32), *rest


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the CPU generators from `key` inside the block; restore their states afterwards."""
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
    """Atomic write: yields a temporary path, moved to `path` if the block succeeds and removed if it does not."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_stale_parts(folder: Path) -> None:
    """Remove the temporary files that killed processes left under `folder`; call it before writing there."""
    for part in folder.rglob(".*.part"):
        writer = part.name.split(".")[-2]
        if part.is_file() and writer.isdecimal() and _has_ended(int(writer), part):
            part.unlink(missing_ok=True)


def _has_ended(process: int, part: Path) -> bool:
    age = time.time() - part.stat().st_mtime
    if os.name == "nt" or age < 3:  # os.kill would end it there; another machine may be writing just now
        return age > 60
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return process == os.getpid()  # containers give each run the same number
