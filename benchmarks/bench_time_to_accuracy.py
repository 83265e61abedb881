"""Time to a given top-1 on MiniPlaces: `main.py --recipe fast` against a plain PyTorch loop.

    python benchmarks/bench_time_to_accuracy.py RUN --data DIR [--json FILE]

RUN is the results.json of a finished training, whose learning curve gives the epochs to reach the top-1; nothing is
trained here. Images/s are measured, both sides interleaved: ours at each image size of progressive resizing and at
validation, the plain loop (stock.py, batch 64) with its own data loading. Our time is the sum over the epochs of
images / (images/s at that epoch's size), validation included. The plain loop's number of epochs is `--plain-epochs`, as
teams report for this network (docs/references.md).
"""

import argparse
import json
from pathlib import Path
from statistics import median

import measure
import stock
import torch
from torch import nn

from custom_dataloader import open_split
from libs import hardware, networks
from libs.engine import evaluate, train_one_epoch
from libs.loaders import open_loader
from libs.progress import Progress
from libs.recipe import FAST, Muon, ProgressiveResizing, pool_before_relu
from student_code import SimpleNet
from utils import seed_everything


class FirstBatches:
    """The first `batches` batches of a loader."""

    def __init__(self, loader, batches: int):
        self.loader, self.batches = loader, min(batches, len(loader))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self):
        return (batch for batch, _ in zip(self.loader, range(self.batches)))


class Plain:
    """The plain loop over `batches` batches of 64."""

    def __init__(self, data: Path, batches: int):
        dataset, names = open_split(data, "train")
        samples = [(dataset.path(i), dataset.targets[i]) for i in range(len(dataset))]
        self.loader = FirstBatches(stock.stock_loader(samples, 64, hardware.cores()), batches)
        self.model = SimpleNet(num_classes=len(names))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)

    def __call__(self) -> float:
        """Images per second."""
        return 64 * len(self.loader) / measure.seconds(
            lambda: stock.stock_epoch(self.model, self.loader, self.optimizer, "cpu"))


class Ours:
    """`main.py --recipe fast` over `batches` batches, at the image size of an epoch; and its validation."""

    def __init__(self, data: Path, batches: int, epochs: int):
        hardware.keep_memory()
        seed_everything(0)
        device, self.batches = torch.device("cpu"), batches
        train, names = open_split(data, "train", networks.student_transforms("train"))
        val, _ = open_split(data, "val", networks.student_transforms("val"))
        workers = hardware.cores()
        self.train, _ = open_loader(train, FAST["batch_size"], "auto", device, workers=workers, train=True)
        self.val, _ = open_loader(val, FAST["batch_size"], "auto", device, workers=workers)
        self.model = SimpleNet(num_classes=len(names))
        pool_before_relu(self.model)
        self.hardware = hardware.set_up(device, self.model, val[0][0][None])
        self.optimizer = Muon(self.model, FAST["lr"], FAST["weight_decay"])
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.resize = ProgressiveResizing.of(self.train, epochs)

    def __call__(self, epoch: int | None) -> float:
        """Images per second of training at the size of `epoch`, or of validation for None."""
        loader = FirstBatches(self.val if epoch is None else self.train, self.batches)
        progress = Progress("", loader, 10**9, show=False)
        if epoch is None:
            elapsed = measure.seconds(lambda: evaluate(self.model, progress, self.hardware))
        else:
            self.resize(epoch)
            elapsed = measure.seconds(lambda: train_one_epoch(
                self.model, nn.CrossEntropyLoss(), self.optimizer, self.scheduler, progress, self.hardware,
                self.hardware.scaler()))
        return progress.images / elapsed


def seconds_to(target: float, history: list[dict], seconds: list[float]) -> tuple[int, float] | None:
    """The first epoch whose validation top-1 reaches `target`, and the seconds until its end; None if none does."""
    for row in history:
        if row["val"]["top1"] >= target:
            return row["epoch"], sum(seconds[: row["epoch"]])
    return None


def measure_rates(args: argparse.Namespace, epochs: list[int]) -> dict:
    """Images/s: {"plain": [...], "val": [...], epoch: [...]}, a value for each round after a warm-up."""
    rates: dict = {"plain": [], "val": [], **{epoch: [] for epoch in epochs}}
    with (measure.InOwnProcess(Plain, args.data, args.batches // 4) as plain,
          measure.InOwnProcess(Ours, args.data, args.batches, args.epochs) as ours):
        for number in range(args.rounds + 1):
            for name, values in rates.items():
                value = plain() if name == "plain" else ours(None if name == "val" else name)
                if number:
                    values.append(value)
    return rates


def get_args_parser() -> argparse.ArgumentParser:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="results.json of a training with --recipe fast")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data it was trained on")
    parser.add_argument("--targets", type=float, nargs="+", default=[43.8, 45.4], metavar="TOP1",
                        help="top-1 in percent (default: 43.8 45.4)")
    parser.add_argument("--plain-epochs", type=int, default=60, metavar="N",
                        help="epochs that the plain loop needs (default: 60)")
    parser.add_argument("--batches", type=int, default=24, metavar="N", help="batches of a measurement (default: 24)")
    return parser


def main() -> None:
    parser = get_args_parser()
    args = parser.parse_args()
    history = json.loads(args.run.read_text())["history"]
    args.epochs = len(history)
    sizes = {epoch: ProgressiveResizing(None, args.epochs).size(epoch) for epoch in range(args.epochs)}
    first = {size: epoch for epoch, size in reversed(sizes.items())}  # an epoch of each size
    rates = measure_rates(args, [*first.values()])
    images = {split: len(open_split(args.data, split)[0]) for split in ("train", "val")}
    val = images["val"] / median(rates["val"])
    seconds = [images["train"] / median(rates[first[sizes[epoch]]]) + val for epoch in range(args.epochs)]
    plain = images["train"] * args.plain_epochs / median(rates["plain"])
    print(f"images/s, {args.rounds} rounds: median (range)")
    for name, values in rates.items():
        title = {"plain": "the plain loop, 128 px", "val": "validation, 128 px"}.get(name)
        print(f"  {title or f'main.py, {sizes[name]} px':26}{measure.spread(values, 1)}")
    print(f"the plain loop: {args.plain_epochs} epochs of {images['train']:,} images, {plain / 3600:.1f} h")
    found = {}
    for target in args.targets:
        reached = seconds_to(target, history, seconds)
        found[str(target)] = reached and {"epoch": reached[0], "seconds": reached[1], "speedup": plain / reached[1]}
        print(f"top-1 {target}: " + (f"epoch {reached[0]}, {reached[1] / 3600:.2f} h, {plain / reached[1]:.1f}x"
                                     if reached else "not reached"))
    last = history[-1]["val"]
    print(f"last epoch ({args.epochs}): {last['top1']:.2f} / {last['top5']:.2f}, {sum(seconds) / 3600:.2f} h")
    measure.save(args, {"targets": found, "plain_seconds": plain, "seconds_by_epoch": seconds, "last": last,
                        "images_per_second": {str(name): values for name, values in rates.items()},
                        "size_by_epoch": [*sizes.values()], "history": history})


if __name__ == "__main__":
    main()
