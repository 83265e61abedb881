"""Classify photographs of your own: top-5 categories, saliency, and the same after an attack.

Photographs in any format that OpenCV reads, under the validation transform. `--resume` is a checkpoint with class
names, as those in weights/ and of main.py.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from labs import common
from labs.trained import Trained
from libs import checkpoint, hardware, networks, plots
from libs.run import build_model
from utils import BadInput, denormalize, load_image

HEADS = "photograph", "saliency", "adversarial", "saliency after"
SHOWN = 5


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("classify", __doc__, data=False, resume="one")
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image files")
    common.add_threat(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    threat = common.threat_of(args)
    network = open_network(args)
    adversarial, attacker = network.adversarial(threat, args.reference)
    before, after = (network.logits(images).softmax(1) for images in (network.images, adversarial))
    rows = [{"photograph": Path(photo).name, "image": kind, "rank": rank, "category": name, "probability": probability}
            for photo, *both in zip(args.photos, before, after) for kind, scores in zip(("clean", "adversarial"), both)
            for rank, (name, probability) in enumerate(top(scores, network.class_names), start=1)]
    captions = [["\n".join(f"{name} {p:.0%}" for name, p in top(b, network.class_names)), "",
                 "\n".join(f"{name} {p:.0%}" for name, p in top(a, network.class_names)), ""]
                for b, a in zip(before, after)]
    pictures = zip(denormalize(network.images), overlays(network, network.images), denormalize(adversarial),
                   overlays(network, adversarial))
    figure = plots.photo_rows(list(pictures), captions, HEADS, f"{network.title}, and an attack that changes no pixel "
                              f"by more than {threat.epsilon * 57.6:.0f} of 255 levels")
    common.publish(args, "classify", rows, {"classify": figure}, threat=vars(threat), attacked_by=attacker)


def open_network(args: argparse.Namespace) -> Trained:
    """The network of --resume with the photographs as its images. Raises BadInput."""
    saved = checkpoint.load(args.resume)
    if "classes" not in saved:
        raise BadInput(f"{args.resume}: does not name its classes; write a file that does with: python -m labs export "
                       f"DIR --resume {args.resume} --file FILE")
    transform, name = networks.student_transforms("val"), networks.name_of(saved)
    images = torch.stack([transform(load_image(photo)) for photo in args.photos])
    model = build_model(name, len(saved["classes"]), images[:1], networks.convolution_of(saved.get("settings", {})),
                        saved=saved, path=args.resume)
    unknown = torch.zeros(len(images), dtype=torch.long)
    network = Trained(name, name, model, saved, images, unknown, saved["classes"],
                      hardware.set_up(args.device, model, images[:1]), batch=50)
    network.labels = network.logits().argmax(1)  # an untargeted attack leads away from what the network says
    return network


def top(scores: Tensor, names: list[str]) -> list[tuple[str, float]]:
    """The most likely categories with their probabilities."""
    best = scores.topk(min(SHOWN, len(names)))
    return [(names[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist())]


def overlays(network: Trained, images: Tensor) -> list[Tensor]:
    """Images overlaid with their saliency, 3,H,W in [0, 1], by the student's GradAttention and vis_grad_attention."""
    explain = networks.from_student("default_attention")(nn.CrossEntropyLoss()).explain
    overlay = networks.from_student("default_visfunction")
    maps = explain(network.model, network.hardware.images(images)).cpu()
    return [overlay(image[None], vis_output=heat[None]) for image, heat in zip(images, maps)]
