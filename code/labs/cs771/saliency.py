"""Saliency maps of correctly and of wrongly classified validation images.

Figure 9 of the 2019 report and figure 12 of the 2023 report (docs/references.md). The map is `GradAttention` of
student_code.py: maximum over the channels of the absolute gradient of the loss. `--logit` takes the gradient of the
predicted label's logit instead.
"""

import argparse

import torch
from torch import nn

from extras import explain
from labs import common
from labs.trained import Trained, open_trained
from libs import networks, plots
from utils import spread


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("saliency", __doc__, resume="one")
    parser.add_argument("--count", type=common.COUNT, default=6, metavar="N", help="images of each kind (default: 6)")
    parser.add_argument("--logit", action="store_true", help="gradient of the predicted label's logit, not of the loss")
    return parser


def run(args: argparse.Namespace) -> None:
    network, = open_trained(args, [args.resume])
    scores = network.logits().softmax(1)
    predicted = scores.argmax(1)
    of = "logit" if args.logit else "loss"
    rows, pictures = [], {}
    for kind, members in (("right", predicted == network.labels), ("wrong", predicted != network.labels)):
        indices = members.nonzero()[:, 0]
        if not len(indices):
            print(f"no image is {kind}ly classified; skipping that figure")
            continue
        chosen = indices[spread(network.labels[indices], args.count)]
        images, maps = network.images[chosen], saliency(network, network.images[chosen], args.logit)
        names = network.class_names
        new_rows = [{"kind": kind, "true": names[network.labels[i]], "seen": names[predicted[i]],
                     "probability": scores[i].max().item(), "top tenth": concentration(m)}
                    for i, m in zip(chosen, maps)]
        captions = [f"true: {row['true']}\nseen: {row['seen']} {row['probability']:.0%}" for row in new_rows]
        overlay = networks.from_student("default_visfunction")
        blended = torch.stack([overlay(x[None], vis_output=m[None]) for x, m in zip(images, maps)])
        title = f"{network.title}, classified {kind}ly: image, |gradient of the {of}|, overlay"
        pictures[f"saliency_{kind}"] = plots.overlay_rows(images, maps, blended, captions, title)
        rows += new_rows
    common.publish(args, "saliency", rows, pictures, of=of)


def saliency(network: Trained, images: torch.Tensor, logit: bool) -> torch.Tensor:
    """Saliency maps N,1,H,W, on the CPU."""
    images = network.hardware.images(images)
    if logit:
        return explain.saliency(network.model, images).cpu()
    return networks.from_student("default_attention")(nn.CrossEntropyLoss()).explain(network.model, images).cpu()


def concentration(heat: torch.Tensor) -> float:
    """Fraction of a map's sum in the top 10 % of its pixels: 0.1 for a constant map, at most 1."""
    values = heat.flatten().sort(descending=True).values
    return (values[: -(-len(values) // 10)].sum() / values.sum().clamp_min(1e-12)).item()
