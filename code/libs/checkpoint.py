"""Save checkpoints atomically; load them with weights_only=True, also those of older scaffolds; find the newest."""

import os
import shutil
import zipfile
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from libs.checkpoint_schema import flaw
from utils import BadInput, writing

LAST, BEST = "checkpoint.pth.tar", "model_best.pth.tar"
BEFORE = "checkpoint_before.pth.tar"  # the one before the last


# ------------------------------------------------------------------------------------------------- saving


class Unwritable(BadInput):
    """A checkpoint cannot be written: disk full or permission denied."""


def save(folder: str | os.PathLike, state: dict, is_best: bool, newer_than: float = 0.0) -> None:
    """Write `state` to FOLDER/checkpoint.pth.tar and, if it is the best so far, to model_best.pth.tar.

    Whatever happens between two operations, LAST is whole on the disk, and BEST is not older than it. `newer_than` is
    the time of a file that this one continues: a clock may have been set back. Raises Unwritable.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / LAST) as part:
            torch.save(state, part)
            _to_disk(part)
            if part.stat().st_mtime <= newer_than:
                os.utime(part, (newer_than + 1, newer_than + 1))
            if is_best:
                copy(part, folder / BEST)
            if (folder / LAST).exists():
                _link(folder / LAST, folder / BEFORE)
        _to_disk(folder)
    except OSError as error:
        raise Unwritable(f"{folder / LAST}: cannot be written ({error.strerror or error})") from error
    except RuntimeError as error:  # from torch, without a word of the disk
        raise Unwritable(f"{folder / LAST}: cannot be written (the disk is full, or cannot be reached)") from error


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as part:
        shutil.copyfile(source, part)
        _to_disk(part)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, which is never changed in place; a copy where the file system has no such names."""
    with writing(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: a power cut may come at any time."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------------------ loading


def load(path: str | os.PathLike) -> dict:
    """Load a checkpoint to the CPU: `state_dict`, and `epoch`, `model_arch`, `best_acc1` with defaults.

    Accepts the stock scaffold's files of any year: without scheduler or optimizer, saved on a GPU, with DataParallel's
    `module.` prefix. Raises BadInput for any other content; never unpickles objects.
    """
    state = read(path, _other_one(Path(path)))
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise BadInput(f"{path}: is not a checkpoint of this scaffold (no 'state_dict'); plain pretrained weights "
                       "go with --weights")
    if problem := flaw(state):
        raise BadInput(f"{path}: is not a checkpoint of this scaffold: {problem}")
    weights = {name.removeprefix("module."): tensor for name, tensor in state["state_dict"].items()}
    return {"epoch": 0, "model_arch": "", **state, "state_dict": weights,
            "best_acc1": float(state.get("best_acc1", 0.0))}


def read(path: str | os.PathLike, advice: str):
    """torch.load to the CPU with weights_only=True. Raises BadInput, which ends with `advice`."""
    try:
        _verify(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise BadInput(f"{path}: is a folder; a run's checkpoints are models/{LAST} and models/{BEST} in it") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # foreign bytes raise a dozen exception types, all with this meaning
        raise BadInput(f"{path}: cannot be read: damaged, truncated, or not a file of tensors and plain values only "
                       f"(others are never loaded; torch raised {type(error).__name__}). {advice}") from None


def _verify(path: str | os.PathLike) -> None:
    """Compare the checksums that torch.save writes, and torch.load ignores. Raises BadZipFile if one is wrong."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
            if any(entry.external_attr & 0x10 for entry in archive.infolist()):
                raise zipfile.BadZipFile("torch would take a tensor for a folder, and return memory as it finds it")


def _other_one(path: Path) -> str:
    """Where to go on if `path` cannot be read."""
    for other in (path.with_name(name) for name in (LAST, BEFORE, BEST)):
        if other != path and good(other) is not None:
            return f"This one is whole: {other}"
    return f"If it was truncated, take the other one of {LAST} and {BEST} in that folder"


def good(path: Path) -> dict | None:
    """The content of the file, if `load` would accept it."""
    try:
        state = read(path, "")
    except BadInput:
        return None
    return state if flaw(state) is None else None


def newest(logs: Path, models: Collection[str]) -> Path | None:
    """The newest good checkpoint of one of `models` in the run folders in `logs`. Damaged ones are passed over."""
    found = [path for name in (LAST, BEFORE) for path in logs.glob(f"exp_*/models/{name}")]
    return next((path for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
                 if (state := good(path)) is not None and state.get("model_arch") in models), None)


def load_weights(model: nn.Module, weights: dict, path: str | os.PathLike) -> None:
    """Load `weights` into the model. Raises BadInput, naming the first tensors that do not match."""
    own = model.state_dict()
    wrong = [f"{name} is {_shape(weights[name])} in the file and {_shape(own[name])} in the model"
             for name in own if name in weights and weights[name].shape != own[name].shape]
    # Files from before torch 0.4.1, among them some of torchvision's, lack BatchNorm's num_batches_tracked.
    uncounted = {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in weights}
    weights = {**weights, **uncounted}
    wrong += [f"{name} is not in the file" for name in own if name not in weights]
    wrong += [f"{name} is not in the model" for name in weights if name not in own]
    if wrong:
        more = f" (and {len(wrong) - 2} more)" if len(wrong) > 2 else ""
        raise BadInput(f"{path}: does not fit {type(model).__name__}: {'; '.join(wrong[:2])}{more}. The network "
                       "(--model, --network) and the number of classes have to be those of the training")
    model.load_state_dict(weights)


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
