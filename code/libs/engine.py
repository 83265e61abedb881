"""The trainer: `train_one_epoch`, `evaluate`, and `fit` around them.

It is given the model, the data loaders and the function that saves; it knows none of them by name.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from libs.hardware import Hardware
from libs.metrics import summarize, top_k
from libs.progress import Progress, clock, describe
from libs.training_state import TrainingState, position_of
from utils import BadInput


class Diverged(BadInput):
    """Loss, weights or outputs are not finite numbers any more."""


class Stopped(Exception):
    """Training ended early, as a signal (its number is the argument) asked; everything is saved."""


# ---------------------------------------------------------------------------------------------- loops


def train_one_epoch(model: nn.Module, loss_fn: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LRScheduler,
                    progress: Progress, hardware: Hardware, scaler: torch.amp.GradScaler,
                    clip_grad: float | None = None, on_report: Callable[..., None] | None = None,
                    perturb: Callable[[Tensor, Tensor], Tensor] | None = None,
                    after_step: Callable[[], None] | None = None) -> dict[str, float]:
    """Train once over the batches (images, labels) of `progress`. Returns the mean loss, top1 and top5 (percent).

    `clip_grad` is the maximum gradient norm. `on_report(batch, loss, rate)` is called every `print_freq` batches.
    `perturb(images, labels) -> images`, for adversarial training, runs under the training autocast. `after_step()` is
    called when a step is finished. Raises Diverged if the loss is not finite.
    """
    model.train()
    for images, labels in progress:
        images, labels = hardware.images(images), hardware.labels(labels)
        with hardware.autocast("training"):
            if perturb is not None:
                images = perturb(images, labels)
            logits = model(images)
            loss = loss_fn(logits, labels)
        rate = optimizer.param_groups[0]["lr"]

        # After the forward pass: an attack inside it may have left gradients on the parameters.
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        if clip_grad is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()

        logits, loss = logits.detach(), loss.detach()
        if progress.update(len(images), loss=loss, top1=top_k(logits, labels, 1), top5=top_k(logits, labels, 5)):
            if not math.isfinite(loss.item()):
                raise Diverged(f"{progress.title}: the loss is {loss.item()} after {progress.batches} batches: the "
                               f"training has diverged. Take a smaller --lr or a longer --warmup (this step's rate "
                               f"was {rate:.3g})")
            if on_report is not None:
                on_report(progress.batches, loss.item(), rate)
        if after_step is not None:
            after_step()
    return hardware.average(progress.averages())


View = Callable[[Tensor], Tensor]


def identity(images: Tensor) -> Tensor:
    return images


def horizontal_flip(images: Tensor) -> Tensor:
    return images.flip(-1)


@torch.no_grad()
def evaluate(model: nn.Module, progress: Progress, hardware: Hardware, views: dict[str, View] | None = None,
             on_batch: Callable[..., None] | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """Compute the logits of one or several views of each image, in evaluation mode and report precision.

    Returns ({view: logits N,C}, labels N) on the CPU. A view maps a batch of images to another one (horizontal flip,
    an attack); the default is the image itself. `on_batch(batch, {view: images}, {view: logits}, labels)` is called
    for each batch. Raises Diverged if an output is not finite.
    """
    views = views or {"image": identity}
    logits: dict[str, list[Tensor]] = {name: [] for name in views}
    truth: list[Tensor] = []
    model.eval()
    for batch, (images, labels) in enumerate(progress):
        images, labels = hardware.images(images), hardware.labels(labels)
        with torch.enable_grad(), hardware.autocast("report"):  # a student's attack expects gradients to be enabled
            seen = {name: view(images).detach() for name, view in views.items()}
        with hardware.autocast("report"):
            out = {name: model(seen[name]).float() for name in views}
        for name in views:
            logits[name].append(out[name])
        truth.append(labels)
        progress.update(len(images), **{f"{name} top1": top_k(out[name], labels, 1) for name in views})
        if on_batch is not None:
            on_batch(batch, seen, out, labels)
    rows = {name: torch.cat(parts) for name, parts in logits.items()}
    gathered = hardware.gather({**rows, "labels": torch.cat(truth)})
    truth = gathered.pop("labels")
    for name, values in gathered.items():
        if not values.isfinite().all():
            raise Diverged(f"{progress.title}: the model's outputs ({name}) are not all finite numbers: its training "
                           "has diverged. Take a smaller --lr or a longer --warmup")
    return gathered, truth


# ------------------------------------------------------------------------------------------------ fit

GO_ON, SAVE = 0, 1  # answers of Training.request; any other is the number of a signal, to save and stop


@dataclass(frozen=True)
class Training:
    """What `fit` works with. `loaders` has "train" and "val"; `folder` logs scalars (run_folder.RunFolder)."""

    model: nn.Module
    loaders: Mapping
    state: TrainingState
    hardware: Hardware
    folder: object
    save: Callable[[bool], None]  # write a checkpoint; the argument: is it the best so far?
    name: str = ""  # in progress lines
    seed: int = 0
    clip_grad: float | None = None
    print_freq: int = 10
    adversary: object = None  # adversarial_training.AdversarialTraining
    before_epoch: Callable[[int], None] | None = None  # such as recipe's progressive resizing
    # Asked after each step, with whether it is the epoch's last: GO_ON, SAVE, or the number of a signal.
    request: Callable[[bool], int] | None = None

    def say(self, text: str) -> None:
        if self.hardware.is_main:
            print(text, flush=True)

    def progress(self, title: str, split: str) -> Progress:
        return Progress(title, self.loaders[split], self.print_freq, show=self.hardware.is_main)


def fit(training: Training, epochs: int) -> dict:
    """Train until `epochs` are finished; after each, validate, log and save. Returns the last `metrics.summarize`."""
    t, state, model = training, training.state, training.model
    if t.hardware.world > 1:
        model = DistributedDataParallel(model, [t.hardware.device] if t.hardware.device.type == "cuda" else None)
    state.start(len(t.loaders["train"]))
    summary: dict = {}
    while state.epoch < epochs:
        title = f"{t.name}epoch {state.epoch + 1}/{epochs}"
        trained, progress = _train(t, model, title)
        began = time.perf_counter()
        summary = _validate(t, title)
        seconds = progress.elapsed + time.perf_counter() - began  # those before an interruption included
        is_best = summary["top1"] > state.best_acc1
        state.epoch, state.best_acc1 = state.epoch + 1, max(state.best_acc1, summary["top1"])
        validated = {name: summary[name] for name in ("loss", "top1", "top5")}
        t.say(f"{title} val    {describe(validated)} | best top1 {state.best_acc1:.2f}, "
              f"{clock(seconds * (epochs - state.epoch))} left")
        state.history.append({
            "epoch": state.epoch, "rate": state.optimizer.param_groups[0]["lr"], "train": trained, "val": validated,
            "seconds": seconds, "data_wait": progress.data_wait,
            "images_per_second": progress.images_per_second * t.hardware.world})
        _log_epoch(t.folder, state.history[-1])
        t.save(is_best)
        if t.request is not None and (request := t.request(False)) > SAVE and state.epoch < epochs:
            raise Stopped(request)
    return summary


def _train(t: Training, model: nn.Module, title: str) -> tuple[dict, Progress]:
    """The rest of an epoch of training. Its randomness depends on (seed, epoch) only, so a resumed run repeats it."""
    state, loader = t.state, t.loaders["train"]
    progress = t.progress(f"{title} train", "train")
    state.enter(progress, t.seed, t.hardware)
    if t.before_epoch is not None:
        t.before_epoch(state.epoch)
    loader.sampler.set_epoch(state.epoch, skip=state.batches * loader.batch_size)
    state.position = None

    def log(batch: int, loss: float, rate: float) -> None:
        t.folder.scalars(state.epoch * len(loader) + batch, {"training_loss": loss, "learning_rate": rate})

    def after_step() -> None:
        request = t.request(progress.batches == len(loader)) if t.request is not None else GO_ON
        if request != GO_ON:
            _save_inside(t, progress)
        if request > SAVE:
            raise Stopped(request)

    def perturb(images: Tensor, labels: Tensor) -> Tensor:
        t.hardware.broadcast_buffers(t.model)  # DistributedDataParallel does so only before its own forward pass
        return t.adversary(images, labels)

    trained = train_one_epoch(model, nn.CrossEntropyLoss(), state.optimizer, state.scheduler, progress, t.hardware,
                              state.scaler, t.clip_grad, log, perturb if t.adversary is not None else None, after_step)
    t.say(f"{title} train  {describe(trained)} | {progress.speed()}, {clock(progress.elapsed)}")
    return trained, progress


def _save_inside(t: Training, progress: Progress) -> None:
    """Save inside an epoch. Raises Diverged instead of replacing a good checkpoint by one that is not."""
    if not all(value.isfinite().all() for value in t.model.state_dict().values()):
        raise Diverged(f"{progress.title}: the weights are not all finite after {progress.batches} batches: the "
                       "training has diverged. Take a smaller --lr or a longer --warmup")
    t.state.position = position_of(progress, t.hardware)
    t.save(False)
    t.state.position = None


def _validate(t: Training, title: str) -> dict:
    t.hardware.broadcast_buffers(t.model)
    if t.adversary is not None:
        with t.hardware.autocast("training"):
            robust = t.hardware.broadcast(t.adversary.robust_probes())
        if warning := t.adversary.after_epoch(robust, t.state.optimizer):
            t.say(f"{title} {warning}")
    logits, labels = evaluate(t.model, t.progress(f"{title} val", "val"), t.hardware)
    return summarize(logits["image"], labels)


def _log_epoch(folder, row: dict) -> None:
    folder.scalars(row["epoch"], {
        **{f"{k}_accuracy/{split}": row[split][k] for k in ("top1", "top5") for split in ("train", "val")},
        "validation_loss": row["val"]["loss"], "epoch_time": row["seconds"], "data_wait": row["data_wait"],
        "images_per_second": row["images_per_second"]})
    folder.flush()
