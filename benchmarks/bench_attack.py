"""PGDAttack against torchattacks' PGD; with --train, one-step against five-step adversarial training.

    pip install --no-deps torchattacks
    python benchmarks/bench_attack.py --data DIR --resume models/model_best.pth.tar
    python benchmarks/bench_attack.py --data DIR --train --epochs 20 --seeds 3

Both run untargeted PGD without a random start, 10 steps of 0.01 within 0.1 (normalised units), on the same trained
network and images, in separate processes, interleaved. torchattacks runs as in a plain script: fp32, default memory
format, default allocator. Ours runs as `main.py -a` does. torchattacks needs values in [0, 1], so its network scales
[0, 1] to [-4, 4] first.
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


class UnitRange(nn.Module):
    """`model` for values in [0, 1] instead of [LOW, HIGH], a range that no image reaches."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(LOW + (HIGH - LOW) * images)


class NegativeCrossEntropy(nn.Module):
    """-cross-entropy of `labels`, whatever label PGDAttack passes: makes the attack untargeted."""

    labels: Tensor

    def forward(self, logits: Tensor, _: Tensor) -> Tensor:
        return -F.cross_entropy(logits, self.labels)


def all_images(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """--images of both splits under the validation transform, since a small validation split is too noisy."""
    images, labels = [], []
    for split in ("val", "train"):
        dataset, _ = open_split(args.data, split, networks.student_transforms("val"))
        for image, label in (dataset[i] for i in spaced(len(dataset), args.images - len(images))):
            images.append(image)
            labels.append(label)
    return torch.stack(images).to(args.device), torch.tensor(labels, device=args.device)


class Attacker:
    """One attack. Called with the index of a batch's first image; returns seconds and the number of robust images."""

    def __init__(self, args: argparse.Namespace, library: bool, keep: bool, amp: str):
        if keep:
            hardware.keep_memory()
        saved, device = checkpoint.load(args.resume), torch.device(args.device)
        layout = torch.contiguous_format if library else torch.channels_last
        self.model = SimpleNet(num_classes=len(saved["state_dict"]["fc.bias"]))
        self.model.load_state_dict(saved["state_dict"])
        self.model.to(device, memory_format=layout).eval()
        self.hardware = hardware.Hardware(device, hardware.Precision(attack=amp), layout)
        self.images, self.labels = all_images(args)
        self.batch, unit = args.batch, 1 / (HIGH - LOW)
        if library:
            from torchattacks import PGD

            attack = PGD(UnitRange(self.model), eps=unit * EPSILON, alpha=unit * STEP, steps=STEPS, random_start=False)
            self.attack = lambda x, y: LOW + attack((x - LOW) * unit, y) / unit
        else:
            self.attack = self.pgd

    def pgd(self, x: Tensor, y: Tensor) -> Tensor:
        loss = NegativeCrossEntropy()
        loss.labels = y
        with self.hardware.autocast("attack"):
            return PGDAttack(loss, STEPS, STEP, EPSILON).perturb(self.model, x)

    def __call__(self, start: int) -> tuple[float, int]:
        x = self.hardware.images(self.images[start : start + self.batch])
        y, attacked = self.labels[start : start + self.batch], []
        elapsed = measure.seconds(lambda: attacked.append(self.attack(x, y)), self.hardware.device.type)
        with torch.no_grad():
            return elapsed, (self.model(attacked[0]).argmax(1) == y).sum().item()


def attack_speed(args: argparse.Namespace) -> dict:
    amp = hardware.pick_precision("auto", torch.device(args.device)).attack
    settings = {"torchattacks": (True, False, "off"), f"PGDAttack {amp}": (False, True, amp),
                "torchattacks, memory kept": (True, True, "off"), "PGDAttack fp32": (False, True, "off")}
    count = len(all_images(args)[1])
    times: dict[str, list[float]] = {name: [] for name in settings}
    correct = dict.fromkeys(settings, 0)
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(measure.InOwnProcess(Attacker, args, *setting))
                 for name, setting in settings.items()}
        for start in range(0, count, args.batch):
            for name, side in sides.items():
                elapsed, robust_count = side(start)
                correct[name] += robust_count
                if start:  # the first batch warms up
                    times[name].append(elapsed)
    robust = {name: 100 * robust_count / count for name, robust_count in correct.items()}
    print(f"{count} images, batches of {args.batch}: ms per batch, median (range); robust accuracy")
    for name, seconds in times.items():
        print(f"  {name:28}{measure.spread(seconds):28}{robust[name]:8.2f} %")
    ratio, kept = (measure.ratio(times, f"PGDAttack {amp}", other)
                   for other in ("torchattacks", "torchattacks, memory kept"))
    difference = robust[f"PGDAttack {amp}"] - robust["torchattacks"]
    print(f"  {ratio:.2f}x the time ({kept:.2f}x with main.py's allocator settings for torchattacks), robust accuracy "
          f"{difference:+.2f}")
    return {"time_ratio": ratio, "time_ratio_memory_kept": kept, "robust_accuracy_difference": difference,
            "robust_accuracy": robust, "images": count, "seconds": times}


