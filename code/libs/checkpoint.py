"""Save checkpoints atomically; load them with weights_only=True, including those of older scaffolds; resume."""

import os
import shutil
from pathlib import Path

import torch
from torch import nn

from utils import BadInput, writing

LAST, BEST = "checkpoint.pth.tar", "model_best.pth.tar"


def save(folder: str | os.PathLike, state: dict, is_best: bool) -> None:
    """Write `state` to FOLDER/checkpoint.pth.tar and, if it is the best so far, to model_best.pth.tar."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with writing(Path(folder) / LAST) as part:
        torch.save(state, part)
    if is_best:
        copy(Path(folder) / LAST, Path(folder) / BEST)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as part:
        shutil.copyfile(source, part)


def load(path: str | os.PathLike) -> dict:
    """Load a checkpoint to the CPU: `state_dict`, and `epoch`, `model_arch`, `best_acc1` with defaults.

    Accepts the stock scaffold's files of any year: without scheduler or optimizer, saved on a GPU, with DataParallel's
    `module.` prefix. Raises BadInput for any other content; never unpickles objects.
    """
    state = read(path, f"If it was truncated, take the other one of {LAST} and {BEST} in that folder")
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), dict):
        raise BadInput(f"{path}: is not a checkpoint of this scaffold (no 'state_dict'); plain pretrained weights "
                       "go with --weights")
    weights = {name.removeprefix("module."): tensor for name, tensor in state["state_dict"].items()}
    return {"epoch": 0, "model_arch": "", **state, "state_dict": weights,
            "best_acc1": float(state.get("best_acc1", 0.0))}


def read(path: str | os.PathLike, advice: str):
    """torch.load to the CPU with weights_only=True. Raises BadInput, which ends with `advice`."""
    try:
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


# -------------------------------------------------------------------------------------------- resume

FINISHED = "To train these weights further, start a new schedule: --start-epoch 0 --epochs N --lr LR"


def resume(state, saved: dict, args) -> None:
    """Restore `state` (engine.TrainingState) from the checkpoint `saved` of --resume; `args` are the resolved flags.

    The stock scaffold's files hold only parts of it. Flags win over the checkpoint. Raises BadInput if the optimizer
    state does not match, or if no epochs are left to train.
    """
    state.epoch, state.best_acc1, state.history = saved["epoch"], saved["best_acc1"], saved.get("history", [])
    if "optimizer" in saved:
        _restore_optimizer(state.optimizer, saved["optimizer"], args)
    state.scaler.load_state_dict(saved.get("scaler") or state.scaler.state_dict())
    schedules = (saved.get("scheduler") or {}).get("lr_lambdas") or [None]  # the stock scaffold saves no usable state
    vars(state.schedule).update(schedules[0] or {}, steps_per_epoch=state.schedule.steps_per_epoch)
    if state.epoch >= args.epochs:
        raise BadInput(f"{args.resume}: this run has finished {state.epoch} epochs, and --epochs is {args.epochs}. "
                       f"{FINISHED}")
    if state.epoch >= state.schedule.epochs:
        raise BadInput(f"{args.resume}: this run has finished its {state.epoch} epochs, and its learning rate is zero. "
                       f"{FINISHED}")
    if state.schedule.epochs != args.epochs:
        state.schedule.retarget(state.epoch, args.epochs)


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict, args) -> None:
    fused = [group.get("fused") for group in optimizer.param_groups]  # depends on the device, not on the run
    try:
        optimizer.load_state_dict(saved)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{args.resume}: its optimizer state does not match {args.model} ({error}). To train these "
                       "weights, start a new schedule: --start-epoch 0") from None
    for group, is_fused in zip(optimizer.param_groups, fused):
        if args.recipe == "sheet":  # Muon's groups have values of their own
            group.update({name: getattr(args, name) for name in ("momentum", "weight_decay") if name in group})
        if is_fused is not None:
            group["fused"] = is_fused
