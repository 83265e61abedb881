"""Class activation maps of validation images: input, map, and their blend, bilinear and nearest.

CNN Homework 3, deliverable 5. SimpleViT has no CAM; its figure shows token saliency instead: the norm of the predicted
logit's gradient with respect to each token's embedding.
"""

import argparse

from extras import explain
from labs import common
from labs.trained import Trained, open_trained
from libs import plots
from utils import spread


def maps_of(network: Trained, images):
    """Maps N,h,w on the CPU, and their name. Raises BadInput for a network that supports neither kind."""
    images = network.hardware.images(images)
    if network.name == "vit":
        return explain.token_saliency(network.model, images).cpu(), "token saliency"
    return explain.class_activation_maps(network.model, images)[0].cpu(), "CAM"


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("cam", __doc__, resume="one")
    parser.add_argument("--count", type=common.COUNT, default=5, metavar="N", help="images (default: 5)")
    return parser


def run(args: argparse.Namespace) -> None:
    network, = open_trained(args, [args.resume])
    scores = network.logits().softmax(1)
    chosen = spread(network.labels, args.count)
    maps, name = maps_of(network, network.images[chosen])
    rows = [{"true": network.class_names[network.labels[i]], "seen": network.class_names[scores[i].argmax()],
             "probability": scores[i].max().item(), "map mean": m.mean().item(), "map largest": m.max().item()}
            for i, m in zip(chosen, maps)]
    captions = [f"true: {row['true']}\nseen: {row['seen']} {row['probability']:.0%}" for row in rows]
    picture = plots.map_rows(network.images[chosen], maps, captions, name,
                               f"{network.title}: {name} of the predicted label")
    common.publish(args, "cam", rows, {"cam": picture}, kind=name)
