"""The trainer: learning-rate schedule, `train_one_epoch`, `evaluate`, and `fit` around them.

It is given the model, the data loaders and the function that saves; it knows none of them by name.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from libs.hardware import Hardware
from libs.metrics import summarize, top_k
from libs.progress import Progress, clock, describe
from utils import BadInput, seed_everything

# ------------------------------------------------------------------------------------------- schedule


class WarmupCosine:
    """Learning-rate factor of each iteration: linear warm-up, then half a cosine to zero.

    Equations (4) and (5) of the 2019 report (docs/references.md). Counted in epochs, so it is independent of the batch
    size. The first iteration has 1 / (number of warm-up iterations), never 0; warm-up is at most half of the run.
    """

    def __init__(self, epochs: int, warmup: float, steps_per_epoch: int):
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.warmup = self.start = min(warmup, epochs / 2)
        self.peak = 1.0

    def __call__(self, step: int) -> float:
        epoch = step / self.steps_per_epoch
        if epoch < self.warmup:
            return min(1.0, (step + 1) / (self.warmup * self.steps_per_epoch))
        if epoch >= self.epochs:
            return 0.0
        return self.peak * 0.5 * (1 + math.cos(math.pi * (epoch - self.start) / (self.epochs - self.start)))

    def retarget(self, epoch: int, epochs: int) -> None:
        """Change the length of a run at `epoch`: the rate falls from its value there to zero at `epochs`.

        During warm-up the warm-up is finished first, at half of the new length at the latest.
        """
        if epoch < min(self.warmup, epochs / 2):
            self.warmup = self.start = min(self.warmup, epochs / 2)
        else:
            self.peak = self(epoch * self.steps_per_epoch)
            self.start, self.warmup = epoch, min(self.warmup, epoch)
        self.epochs = epochs


# ---------------------------------------------------------------------------------------------- loops


def train_one_epoch(model: nn.Module, loss_fn: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LRScheduler,
                    progress: Progress, hardware: Hardware, scaler: torch.amp.GradScaler,
                    clip_grad: float | None = None, on_report: Callable[..., None] | None = None,
                    perturb: Callable[[Tensor, Tensor], Tensor] | None = None) -> dict[str, float]:
    """Train once over the batches (images, labels) of `progress`. Returns the mean loss, top1 and top5 (percent).

    `clip_grad` is the maximum gradient norm. `on_report(batch, loss, rate)` is called every `print_freq` batches.
    `perturb(images, labels) -> images`, for adversarial training, runs under the training autocast.
    Raises BadInput if the loss is not finite.
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
                raise BadInput(f"{progress.title}: the loss is {loss.item()} after {progress.batches} batches: the "
                               "training has diverged. Take a smaller --lr or a longer --warmup")
            if on_report is not None:
                on_report(progress.batches, loss.item(), rate)
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
    for each batch. Raises BadInput if an output is not finite.
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
            raise BadInput(f"{progress.title}: the model's outputs ({name}) are not all finite numbers: its training "
                           "has diverged. Take a smaller --lr or a longer --warmup")
    return gathered, truth


# ------------------------------------------------------------------------------------------------ fit


@dataclass
class TrainingState:
    """What training changes besides the weights; a checkpoint holds both."""

    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]  # iteration -> factor of the learning rate
    scaler: torch.amp.GradScaler
    epoch: int = 0  # epochs finished
    best_acc1: float = -1.0  # so that the first epoch is the best so far, even at 0 %
    history: list[dict] = field(default_factory=list)  # a row for each epoch
    scheduler: LambdaLR | None = None

    def start(self, steps_per_epoch: int) -> None:
        """Make the scheduler, at the current epoch. Groups without an `initial_lr` start from their `lr`."""
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.scheduler = LambdaLR(self.optimizer, self.schedule, last_epoch=self.epoch * steps_per_epoch - 1)

    def to_checkpoint(self, model_arch: str, model: nn.Module, settings: dict) -> dict:
        """The content of a checkpoint file."""
        return {"epoch": self.epoch, "model_arch": model_arch, "state_dict": model.state_dict(),
                "best_acc1": self.best_acc1, "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(), "scaler": self.scaler.state_dict(), "history": self.history,
                "settings": settings}


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
        began, title = time.perf_counter(), f"{t.name}epoch {state.epoch + 1}/{epochs}"
        trained, progress = _train(t, model, title)
        summary = _validate(t, title)
        seconds = time.perf_counter() - began
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
    return summary


def _train(t: Training, model: nn.Module, title: str) -> tuple[dict, Progress]:
    """One epoch of training. Its randomness depends on (seed, epoch) only, so a resumed run repeats it exactly."""
    epoch, loader = t.state.epoch, t.loaders["train"]
    seed_everything(t.seed, epoch, t.hardware.rank)
    if t.before_epoch is not None:
        t.before_epoch(epoch)
    loader.sampler.set_epoch(epoch)

    def log(batch: int, loss: float, rate: float) -> None:
        t.folder.scalars(epoch * len(loader) + batch, {"training_loss": loss, "learning_rate": rate})

    progress = t.progress(f"{title} train", "train")
    trained = train_one_epoch(model, nn.CrossEntropyLoss(), t.state.optimizer, t.state.scheduler, progress, t.hardware,
                              t.state.scaler, t.clip_grad, log, t.adversary)
    t.say(f"{title} train  {describe(trained)} | {progress.speed()}, {clock(progress.elapsed)}")
    return trained, progress


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
