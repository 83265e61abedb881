"""What the labs share: trained networks with their images, flags of an attack, and tables that are printed and kept."""

import argparse
import csv
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

import attacks
import checkpoint
import figures
import hardware
import models
from arguments import number
from building import build_model
from custom_dataloader import make_loader, open_split
from run_folder import plain, provenance
from utils import BadInput, spaced, writing

ROOT = Path(__file__).resolve().parents[2]
COUNT = number(int, 1)  # of flags

# ------------------------------------------------------------------------------------------- flags


def parser(name: str, doc: str, data: bool = True, resume: str | None = None,
           trains: dict | None = None) -> argparse.ArgumentParser:
    """The flags of every lab; `resume`: whether it takes "one" checkpoint or "several"; `trains`: defaults of main.py's
    flags, for those that train."""
    made = argparse.ArgumentParser(prog=f"python -m labs.{name}", description=doc.split("\n\n")[0],
                                   allow_abbrev=False)
    if data:
        made.add_argument("data", metavar="DIR", help="data, as for main.py")
    if data and resume:
        made.add_argument("--images", type=COUNT, metavar="N", help="take so many validation images, from all over the "
                          "split (default: all)")
        made.add_argument("-b", "--batch-size", type=COUNT, default=100, metavar="N",
                          help="images at once (default: 100)")
    if resume == "one":
        made.add_argument("--resume", required=True, metavar="PATH", help="checkpoint of the network")
    elif resume == "several":
        made.add_argument("--resume", required=True, nargs="+", metavar="PATH", help="checkpoints of the networks")
        made.add_argument("--names", nargs="+", metavar="NAME", help="what to call them (default: by their model)")
    if trains is not None:
        made.add_argument("--epochs", type=COUNT, metavar="N", help="of each training (default: %(default)s)")
        made.add_argument("--lr", type=number(float, 0, above=True), metavar="LR",
                          help="peak learning rate (default: %(default)s)")
        made.add_argument("--train-batch", type=COUNT, default=64, metavar="N",
                          help="images a step (default: %(default)s)")
        made.add_argument("--seed", type=number(int, 0, 2**63), default=0, metavar="N",
                          help="of all trainings (default: 0)")
        made.add_argument("--logs", type=Path, default=ROOT / "logs/labs", metavar="DIR", help="where the run folders "
                          "go (default: logs/labs)")
        made.set_defaults(**trains)
    made.add_argument("--out", type=Path, default=ROOT / "results/labs" / name, metavar="DIR",
                      help=f"where table and figure go (default: results/labs/{name})")
    made.add_argument("--gpu", type=int, metavar="N", help="CUDA device, -1 for the CPU (default: the best there is)")
    return made


def add_threat(made: argparse.ArgumentParser) -> None:
    """The flags of one attack; the defaults are the sheet's."""
    group = made.add_argument_group("attack (defaults: the sheet's)")
    group.add_argument("--epsilon", type=float, default=0.1, metavar="E", help="largest change, in normalised units: "
                       "0.1 is about 6 of 255 levels (default: 0.1)")
    group.add_argument("--steps", type=COUNT, default=10, metavar="N",
                       help="backward passes of an attempt (default: 10)")
    group.add_argument("--step-size", type=float, default=0.01, metavar="S", help="in normalised units; 0 stands for "
                       "2.5 * epsilon / steps (default: 0.01)")
    group.add_argument("--objective", default="least-likely", choices=attacks.OBJECTIVES[:3], help="label to approach, "
                       "or to leave (default: least-likely)")
    group.add_argument("--once", action="store_true", help="choose that label once, on the clean image, and not in "
                       "each step")
    group.add_argument("--strong", action="store_true", help="instead of these: away from the true label by the "
                       "margin, with momentum, 50 steps from two starts")


def threat_of(args: argparse.Namespace) -> attacks.Threat:
    """Raises BadInput with the Threat's own sentence."""
    try:
        if args.strong:
            return attacks.strong(args.epsilon)
        return attacks.Threat(args.epsilon, args.objective, steps=args.steps, step_size=args.step_size or None,
                              relabel=not args.once)
    except ValueError as error:
        raise BadInput(str(error)) from None


