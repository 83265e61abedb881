"""What the companion sheets' labs train with: batches of tensors in memory, and one loop around main.py's own."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from engine import WarmupCosine, evaluate, train_one_epoch
from hardware import Hardware
from metrics import summarize
from progress import Progress, describe
from utils import BadInput, seed_everything, writing


class Batches:
    """(images, labels) from tensors N,...: in order, or shuffled in each epoch, an incomplete last batch dropped."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int, shuffle: bool = False):
        self.images, self.labels, self.batch, self.shuffle = images, labels, batch, shuffle

    def __len__(self) -> int:
        return len(self.labels) // self.batch if self.shuffle else -(-len(self.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels)) if self.shuffle else torch.arange(len(self.labels))
        for chosen in order.split(self.batch)[: len(self)]:
            yield self.images[chosen], self.labels[chosen]


def fit(name: str, model: nn.Module, train, val, machine: Hardware, epochs: int, optimizer: torch.optim.Optimizer,
        seed: int = 0, warmup: float | None = None, keep: Path | None = None) -> list[dict]:
    """Train for `epochs`, validating after each; a row for each epoch, as figures.curves draws them.

    The learning rate is constant, or with `warmup` epochs of warm-up the engine's cosine. `keep` is the file for a
    checkpoint, written after each epoch. Afterwards the model is in evaluation mode. Raises BadInput if the training
    images make no whole batch.
    """
    if not len(train):
        raise BadInput(f"{name}: there are fewer training images than --train-batch; take a smaller one")
    schedule = (lambda step: 1.0) if warmup is None else WarmupCosine(epochs, warmup, len(train))
    scheduler, loss_fn, history = LambdaLR(optimizer, schedule), nn.CrossEntropyLoss(), []
    for epoch in range(epochs):
        seed_everything(seed, epoch)
        if hasattr(train, "sampler"):
            train.sampler.epoch = epoch  # another order, and other random views, in each epoch
        began = time.perf_counter()
        progress = Progress(f"{name} {epoch + 1}/{epochs}", train, print_freq=10**9, show=False)
        trained = train_one_epoch(model, loss_fn, optimizer, scheduler, progress, machine, machine.scaler())
        seconds = time.perf_counter() - began
        summary = judge(model, val, machine)
        validated = {key: summary[key] for key in ("loss", "top1", "top5")}
        history.append({"epoch": epoch + 1, "rate": optimizer.param_groups[0]["lr"], "train": trained,
                        "val": validated, "seconds": seconds})
        print(f"{name} epoch {epoch + 1}/{epochs}  train {describe(trained)} | val {describe(validated)} | "
              f"{seconds:.1f} s", flush=True)
        if keep is not None:
            write_checkpoint(keep, name, model, history, epochs)
    return history


def write_checkpoint(keep: Path, name: str, model: nn.Module, history: list[dict], epochs: int) -> None:
    """In main.py's format, as far as labs.common.open_one reads it."""
    keep.parent.mkdir(parents=True, exist_ok=True)
    with writing(keep) as part:
        torch.save({"epoch": len(history), "model_arch": name, "state_dict": model.state_dict(),
                    "best_acc1": max(row["val"]["top1"] for row in history), "settings": {"epochs": epochs}}, part)


def panels(history: list[dict]) -> dict[str, dict[str, tuple]]:
    """Loss and accuracy of a history, for figures.over_epochs."""
    epochs = [row["epoch"] for row in history]
    return {label: {name: (epochs, [row[split][key] for row in history]) for split, name in
                    (("train", "training"), ("val", "validation"))}
            for key, label in (("loss", "cross-entropy loss"), ("top1", "accuracy (%)"))}


def judge(model: nn.Module, val, machine: Hardware) -> dict:
    """A metrics.summarize of the validation images, in fp32."""
    exact = Hardware(machine.device, "off", machine.memory_format)
    logits, labels = evaluate(model, Progress("val", val, show=False), exact)
    return summarize(logits["image"], labels)
