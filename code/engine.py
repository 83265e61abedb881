"""The two loops, and the learning rate that goes with them. Knows no model, no data set and no checkpoint."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from hardware import Hardware
from metrics import top_k
from progress import Progress
from utils import BadInput


class WarmupCosine:
    """The learning rate, as a factor of --lr, for each step: linear warm-up, then a half cosine to zero.

    Document 000, equations (4) and (5). Counted in epochs, so that it survives a change of the batch size.
    The first step has 1 / (number of warm-up steps), never 0; the warm-up is at most half of the run.
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
        """From `epoch` on, fall from the rate there to zero at `epochs`: a changed length never lets the rate climb.

        Still in warm-up, that ends as it would have, but at half of the new length at the latest.
        """
        if epoch < min(self.warmup, epochs / 2):
            self.warmup = self.start = min(self.warmup, epochs / 2)
        else:
            self.peak = self(epoch * self.steps_per_epoch)
            self.start, self.warmup = epoch, min(self.warmup, epoch)
        self.epochs = epochs


def train_one_epoch(model: nn.Module, loss_fn: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LRScheduler,
                    progress: Progress, hardware: Hardware, scaler: torch.amp.GradScaler,
                    clip_grad: float | None = None, on_report: Callable[..., None] | None = None,
                    perturb: Callable[[Tensor, Tensor], Tensor] | None = None) -> dict[str, float]:
    """Train on each batch (images, labels) of `progress` once. Returns the mean loss, top1 and top5 in percent.

    `clip_grad` bounds the gradient's norm. `on_report(batch, loss, rate)` is called every `print_freq` batches.
    `perturb(images, labels)`, if given, makes the images to learn from: adversarial training.
    Raises BadInput if the loss is no longer a number.
    """
    model.train()
    for images, labels in progress:
        images, labels = hardware.images(images), hardware.labels(labels)
        with hardware.autocast():
            if perturb is not None:
                images = perturb(images, labels)
            logits = model(images)
            loss = loss_fn(logits, labels)
        rate = optimizer.param_groups[0]["lr"]

        # Only now: an attack inside the model's forward pass may have left gradients on the parameters.
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


def mirrored(images: Tensor) -> Tensor:
    return images.flip(-1)


@torch.no_grad()
def evaluate(model: nn.Module, progress: Progress, hardware: Hardware, views: dict[str, View] | None = None,
             on_batch: Callable[..., None] | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """Run the model, in evaluation mode, over one or several views of each image.

    Returns ({view: logits N,C}, labels N), on the CPU.

    A view changes a batch of images: `mirrored`, an attack, ...; by default there is one, the image as it is.
    `on_batch(batch, {view: images}, {view: logits}, labels)` sees everything as it goes by.
    Raises BadInput if an output is not a finite number.
    """
    views = views or {"image": identity}
    logits: dict[str, list[Tensor]] = {name: [] for name in views}
    truth: list[Tensor] = []
    model.eval()
    for batch, (images, labels) in enumerate(progress):
        images, labels = hardware.images(images), hardware.labels(labels)
        with torch.enable_grad(), hardware.autocast():  # a student's attack expects to find gradients switched on
            seen = {name: view(images).detach() for name, view in views.items()}
        with hardware.autocast():
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