def run(name: str, job: Callable[[argparse.Namespace], None], made: argparse.ArgumentParser,
        argv: Sequence[str] | None = None) -> None:
    """Parse, do the job, and turn bad input into one sentence and exit code 2."""
    args = made.parse_args(argv)
    args.began = time.perf_counter()
    if getattr(args, "quick", False):  # must not take the place of a real result, nor of a network trained for long
        for name in {"out", "logs"} & vars(args).keys():
            if getattr(args, name) == made.get_default(name):
                setattr(args, name, getattr(args, name) / "quick")
    try:
        make_folder(args.out)
        hardware.keep_memory()
        args.device = hardware.pick_device(args.gpu)
        job(args)
    except BadInput as error:
        made.exit(2, f"labs.{name}: error: {error}\n")


def make_folder(folder: Path) -> None:
    """Before the work, not after it. Raises BadInput where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {folder}: {error.strerror}; name a folder that can be written to") from None


# ------------------------------------------------------------------------------- networks and images


# Networks that are not main.py's: the lab that trains them has build(name, num_classes), and VAL, its transforms.
LAB_NETWORKS = {"cifar-resnet": "labs.cifar_resnet", **{f"mish-{kind}": "labs.mish_cnn" for kind in
                                                        ("plain", "batchnorm", "better")}}


def lab_of(saved: dict):
    """The lab that a checkpoint is from; None for main.py's."""
    name = LAB_NETWORKS.get(saved["model_arch"])
    return importlib.import_module(name) if name else None


def small(image):
    """An image H,W,3 for these networks. Raises BadInput if it is not CIFAR-10's 32x32 pixels."""
    if image.shape[:2] != (32, 32):
        height, width = image.shape[:2]
        raise BadInput(f"this network is for CIFAR-10's images of 32x32 pixels; there is one of {height}x{width}")
    return image


def convolution_of(saved: dict) -> str | None:
    """Which own convolution a network of main.py's is made of."""
    conv = saved.get("settings", {}).get("use_custom_conv") or None
    return "unfold" if conv is True else conv  # until there were two of them, the checkpoint said yes or no


def open_images(args: argparse.Namespace, split: str = "val", transform: Callable | None = None
                ) -> tuple[Tensor, Tensor, list[str]]:
    """All images N,3,H,W of a split, or --images of them; labels N; names of the classes.

    `transform` is by default what validation does in main.py.
    """
    dataset, names = open_split(args.data, split, transform or models.student_transforms("val"))
    if getattr(dataset, "check_images", None):
        dataset.check_images()
    count = len(dataset) if args.images is None else args.images
    if not 0 < count <= len(dataset):
        raise BadInput(f"--images {count}: {args.data} has {len(dataset)} images in {split}")
    loader = make_loader(torch.utils.data.Subset(dataset, spaced(len(dataset), count)), args.batch_size, workers=0)
    images, labels = zip(*loader)
    return torch.cat(images), torch.cat(labels), names


@dataclass
class Trained:
    """A network from a checkpoint, and the images that it is judged by."""

    title: str  # what tables call it
    name: str  # one of models.MODEL_NAMES
    model: nn.Module
    saved: dict  # the checkpoint
    images: Tensor
    labels: Tensor
    names: list[str]
    machine: hardware.Hardware
    batch: int

    def logits(self, images: Tensor | None = None) -> Tensor:
        """N,C on the CPU, in fp32; of its own images by default."""
        images = self.images if images is None else images
        with attacks.frozen(self.model), torch.no_grad():
            return torch.cat([self.model(self.machine.images(x)).cpu() for x in images.split(self.batch)])

    def attack(self, threat: attacks.Threat, targets: Tensor | None = None) -> attacks.Outcome:
        """The outcome for all images, on the CPU.

        An attack that only descends looks for its gradients in what is fast here; one that acts on its successes, in
        fp32, in which `logits` judges it.
        """
        exact = hardware.Hardware(self.machine.device, "off", self.machine.memory_format)
        machine = self.machine if threat.keep == "last" and threat.restarts == 1 else exact
        parts = []
        for chosen in tqdm(torch.arange(len(self.images)).split(self.batch), desc=f"attack {self.title}", leave=False,
                           disable=None):
            images, labels = machine.images(self.images[chosen]), machine.labels(self.labels[chosen])
            some = None if targets is None else machine.labels(targets[chosen])
            with machine.autocast():
                parts.append(attacks.attack(threat, self.model, images, labels, some))
        return attacks.Outcome.joined(parts)


