"""PGDAttack against torchattacks' PGD; with --train, one-step against five-step adversarial training.

    pip install --no-deps torchattacks
    python benchmarks/bench_attack.py --data DIR --resume models/model_best.pth.tar
    python benchmarks/bench_attack.py --data DIR --train --epochs 20 --seeds 3

Both attack the same trained network on the same images, 10 steps of 0.01 within 0.1 (normalised units), away from the
true label, without a random start, each in a process of its own, by turns. Theirs as a script runs it: fp32, default
layout, glibc's own allocator. Ours as `main.py -a` runs it. torchattacks wants values in [0, 1], so the network that it
sees scales [0, 1] to [-4, 4] first.
"""

import argparse
import contextlib
import time
from pathlib import Path
from statistics import mean

import measure
import torch
import torch.nn.functional as F
from bench_train import Ours, top1
from torch import Tensor, nn

from custom_dataloader import open_split
from extras import adversarial_training
from extras.attacks import frozen
from libs import checkpoint, hardware, networks
from student_code import PGDAttack, SimpleNet
from utils import spaced

EPSILON, STEP, STEPS = 0.1, 0.01, 10
LOW, HIGH = -4.0, 4.0


class Unit(nn.Module):
    """`model` for values in [0, 1] instead of [LOW, HIGH], a box that no image touches."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(LOW + (HIGH - LOW) * images)


class AwayFrom(nn.Module):
    """A loss to go down that leads away from `labels`: makes PGDAttack an untargeted attack."""

    labels: Tensor

    def forward(self, logits: Tensor, _: Tensor) -> Tensor:
        return -F.cross_entropy(logits, self.labels)


def all_images(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """--images of both splits as validation sees them: 500 alone would leave too wide a margin of error."""
    images, labels = [], []
    for split in ("val", "train"):
        dataset, _ = open_split(args.data, split, networks.student_transforms("val"))
        for image, label in (dataset[i] for i in spaced(len(dataset), args.images - len(images))):
            images.append(image)
            labels.append(label)
    return torch.stack(images).to(args.device), torch.tensor(labels, device=args.device)


class Attacker:
    """One way to attack. Called with the number of a batch's first image: seconds, and images that withstand."""

    def __init__(self, args: argparse.Namespace, library: bool, keep: bool, amp: str):
        if keep:
            hardware.keep_memory()
        saved, device = checkpoint.load(args.resume), torch.device(args.device)
        layout = torch.contiguous_format if library else torch.channels_last
        self.model = SimpleNet(num_classes=len(saved["state_dict"]["fc.bias"]))
        self.model.load_state_dict(saved["state_dict"])
        self.model.to(device, memory_format=layout).eval()
        self.how = hardware.Hardware(device, hardware.Precision(attack=amp), layout)
        self.images, self.labels = all_images(args)
        self.batch, unit = args.batch, 1 / (HIGH - LOW)
        if library:
            from torchattacks import PGD

            attack = PGD(Unit(self.model), eps=unit * EPSILON, alpha=unit * STEP, steps=STEPS, random_start=False)
            self.attack = lambda x, y: LOW + attack((x - LOW) * unit, y) / unit
        else:
            self.attack = self.own

    def own(self, x: Tensor, y: Tensor) -> Tensor:
        loss = AwayFrom()
        loss.labels = y
        with self.how.autocast("attack"):
            return PGDAttack(loss, STEPS, STEP, EPSILON).perturb(self.model, x)

    def __call__(self, start: int) -> tuple[float, int]:
        x = self.how.images(self.images[start : start + self.batch])
        y, attacked = self.labels[start : start + self.batch], []
        took = measure.seconds(lambda: attacked.append(self.attack(x, y)), self.how.device.type)
        with torch.no_grad():
            return took, (self.model(attacked[0]).argmax(1) == y).sum().item()


def attack_speed(args: argparse.Namespace) -> dict:
    amp = hardware.pick_precision("auto", torch.device(args.device)).attack
    ways = {"torchattacks": (True, False, "off"), f"PGDAttack {amp}": (False, True, amp),
            "torchattacks, memory kept": (True, True, "off"), "PGDAttack fp32": (False, True, "off")}
    count = len(all_images(args)[1])
    taken: dict[str, list[float]] = {name: [] for name in ways}
    right = dict.fromkeys(ways, 0)
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(measure.Apart(Attacker, args, *way)) for name, way in ways.items()}
        for start in range(0, count, args.batch):
            for name, side in sides.items():
                took, withstood = side(start)
                right[name] += withstood
                if start:  # the first batch warms up
                    taken[name].append(took)
    robust = {name: 100 * withstood / count for name, withstood in right.items()}
    print(f"{count} images, batches of {args.batch}: ms a batch, median (range); robust accuracy")
    for name, seconds in taken.items():
        print(f"  {name:28}{measure.spread(seconds):28}{robust[name]:8.2f} %")
    ratio, kept = (measure.ratio(taken, f"PGDAttack {amp}", other)
                   for other in ("torchattacks", "torchattacks, memory kept"))
    difference = robust[f"PGDAttack {amp}"] - robust["torchattacks"]
    print(f"  {ratio:.2f}x the time ({kept:.2f}x if torchattacks ran in a process that keeps memory), robust accuracy "
          f"{difference:+.2f}")
    return {"time_ratio": ratio, "time_ratio_memory_kept": kept, "robust_accuracy_difference": difference,
            "robust_accuracy": robust, "images": count, "seconds": taken}


