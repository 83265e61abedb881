"""Training in the labs of the companion assignments: `engine.fit` with run folder, checkpoints and resume."""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from libs import checkpoint
from libs.engine import Training, evaluate, fit
from libs.hardware import Hardware
from libs.loaders import EpochSampler
from libs.metrics import summarize
from libs.progress import Progress
from libs.resume import restore_optimizer
from libs.run_folder import RunFolder
from libs.training_state import TrainingState, WarmupCosine
from utils import BadInput

SAVED_SETTINGS = ("epochs", "lr", "train_batch", "seed")


class TensorBatches:
    """Loader of images and labels in memory; `shuffle` also drops an incomplete last batch."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int, shuffle: bool = False, seed: int = 0):
        self.images, self.labels, self.batch_size, self.shuffle = images, labels, batch, shuffle
        self.sampler = EpochSampler(len(labels), seed, shuffle)

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size if self.shuffle else -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.from_numpy(self.sampler.indices()).split(self.batch_size)[: len(self)]:
            yield self.images[rows], self.labels[rows]


def add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", metavar="PATH", help="continue the interrupted training of this checkpoint; the "
                        "lab's other networks are trained from scratch")


def train_network(args: argparse.Namespace, name: str, model: nn.Module, train, val, hardware: Hardware,
                  optimizer: torch.optim.Optimizer, epochs: int, warmup: float | None = None) -> tuple[list[dict], str]:
    """Train with `engine.fit` in a new run folder of --logs. Returns a row for each epoch, and the last checkpoint.

    Constant learning rate or, with `warmup` epochs, warm-up and cosine decay. Raises BadInput.
    """
    if not len(train):
        raise BadInput(f"{name}: there are fewer training images than --train-batch; take a smaller one")
    schedule = constant if warmup is None else WarmupCosine(epochs, warmup, len(train))
    state = TrainingState(optimizer, schedule, hardware.scaler())
    if getattr(args, "resume", None):
        _resume(args, name, model, state, epochs)
    folder = RunFolder(args.logs)
    print(f"{name}: run folder {folder.path}", flush=True)

    def save(is_best: bool) -> None:
        settings = {**{key: getattr(args, key) for key in SAVED_SETTINGS}, "epochs": epochs}
        checkpoint.save(folder.models, state.to_checkpoint(name, model, settings), is_best)

    try:
        fit(Training(model, {"train": train, "val": val}, state, hardware, folder, save, name=f"{name} ",
                     seed=args.seed, print_freq=100), epochs)
    finally:
        folder.close()
    return state.history, str(folder.models / checkpoint.LAST)


def constant(_: int) -> float:
    return 1.0


def _resume(args: argparse.Namespace, name: str, model: nn.Module, state: TrainingState, epochs: int) -> None:
    saved = checkpoint.load(args.resume)
    if saved["model_arch"] != name:
        return
    if saved["epoch"] >= epochs:
        raise BadInput(f"{args.resume}: {name} has finished {saved['epoch']} epochs, and --epochs is {epochs}")
    checkpoint.load_weights(model, saved["state_dict"], args.resume)
    restore_optimizer(state.optimizer, saved["optimizer"], f"{args.resume}: its optimizer state", name)
    state.epoch, state.best_acc1, state.history = saved["epoch"], saved["best_acc1"], saved["history"]


def panels(history: list[dict]) -> dict[str, dict[str, tuple]]:
    """Loss and accuracy by epoch, for plots.over_epochs."""
    epochs = [row["epoch"] for row in history]
    return {label: {name: (epochs, [row[split][key] for row in history]) for split, name in
                    (("train", "training"), ("val", "validation"))}
            for key, label in (("loss", "cross-entropy loss"), ("top1", "accuracy (%)"))}


def validate(model: nn.Module, val, hardware: Hardware) -> dict:
    """`metrics.summarize` on the validation loader `val`."""
    logits, labels = evaluate(model, Progress("val", val, show=False), hardware)
    return summarize(logits["image"], labels)