def open_trained(args: argparse.Namespace, paths: Sequence[str], titles: Sequence[str] | None = None) -> list[Trained]:
    """The networks of several checkpoints, on the same images."""
    if titles is not None and len(titles) != len(paths):
        raise BadInput(f"--names has {len(titles)} names for {len(paths)} checkpoints")
    saved = [checkpoint.load(path) for path in paths]
    labs = {lab_of(one) for one in saved}
    if len(labs) > 1:
        raise BadInput("--resume: these networks take different images; main.py's and those of a lab go apart")
    lab = labs.pop()
    images, labels, names = open_images(args, transform=(lambda image: lab.VAL(small(image))) if lab else None)
    opened = [open_one(args, path, one, images, labels, names) for path, one in zip(paths, saved)]
    for place, one in enumerate(opened):
        alike = [other for other in opened if other.name == one.name]
        one.title = titles[place] if titles else f"{one.name} {alike.index(one) + 1}" if len(alike) > 1 else one.name
    return opened


def open_one(args: argparse.Namespace, path: str, saved: dict, images: Tensor, labels: Tensor,
             names: list[str]) -> Trained:
    if lab := lab_of(saved):
        name, model = saved["model_arch"], lab.build(saved["model_arch"], len(names))
        checkpoint.load_weights(model, saved["state_dict"], path)
        model.to(args.device)
    else:
        name = models.name_of(saved)
        model = build_model(name, len(names), images[:1], args.device, convolution_of(saved), saved=saved, path=path)
    layout = hardware.pick_memory_format(model, images[:1], args.device)
    amp = hardware.pick_amp("auto", args.device)
    machine = hardware.Hardware(args.device, "off" if amp == "fp16" else amp, layout)  # fp16 loses small gradients
    return Trained(name, name, model.to(memory_format=layout), saved, images, labels, names, machine, args.batch_size)


def train(args: argparse.Namespace, *flags: str) -> Path:
    """Run main.py as a user would, with a lab's own flags and these, and return the run folder that it made."""
    before, machine = set(args.logs.glob("exp_*")), () if args.gpu is None else ("--gpu", str(args.gpu))
    command = ["main.py", args.data, "--epochs", str(args.epochs), "--lr", str(args.lr), "-b", str(args.train_batch),
               "--seed", str(args.seed), *machine, *flags, "--logs", str(args.logs)]
    print(f"\n$ python {' '.join(command)}", flush=True)
    code = subprocess.run([sys.executable, str(ROOT / "code/main.py"), *command[1:]]).returncode
    if code:
        raise BadInput(f"main.py ended with exit code {code}; what it said stands above")
    return (set(args.logs.glob("exp_*")) - before).pop()


# ------------------------------------------------------------------------------------ what comes out


def publish(args: argparse.Namespace, name: str, rows: Sequence[dict], pictures: dict[str, Figure], **facts) -> None:
    """Print `rows` as a table, and write OUT/NAME.csv, OUT/NAME.json (with `facts`, and how it was made) and the
    pictures as OUT/PICTURE.png."""
    print(table(rows))
    with writing(args.out / f"{name}.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: rounded(value) for key, value in row.items()} for row in rows)
    content = {"rows": rows, **facts, "made_by": {**provenance(), "seconds": time.perf_counter() - args.began}}
    with writing(args.out / f"{name}.json") as part:
        part.write_text(json.dumps(plain(content), indent=1) + "\n", encoding="utf-8")
    for picture, figure in pictures.items():
        figures.save(figure, args.out / f"{picture}.png")
    print("written:", ", ".join(str(args.out / file) for file in
                                (f"{name}.csv", f"{name}.json", *(f"{picture}.png" for picture in pictures))))


def rounded(value):
    return round(value, 4) if isinstance(value, float) else "" if value is None else value


def table(rows: Sequence[dict]) -> str:
    """Columns under their names: numbers to the right, with two decimals."""
    cells = [[*rows[0]], *([f"{v:,.2f}" if isinstance(v, float) else "-" if v is None else
                            f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()] for row in rows)]
    numeric = [all(isinstance(row[key], (int, float, type(None))) for row in rows) for key in rows[0]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in
                               zip(line, widths, numeric)).rstrip() for line in cells)