# ------------------------------------------------------------------------------------ adversarial training


def robust_accuracy(model: nn.Module, args: argparse.Namespace) -> float:
    """Validation top-1 under untargeted PGD, in fp32."""
    dataset, _ = open_split(args.data, "val", networks.student_transforms("val"))
    attack, correct = adversarial_training.pgd(EPSILON, args.steps), 0
    torch.manual_seed(0)
    images, labels = (torch.stack(list(column)) if isinstance(column[0], Tensor) else torch.tensor(column)
                      for column in zip(*dataset))
    for x, y in zip(images.split(100), labels.split(100)):
        x, y = x.to(args.device, memory_format=torch.channels_last), y.to(args.device)
        attacked = attack(model, x, y)
        with frozen(model), torch.no_grad():
            correct += (model(attacked).argmax(1) == y).sum().item()
    return 100 * correct / len(labels)


class Adversarial(Ours):
    """`main.py --adversarial KIND`."""

    def __init__(self, args: argparse.Namespace, seed: int, epochs: int, kind: str):
        super().__init__(args, seed, epochs)
        dataset, _ = open_split(args.data, "train", networks.student_transforms("val"))
        images, labels = adversarial_training.draw_probe(dataset, seed)
        probe = self.hardware.images(images), self.hardware.labels(labels)
        self.perturb = self.adversary = adversarial_training.AdversarialTraining(kind, self.model, EPSILON, probe)

    def __call__(self) -> float:
        """Train one epoch, including the probe of robust accuracy. Returns its seconds."""
        began = time.perf_counter()
        super().__call__()
        with self.hardware.autocast("training"):
            robust = self.adversary.robust_probes()
        if warning := self.adversary.after_epoch(robust, self.optimizer):
            print(warning)
        return time.perf_counter() - began


def training(args: argparse.Namespace) -> dict:
    """Both kinds of training, interleaved by epoch, then clean and robust accuracy of each."""
    times: dict[str, list[float]] = {"pgd": [], "fast": []}
    clean: dict[str, list[float]] = {"pgd": [], "fast": []}
    robust: dict[str, list[float]] = {"pgd": [], "fast": []}
    for seed in range(args.seeds):
        trainers = {kind: Adversarial(args, seed, args.epochs, kind) for kind in times}
        for epoch in range(args.epochs):
            for kind, trainer in trainers.items():
                seconds = trainer()
                if epoch:
                    times[kind].append(seconds)
        for kind, trainer in trainers.items():
            clean[kind].append(top1(trainer.model, args))
            robust[kind].append(robust_accuracy(trainer.model, args))
            print(f"seed {seed} {kind:5} clean {clean[kind][-1]:.2f}, "
                  f"under {args.steps}-step PGD {robust[kind][-1]:.2f}", flush=True)
    ratio, difference = measure.ratio(times, "fast", "pgd"), mean(robust["fast"]) - mean(robust["pgd"])
    print(f"{args.epochs} epochs, {args.seeds} seeds: seconds per epoch, median (range)")
    for kind, seconds in times.items():
        print(f"  {kind:5}{measure.spread(seconds, 1)}   clean {mean(clean[kind]):.2f}, robust "
              f"{mean(robust[kind]):.2f}")
    print(f"  fast / pgd: {ratio:.2f}x the time, robust accuracy {difference:+.2f}")
    return {"time_ratio": ratio, "robust_accuracy_difference": difference, "clean": clean, "robust": robust,
            "seconds": times, "epochs": args.epochs}


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="MiniPlaces' layout")
    parser.add_argument("--resume", type=Path, metavar="PATH", help="checkpoint of the SimpleNet to attack")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="images to attack (default: 1000)")
    parser.add_argument("--train", action="store_true", help="compare adversarial training instead")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="with --train (default: 20)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="with --train (default: 1)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="PGD steps of the evaluation (default: 50)")
    args = parser.parse_args()
    if not args.train and args.resume is None:
        parser.error("--resume PATH is required: a checkpoint of a SimpleNet (or --train)")
    measure.save(args, training(args) if args.train else attack_speed(args))


if __name__ == "__main__":
    main()
