"""Continue a run: restore schedule, optimizer and position from a checkpoint; the stock scaffold's hold only parts."""

import copy

import torch
from torch import Tensor, nn

from libs.checkpoint import load_weights
from libs.training_state import TrainingState
from utils import BadInput

FINISHED = "To train these weights further, start a new schedule: --start-epoch 0 --epochs N --lr LR"
MOMENTUM, ADAM = {"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}  # what an optimizer keeps for a parameter
SAME_ORDER = "batch_size", "seed"  # settings that decide which images an epoch's batches have


def resume(state: TrainingState, saved: dict, args) -> None:
    """Restore `state` from the checkpoint `saved` of --resume; `args` are the resolved flags, which win over it.

    Raises BadInput if the optimizer state does not match, or if no epochs are left to train.
    """
    state.epoch, state.best_acc1, state.history = saved["epoch"], saved["best_acc1"], saved.get("history", [])
    if position_fits(saved, args):
        state.position = saved["position"]
        if state.batches > state.schedule.steps_per_epoch:
            raise BadInput(f"{args.resume}: its epoch has {state.batches} batches behind it, and the data only has "
                           f"{state.schedule.steps_per_epoch}. {FINISHED}")
    if "optimizer" in saved:
        restore_optimizer(state.optimizer, saved["optimizer"], f"{args.resume}: its optimizer state", args.model)
    if saved.get("scaler") and state.scaler.is_enabled():
        state.scaler.load_state_dict({**state.scaler.state_dict(), **saved["scaler"]})
    _restore_schedule(state, saved, args)


def position_fits(saved: dict, args) -> bool:
    """Whether an epoch can be continued where it was left; with other batches it has to begin again."""
    settings = saved.get("settings", {})
    return saved.get("position") is not None and all(settings.get(name) == getattr(args, name) for name in SAME_ORDER)


def _restore_schedule(state: TrainingState, saved: dict, args) -> None:
    schedules = (saved.get("scheduler") or {}).get("lr_lambdas") or [None]  # the stock scaffold saves no usable state
    vars(state.schedule).update({**(schedules[0] or {}), "steps_per_epoch": state.schedule.steps_per_epoch})
    if state.epoch >= args.epochs:
        raise BadInput(f"{args.resume}: this run has finished {state.epoch} epochs, and --epochs is {args.epochs}. "
                       f"{FINISHED}")
    if state.epoch >= state.schedule.epochs:
        raise BadInput(f"{args.resume}: this run has finished its {state.epoch} epochs, and its learning rate is zero. "
                       f"{FINISHED}")
    if state.schedule.start >= state.schedule.epochs:
        raise BadInput(f"{args.resume}: is not a checkpoint of this scaffold: its schedule starts to fall at epoch "
                       f"{state.schedule.start:g} of {state.schedule.epochs}")
    if state.schedule.epochs != args.epochs:
        state.schedule.retarget(state.epoch + state.batches / state.schedule.steps_per_epoch, args.epochs)


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict, what: str, model: str) -> None:
    """Load momenta and counts; the settings stay those of `optimizer`. Raises BadInput, which begins with `what`.

    Every tensor is copied into one of its parameter's shape and memory layout. A fused step reads both as plain memory:
    with another shape it would read beyond its end, and end the process.
    """
    groups = optimizer.param_groups
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in saved["param_groups"]]:
        raise _mismatch(what, model, "other groups of parameters")
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    owners = [(group, parameter) for group in groups for parameter in group["params"]]
    started = any(entries.get("momentum_buffer") is not None for entries in saved["state"].values())
    for number, (group, parameter) in zip(numbers, owners):
        entries = {name: value for name, value in saved["state"].get(number, {}).items() if value is not None}
        if not entries and started and _names(group) == MOMENTUM:  # a fused step takes the momenta of all, or of none
            entries = {"momentum_buffer": torch.zeros_like(parameter)}
        if entries and entries.keys() != _names(group):
            raise _mismatch(what, model, f"it has {', '.join(sorted(entries))}, and {type(optimizer).__name__} keeps "
                            f"{', '.join(sorted(_names(group)))}")
        for name, value in entries.items():
            entries[name] = _fitted(name, value, parameter, group, lambda why: _mismatch(what, model, why))
        optimizer.state[parameter] = entries


def _names(group: dict) -> set[str]:
    """What the optimizer keeps for each parameter: momentum, or Adam's averages. Muon's groups are of both kinds."""
    return MOMENTUM if group.get("muon", "betas" not in group) else ADAM


def _fitted(name: str, value, parameter: nn.Parameter, group: dict, mismatch) -> Tensor | int:
    if name == "step":
        if isinstance(value, Tensor) and value.numel() != 1:
            raise mismatch(f"a step of shape {tuple(value.shape)}")
        return int(value) if "muon" in group else torch.tensor(float(value), device=_step_device(parameter, group))
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        shape = tuple(value.shape) if isinstance(value, Tensor) else "a number"
        raise mismatch(f"{name} is {shape} for a parameter of {tuple(parameter.shape)}")
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def _step_device(parameter: nn.Parameter, group: dict) -> torch.device:
    return parameter.device if group.get("fused") or group.get("capturable") else torch.device("cpu")


def _mismatch(what: str, model: str, why: str) -> BadInput:
    return BadInput(f"{what} does not match {model} ({why}). To train these weights, start a new schedule: "
                    "--start-epoch 0")


def restore_adversary(adversary, guard: dict, saved: dict, model: nn.Module, state: TrainingState, path: str) -> None:
    """Restore the guard of adversarial training, with the snapshot that it would return to.

    Files from before checkpoints inside an epoch have none: what they hold is the snapshot.
    """
    snapshot = guard.get("snapshot", saved)
    if snapshot is None or "optimizer" not in snapshot:
        adversary.load_state_dict(guard, None)
        return
    present = copy.deepcopy({"state_dict": model.state_dict(), "optimizer": state.optimizer.state_dict()})
    for content in (snapshot, present):
        load_weights(model, content["state_dict"], path)
        restore_optimizer(state.optimizer, content["optimizer"], f"{path}: its optimizer state", type(model).__name__)
        if content is snapshot:
            adversary.load_state_dict(guard, state.optimizer)
