"""Training SimpleNet: main.py against a plain PyTorch loop, in images per second or, with --accuracy, in top-1.

    python benchmarks/bench_train.py [--data DIR] [--json FILE]
    python benchmarks/bench_train.py --accuracy --data DIR --epochs 20 --seeds 3

Both train the same network on the same images, batch 64, 128 px, in separate processes, interleaved. The baseline is
stock.py with the default allocator; ours has main.py's engine, loader, mixed precision, memory format and allocator
settings. `--accuracy` trains both from scratch for equal epochs, and validates on the same 128 px crops in fp32.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean, median, stdev

import measure
import stock
import torch
from torch import nn

from custom_dataloader import open_split
from demo import data as demo_data
from libs import hardware, networks
from libs.engine import evaluate, train_one_epoch
from libs.hardware import Hardware
from libs.loaders import open_loader
from libs.metrics import top_k
from libs.progress import Progress
from libs.training_state import WarmupCosine
from student_code import SimpleNet
from utils import seed_everything

LR = 0.05


class Stock:
    """The loop of stock.py."""

    def __init__(self, args: argparse.Namespace, seed: int, epochs: int):
        dataset, names = open_split(args.data, "train")
        samples = [(dataset.path(i), dataset.targets[i]) for i in range(len(dataset))]
        self.device = args.device
        self.loader = stock.stock_loader(samples, args.batch, hardware.cores())
        seed_everything(seed)
        self.model = SimpleNet(num_classes=len(names)).to(args.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), LR, momentum=0.9, weight_decay=1e-4)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, WarmupCosine(epochs, min(5, epochs / 2), len(self.loader)))
        self.epoch = 0

    def __call__(self) -> float:
        """Train one epoch. Returns its images per second."""
        self.epoch += 1
        elapsed = measure.seconds(lambda: stock.stock_epoch(self.model, self.loader, self.optimizer, self.device,
                                                         self.scheduler), self.device)
        return len(self.loader) * self.loader.batch_size / elapsed


class Ours:
    """main.py's training epochs, without its validation and checkpoints."""

    def __init__(self, args: argparse.Namespace, seed: int, epochs: int):
        hardware.keep_memory()
        dataset, names = open_split(args.data, "train", networks.student_transforms("train"))
        device = torch.device(args.device)
        self.loader, _ = open_loader(dataset, args.batch, "auto", device, workers=hardware.cores(), seed=seed,
                                     train=True)
        seed_everything(seed)
        self.model = SimpleNet(num_classes=len(names))
        self.hardware = hardware.set_up(device, self.model, dataset[0][0][None])
        self.optimizer = torch.optim.SGD(self.model.parameters(), LR, momentum=0.9, weight_decay=1e-4, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, WarmupCosine(epochs, min(5, epochs / 2), len(self.loader)))
        self.scaler, self.epoch, self.device = self.hardware.scaler(), 0, args.device

    def __call__(self) -> tuple[float, float]:
        """Train one epoch. Returns its images per second and the share of time spent waiting for data."""
        progress = Progress("", self.loader, 10**9, show=False)
        self.loader.sampler.set_epoch(self.epoch)
        self.epoch += 1
        elapsed = measure.seconds(lambda: train_one_epoch(
            self.model, nn.CrossEntropyLoss(), self.optimizer, self.scheduler, progress, self.hardware, self.scaler,
            perturb=self.perturb), self.device)
        return len(self.loader) * self.loader.batch_size / elapsed, progress.data_wait

    perturb = None  # no adversarial training


def speed(args: argparse.Namespace) -> dict:
    amp = hardware.pick_precision("auto", torch.device(args.device)).training
    with measure.InOwnProcess(Stock, args, 0, 100) as baseline, measure.InOwnProcess(Ours, args, 0, 100) as ours:
        rows = [(baseline(), *ours()) for _ in range(args.rounds + 1)][1:]  # the first is the warm-up
    plain, fast, waits = zip(*rows)
    ratio, waited = median(b / a for a, b, _ in rows), median(waits)
    print(f"images/s, {args.rounds} epochs in batches of {args.batch}: median (range)")
    for name, values in (("the plain loop", plain), (f"main.py ({amp}, channels last)", fast)):
        print(f"  {name:36}{measure.spread(values, 1)}")
    print(f"  {ratio:.2f}x; main.py waits for data {waited:.1%} of the time")
    return {"speedup": ratio, "data_wait": waited, "stock": plain, "ours": fast, "amp": amp}


def top1(model: nn.Module, args: argparse.Namespace) -> float:
    dataset, _ = open_split(args.data, "val", networks.student_transforms("val"))
    loader, _ = open_loader(dataset, 250, "auto", torch.device(args.device), workers=1)
    logits, labels = evaluate(model, Progress("", loader, 10**9, show=False), Hardware(torch.device(args.device)))
    return top_k(logits["image"], labels, 1).item()


def accuracy(args: argparse.Namespace) -> dict:
    """Top-1 after equal epochs: mean and standard deviation over the seeds."""
    top1s: dict[str, list[float]] = {"stock": [], "ours": []}
    for seed in range(args.seeds):
        for name, side in (("stock", Stock), ("ours", Ours)):
            trainer = side(args, seed, args.epochs)
            for _ in range(args.epochs):
                trainer()
            top1s[name].append(top1(trainer.model, args))
            print(f"seed {seed} {name:6} top-1 {top1s[name][-1]:.2f}", flush=True)
    difference = mean(top1s["ours"]) - mean(top1s["stock"])
    print(f"after {args.epochs} epochs, {args.seeds} seeds:")
    for name, values in top1s.items():
        print(f"  {name:6} top-1 {mean(values):.2f} +- {stdev(values):.2f}")
    print(f"  difference {difference:+.2f}")
    return {"accuracy": top1s, "difference": difference, "deviation": {k: stdev(v) for k, v in top1s.items()},
            "epochs": args.epochs}


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="MiniPlaces' layout (default: drawn scenes)")
    parser.add_argument("--accuracy", action="store_true", help="compare top-1 after --epochs")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="with --accuracy (default: 20)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="with --accuracy, at least 2 (default: 3)")
    args = parser.parse_args()
    if args.accuracy and args.seeds < 2:
        parser.error("--seeds has to be at least 2: the result has a standard deviation")
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            args.data = Path(folder)
            demo_data.make(args.data, 1280, 100)
        measure.save(args, accuracy(args) if args.accuracy else speed(args))


if __name__ == "__main__":
    main()