# ------------------------------------------------------------------------------------ adversarial training


def robust_accuracy(model: nn.Module, args: argparse.Namespace) -> float:
    """Top-1 on the validation images under PGD away from the true label, in fp32."""
    dataset, _ = open_split(args.data, "val", networks.student_transforms("val"))
    attack, right = adversarial_training.pgd(EPSILON, args.steps), 0
    torch.manual_seed(0)
    images, labels = (torch.stack(list(column)) if isinstance(column[0], Tensor) else torch.tensor(column)
                      for column in zip(*dataset))
    for x, y in zip(images.split(100), labels.split(100)):
        x, y = x.to(args.device, memory_format=torch.channels_last), y.to(args.device)
        attacked = attack(model, x, y)
        with frozen(model), torch.no_grad():
            right += (model(attacked).argmax(1) == y).sum().item()
    return 100 * right / len(labels)


class Adversarial(Ours):
    """`main.py --adversarial KIND`, from its parts."""

    def __init__(self, args: argparse.Namespace, seed: int, epochs: int, kind: str):
        super().__init__(args, seed, epochs)
        dataset, _ = open_split(args.data, "train", networks.student_transforms("val"))
        images, labels = adversarial_training.draw_probe(dataset, seed)
        probe = self.hardware.images(images), self.hardware.labels(labels)
        self.perturb = self.adversary = adversarial_training.AdversarialTraining(kind, self.model, EPSILON, probe)

    def __call__(self) -> float:
        """Train one epoch, the check after it included. Returns its seconds."""
        began = time.perf_counter()
        super().__call__()
        with self.hardware.autocast("training"):
            robust = self.adversary.robust_probes()
        if warning := self.adversary.after_epoch(robust, self.optimizer):
            print(warning)
        return time.perf_counter() - began


def training(args: argparse.Namespace) -> dict:
    """Both ways of training, epoch by epoch in turn, then clean and robust accuracy of each."""
    taken: dict[str, list[float]] = {"pgd": [], "fast": []}
    clean: dict[str, list[float]] = {"pgd": [], "fast": []}
    robust: dict[str, list[float]] = {"pgd": [], "fast": []}
    for seed in range(args.seeds):
        trainers = {kind: Adversarial(args, seed, args.epochs, kind) for kind in taken}
        for epoch in range(args.epochs):
            for kind, trainer in trainers.items():
                seconds = trainer()
                if epoch:
                    taken[kind].append(seconds)
        for kind, trainer in trainers.items():
            clean[kind].append(top1(trainer.model, args))
            robust[kind].append(robust_accuracy(trainer.model, args))
            print(f"seed {seed} {kind:5} clean {clean[kind][-1]:.2f}, "
                  f"under {args.steps}-step PGD {robust[kind][-1]:.2f}", flush=True)
    ratio, difference = measure.ratio(taken, "fast", "pgd"), mean(robust["fast"]) - mean(robust["pgd"])
    print(f"{args.epochs} epochs, {args.seeds} seeds: seconds an epoch, median (range)")
    for kind, seconds in taken.items():
        print(f"  {kind:5}{measure.spread(seconds, 1)}   clean {mean(clean[kind]):.2f}, robust "
              f"{mean(robust[kind]):.2f}")
    print(f"  fast / pgd: {ratio:.2f}x the time, robust accuracy {difference:+.2f}")
    return {"time_ratio": ratio, "robust_accuracy_difference": difference, "clean": clean, "robust": robust,
            "seconds": taken, "epochs": args.epochs}


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="MiniPlaces' layout")
    parser.add_argument("--resume", type=Path, metavar="PATH", help="a trained SimpleNet, to be attacked")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="to attack (default: 1000)")
    parser.add_argument("--train", action="store_true", help="compare adversarial training instead")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="with --train (default: 20)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="with --train (default: 1)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="of the PGD that judges (default: 50)")
    args = parser.parse_args()
    if not args.train and args.resume is None:
        parser.error("--resume PATH is needed: a trained SimpleNet (or --train)")
    measure.save(args, training(args) if args.train else attack_speed(args))


if __name__ == "__main__":
    main()
