"""Targeted adversarial photographs, and their robustness to image transformations. CS 5787 Homework 2, problem 4.

Part 1: noise within --epsilon of each pixel makes the network predict the target. Part 2: horizontal flip, 80 % crop,
30 degree rotation and greyscale of each adversarial photograph, with the clean one as control.

With ImageNet weights: photographs and targets, as `bell_pepper.jpg=space_shuttle`. With --resume, a network of main.py:
correctly classified images of --data, one class each, with their least likely labels as targets.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as T
from torch import Tensor, nn

from extras import attacks
from extras.attacks import Threat
from labs import common
from labs.cs5787 import imagenet
from labs.trained import open_trained
from libs import plots
from libs.arguments import number
from utils import IMAGENET_MEAN, IMAGENET_STD, BadInput, denormalize, spread

PIXEL_RANGE = ([0.0] * 3, [1.0] * 3)


def crop(x: Tensor) -> Tensor:
    """Centre crop of 80 % of height and width, resized to the original size."""
    size = list(x.shape[-2:])
    return T.resize(T.center_crop(x, [round(0.8 * side) for side in size]), size, antialias=True).clamp(0, 1)


TRANSFORMATIONS = {"as it is": lambda x: x, "flipped": T.horizontal_flip, "80 % crop": crop,
           "rotated by 30°": lambda x: T.rotate(x, 30, T.InterpolationMode.BILINEAR),
           "grey": lambda x: T.rgb_to_grayscale(x, num_output_channels=3)}


@dataclass
class Case:
    """Photographs in [0, 1] with their true and target labels, for one network."""

    title: str
    model: nn.Module
    images: Tensor
    truth: list[int]
    targets: list[int]
    categories: list[str]
    label_column: str  # of `truth` in the table: "true", or "seen clean" if it is the prediction for the clean image


def from_photos(args) -> Case:
    """Photographs with ImageNet categories, true labels predicted. Raises BadInput if a file name contradicts them."""
    network = imagenet.open_network(args)
    pairs = [photo.rpartition("=") for photo in args.photos]
    if not pairs or not all(path for path, _, _ in pairs):
        raise BadInput("give photographs with their targets, as bell_pepper.jpg=space_shuttle (or =812)")
    images = torch.stack([network.image(path) for path, _, _ in pairs]).to(args.device)
    with torch.no_grad():
        truth = network.model(images).argmax(1).tolist()
    targets = [network.index(target) for _, _, target in pairs]
    for (path, _, _), label, target in zip(pairs, truth, targets):
        seen, named = network.categories[label], Path(path).stem.lower().replace("_", " ")
        if named != seen.lower() and named in map(str.lower, network.categories):
            raise BadInput(f"{path} is classified as {seen} before any attack: take a photograph that is classified "
                           f"correctly, or another network (or another file name, if it shows no {named})")
        if label == target:
            raise BadInput(f"{path} is classified as {seen} already: name another target")
        print(f"{path} is classified as {seen} before any attack; that counts as its true label")
    return Case(network.title, network.model, images, truth, targets, network.categories, "seen clean")


def from_checkpoint(args) -> Case:
    network, = open_trained(args, [args.resume])
    scores = network.logits()
    correct = (scores.argmax(1) == network.labels).nonzero()[:, 0]
    if not len(correct):
        raise BadInput(f"{args.resume}: classifies none of the {len(scores)} images correctly, so none can be fooled")
    chosen = correct[spread(network.labels[correct], args.count)]
    model = imagenet.Normalized(network.model, IMAGENET_MEAN, IMAGENET_STD).to(args.device).eval()
    return Case(f"{network.title} of {Path(args.data).name}", model,
                denormalize(network.images[chosen]).to(args.device), network.labels[chosen].tolist(),
                scores[chosen].argmin(1).tolist(), network.class_names, "true")


def fool(case: Case, epsilon: float, steps: int) -> Tensor:
    """Adversarial photographs: `steps` steps of PGD towards the target labels."""
    threat = Threat(epsilon, "targeted", steps=steps, step_size=None, valid=PIXEL_RANGE)
    device = case.images.device
    truth, targets = (torch.tensor(labels, device=device) for labels in (case.truth, case.targets))
    return attacks.attack(threat, case.model, case.images, truth, targets).images


def table(case: Case, adversarial: Tensor) -> tuple[list[dict], dict]:
    """A row for each photograph, clean and adversarial, under each transformation; and these images with captions."""
    rows, shown = [], {}
    for kind, images in (("clean", case.images), ("adversarial", adversarial)):
        for change, apply in TRANSFORMATIONS.items():
            changed = apply(images)
            with torch.no_grad():
                scores = case.model(changed).softmax(1).cpu()
            for i, score in enumerate(scores):
                predicted = int(score.argmax())
                rows.append({"photo": i + 1, "kind": kind, "change": change,
                             case.label_column: case.categories[case.truth[i]],
                             "target": case.categories[case.targets[i]], "seen": case.categories[predicted],
                             "probability": score[predicted].item(), "of the truth": score[case.truth[i]].item(),
                             "of the target": score[case.targets[i]].item()})
                shown[i, kind, change] = changed[i].cpu(), f"{rows[-1]['seen'][:22]}\n{rows[-1]['probability']:.0%}"
    return rows, shown


def discuss(rows: list[dict]) -> list[str]:
    """Summarise the table, one sentence for each transformation."""
    sentences = []
    for change in TRANSFORMATIONS:
        clean, attacked = ([row for row in rows if (row["kind"], row["change"]) == (kind, change)]
                           for kind in ("clean", "adversarial"))
        count = len(clean)
        column = next(name for name in ("true", "seen clean") if name in clean[0])
        right, still = (sum(row["seen"] == row[column] for row in some) for some in (clean, attacked))
        fooled = sum(row["seen"] == row["target"] for row in attacked)
        mean = sum(row["of the target"] for row in attacked) / count
        sentences.append(f"{change}: {right} of {count} clean photographs still with their label; of the adversarial "
                         f"ones {fooled} with the target's (mean probability {mean:.0%}), {still} with their own, "
                         f"{count - fooled - still} with another")
    return sentences


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("fooling", __doc__, data=False)
    parser.add_argument("photos", nargs="*", metavar="PHOTO=TARGET", help="photographs and their target categories: "
                        "names or indices of ImageNet's")
    imagenet.add_flags(parser)
    parser.add_argument("--epsilon", type=number(float, 0, 255, above=True), default=4.0, metavar="E",
                        help="L-inf bound, in pixel levels of 255 (default: 4)")
    parser.add_argument("--steps", type=common.COUNT, default=40, metavar="N", help="backward passes (default: 40)")
    parser.add_argument("--resume", metavar="PATH", help="attack a checkpoint of main.py instead, on images of --data")
    parser.add_argument("--data", metavar="DIR", help="with --resume: data, as for main.py")
    parser.add_argument("--count", type=common.COUNT, default=4, metavar="N", help="with --resume: images (default: 4)")
    parser.set_defaults(images=None, batch_size=100)
    return parser


def run(args: argparse.Namespace) -> None:
    if bool(args.resume) != bool(args.data):
        raise BadInput("--resume PATH and --data DIR go together")
    if args.resume and args.photos:
        raise BadInput("give photographs, or --resume PATH and --data DIR, not both")
    case = from_checkpoint(args) if args.resume else from_photos(args)
    epsilon = args.epsilon / 255
    adversarial = fool(case, epsilon, args.steps)
    rows, shown = table(case, adversarial)
    noise, count = (adversarial - case.images).cpu(), len(case.images)
    firsts = [(case.images[i].cpu(), 0.5 + noise[i] / (2 * epsilon), adversarial[i].cpu()) for i in range(count)]
    captions = [(shown[i, "clean", "as it is"][1], f"at most {args.epsilon:g} of 255\nshown {0.5 / epsilon:.0f} x",
                 shown[i, "adversarial", "as it is"][1]) for i in range(count)]
    keys = [(i, kind) for i in range(count) for kind in ("clean", "adversarial")]
    pictures = {"fooling": plots.photo_rows(firsts, captions, ("original", "noise", "noise + original"),
                                              f"{case.title}: at most {args.epsilon:g} of 255 levels"),
                "fooling_changes": plots.photo_rows(
                    [[shown[(*key, change)][0] for change in TRANSFORMATIONS] for key in keys],
                    [[shown[(*key, change)][1] for change in TRANSFORMATIONS] for key in keys],
                    tuple(TRANSFORMATIONS), case.title, [kind for _, kind in keys])}
    text = discuss(rows)
    common.publish(args, "fooling", rows, pictures, network=case.title, epsilon=args.epsilon, discussion=text)
    print(*text, sep="\n")
