"""Checkpoints: written whole or not at all, read without running what is in them, of any year of the scaffold."""

import argparse
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from utils import BadInput, writing

LAST, BEST = "checkpoint.pth.tar", "model_best.pth.tar"


def save(folder: str | os.PathLike, state: dict, is_best: bool) -> None:
    """Write `state` as FOLDER/checkpoint.pth.tar, and as model_best.pth.tar too if it is the best so far."""
    with writing(Path(folder) / LAST) as part:
        torch.save(state, part)
    if is_best:
        copy(Path(folder) / LAST, Path(folder) / BEST)


def copy(source: Path, target: Path) -> None:
    with writing(target) as part:
        shutil.copyfile(source, part)


def load(path: str | os.PathLike) -> dict:
    """Read a checkpoint on the CPU. Keys: `state_dict`, and `epoch`, `model_arch`, `best_acc1` with defaults.

    Takes files of the stock scaffold from any year: without scheduler or optimizer, saved on a GPU, with the
    `module.` that DataParallel puts before names. Raises BadInput for anything else; never unpickles objects.
    """
    state = read(path, f"If its writing was cut off, take the other one of {LAST} and {BEST} in that folder")
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise BadInput(f"{path}: holds no checkpoint of this scaffold (no 'state_dict'); bare pretrained weights go "
                       "with --weights")
    weights = {name.removeprefix("module."): tensor for name, tensor in state["state_dict"].items()}
    return {"epoch": 0, "model_arch": "", **state, "state_dict": weights,
            "best_acc1": float(state.get("best_acc1", 0.0))}


def read(path: str | os.PathLike, advice: str):
    """torch.load without unpickling objects, on the CPU. Raises BadInput, with `advice`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise BadInput(f"{path}: is a folder; a run's checkpoints are models/{LAST} and models/{BEST} in it") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # foreign bytes end in a dozen kinds of errors, which all mean the same
        raise BadInput(f"{path}: cannot be read: damaged, cut off, or not a file of tensors and plain values alone "
                       f"(others are never loaded; torch says {type(error).__name__}). {advice}") from None


def load_weights(model: nn.Module, weights: dict, path: str | os.PathLike) -> None:
    """Put `weights` into the model. Raises BadInput that names the first tensors that do not fit."""
    own = model.state_dict()
    wrong = [f"{name} is {_shape(weights[name])} in the file and {_shape(own[name])} in the model"
             for name in own if name in weights and weights[name].shape != own[name].shape]
    # Files from before torch 0.4.1, some of torchvision's among them, do not count BatchNorm's batches.
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


# ------------------------------------------------------------------------------------- training's state

FINISHED = "To train these weights further, begin a new schedule: --start-epoch 0 --epochs N --lr LR"


@dataclass
class State:
    """What training changes beside the weights; with them, all that a checkpoint holds."""

    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    scaler: torch.amp.GradScaler
    scheduler: torch.optim.lr_scheduler.LambdaLR | None = None
    epoch: int = 0  # epochs done
    best_acc1: float = 0.0
    history: list[dict] = field(default_factory=list)

    def to_checkpoint(self, model_arch: str, model: nn.Module, settings: dict) -> dict:
        return {"epoch": self.epoch, "model_arch": model_arch, "state_dict": model.state_dict(),
                "best_acc1": self.best_acc1, "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(), "scaler": self.scaler.state_dict(), "history": self.history,
                "settings": settings}


def resume(state: State, args: argparse.Namespace) -> None:
    """Bring `state` back from the checkpoint `args.saved`; files of the stock scaffold have only parts of it.

    Flags in `args` win over the checkpoint. Raises BadInput if the run has no epochs left to train.
    """
    saved = args.saved
    state.epoch, state.best_acc1, state.history = saved["epoch"], saved["best_acc1"], saved.get("history", [])
    if "optimizer" in saved:
        fused = [group.get("fused") for group in state.optimizer.param_groups]  # belongs to the machine, not to the run
        try:
            state.optimizer.load_state_dict(saved["optimizer"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{args.resume}: its optimizer state does not fit {args.model} ({error}). To train these "
                           "weights, begin a new schedule: --start-epoch 0") from None
        for group, is_fused in zip(state.optimizer.param_groups, fused):
            if args.recipe == "sheet":  # Muon's groups differ in them
                group.update({name: getattr(args, name) for name in ("momentum", "weight_decay") if name in group})
            group["fused"] = is_fused
    state.scaler.load_state_dict(saved.get("scaler") or state.scaler.state_dict())
    schedules = (saved.get("scheduler") or {}).get("lr_lambdas") or [None]  # the stock scaffold's say nothing of use
    vars(state.schedule).update(schedules[0] or {}, steps_per_epoch=state.schedule.steps_per_epoch)
    if state.epoch >= args.epochs:
        raise BadInput(f"{args.resume}: this run has finished {state.epoch} epochs, and --epochs is {args.epochs}. "
                       f"{FINISHED}")
    if state.epoch >= state.schedule.epochs:
        raise BadInput(f"{args.resume}: this run has finished its {state.epoch} epochs, and its learning rate is zero. "
                       f"{FINISHED}")
    if state.schedule.epochs != args.epochs:
        state.schedule.retarget(state.epoch, args.epochs)
