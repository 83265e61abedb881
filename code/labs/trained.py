"""Networks from checkpoints, with the validation images on which a lab evaluates them."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm import tqdm

from custom_dataloader import open_split
from extras import attacks
from extras.attacks import Outcome, Threat
from libs import checkpoint, hardware, networks
from libs.hardware import Hardware
from libs.loaders import make_loader
from libs.run import build_model
from utils import BadInput, spaced

STUDENT, REFERENCE = "student_code.py", "extras/attacks.py"  # attack implementations, as named in tables


@dataclass
class Trained:
    """A network from a checkpoint, and the images on which it is evaluated."""

    title: str  # in tables
    name: str  # of networks.NETWORKS
    model: nn.Module
    saved: dict  # the checkpoint
    images: Tensor  # N,3,H,W, on the CPU
    labels: Tensor
    class_names: list[str]
    hardware: Hardware
    batch: int

    def logits(self, images: Tensor | None = None) -> Tensor:
        """Logits N,C on the CPU, in report precision (fp32); of `self.images` by default."""
        images = self.images if images is None else images
        with attacks.frozen(self.model), torch.no_grad(), self.hardware.autocast("report"):
            return torch.cat([self.model(self.hardware.images(x)).float().cpu() for x in images.split(self.batch)])

    def attack(self, threat: Threat, targets: Tensor | None = None) -> Outcome:
        """Run extras/attacks.py on all images. Returns its outcome on the CPU.

        An attack whose course depends on its successes (early stopping, best iterate, restarts) runs in report
        precision, in which success is measured; others run in attack precision.
        """
        purpose = "attack" if threat.keep == "last" and threat.restarts == 1 else "report"
        parts = []
        for rows in self._batches():
            images, labels = self.hardware.images(self.images[rows]), self.hardware.labels(self.labels[rows])
            chosen = None if targets is None else self.hardware.labels(targets[rows])
            with self.hardware.autocast(purpose):
                parts.append(attacks.attack(threat, self.model, images, labels, chosen))
        return Outcome.concatenate(parts)

    def adversarial(self, threat: Threat, reference: bool = False) -> tuple[Tensor, str]:
        """Adversarial images on the CPU, and the implementation: the student's where possible, unless `reference`."""
        if reference or not is_assignment_attack(threat):
            return self.attack(threat).images, REFERENCE
        make = networks.from_student("default_attack")
        student = make(nn.CrossEntropyLoss(), num_steps=threat.steps, step_size=threat.resolved_step_size,
                       epsilon=threat.epsilon)
        parts = []
        for rows in self._batches():
            with self.hardware.autocast("attack"):
                parts.append(student.perturb(self.model, self.hardware.images(self.images[rows])).detach().cpu())
        return torch.cat(parts), STUDENT

    def _batches(self) -> tqdm:
        rows = torch.arange(len(self.images)).split(self.batch)
        return tqdm(rows, desc=f"attack {self.title}", leave=False, disable=None)


def is_assignment_attack(threat: Threat) -> bool:
    """Whether the assignment's PGDAttack(loss_fn, num_steps, step_size, epsilon) implements `threat`."""
    return threat == Threat(threat.epsilon, steps=threat.steps, step_size=threat.step_size)


def open_images(args: argparse.Namespace, split: str = "val", transform: Callable | None = None
                ) -> tuple[Tensor, Tensor, list[str]]:
    """Images N,3,H,W of a split (all, or --images of them), labels N, and the class names.

    The default `transform` is the student's validation transform.
    """
    dataset, class_names = open_split(args.data, split, transform or networks.student_transforms("val"))
    if hasattr(dataset, "check_images"):
        dataset.check_images()
    count = len(dataset) if args.images is None else args.images
    if not 0 < count <= len(dataset):
        raise BadInput(f"--images {count}: {args.data} has {len(dataset)} images in {split}")
    loader = make_loader(Subset(dataset, spaced(len(dataset), count)), args.batch_size, workers=0)
    images, labels = zip(*loader)
    return torch.cat(images), torch.cat(labels), class_names


def open_trained(args: argparse.Namespace, paths: Sequence[str], titles: Sequence[str] | None = None) -> list[Trained]:
    """The networks of several checkpoints, evaluated on the same images. Raises BadInput."""
    if titles is not None and len(titles) != len(paths):
        raise BadInput(f"--names has {len(titles)} names for {len(paths)} checkpoints")
    saved = [checkpoint.load(path) for path in paths]
    labs = {networks.lab_of(one) for one in saved}
    if len(labs) > 1:
        raise BadInput("--resume: these networks need different inputs; evaluate main.py's and a lab's separately")
    lab = labs.pop()
    transform = (lambda image: lab.VAL(check_cifar_size(image))) if lab else None
    images, labels, class_names = open_images(args, transform=transform)
    opened = [open_one(args, path, one, images, labels, class_names) for path, one in zip(paths, saved)]
    for place, one in enumerate(opened):
        same = [other for other in opened if other.name == one.name]
        one.title = titles[place] if titles else f"{one.name} {same.index(one) + 1}" if len(same) > 1 else one.name
    return opened


def open_one(args: argparse.Namespace, path: str, saved: dict, images: Tensor, labels: Tensor,
             class_names: list[str]) -> Trained:
    name = networks.name_of(saved)
    if lab := networks.lab_of(saved):
        model = lab.build(name, len(class_names))
        checkpoint.load_weights(model, saved["state_dict"], path)
    else:
        conv = networks.convolution_of(saved.get("settings", {}))
        model = build_model(name, len(class_names), images[:1], conv, saved=saved, path=path)
    hw = hardware.set_up(args.device, model, images[:1])
    return Trained(name, name, model, saved, images, labels, class_names, hw, args.batch_size)


def check_cifar_size(image):
    """Returns an image H,W,3; raises BadInput if it is not of CIFAR-10's 32x32 pixels."""
    if image.shape[:2] != (32, 32):
        height, width = image.shape[:2]
        raise BadInput(f"this network takes CIFAR-10's images of 32x32 pixels; there is one of {height}x{width}")
    return image
