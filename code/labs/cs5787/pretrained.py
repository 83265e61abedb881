"""A pretrained network on one photograph: its top-3 categories, or feature maps by depth.

CS 5787 Homework 2, problem 1. The photograph is resized, cropped and normalised as the metadata of the weights says.
Feature maps: five of an early, a middle and a late layer, chosen as in `labs features`.
"""

import argparse
from pathlib import Path

import torch

from labs import common
from labs.cs5787 import imagenet
from labs.cs5787.features import chosen_maps
from libs import plots


def topk(args, network: imagenet.Pretrained, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        probabilities = network.model(pixels).softmax(1)[0]
    best = probabilities.topk(min(args.count or 3, len(probabilities)))
    rows = [{"place": place, "category": network.categories[i], "class": int(i), "probability": p}
            for place, (p, i) in enumerate(zip(best.values.tolist(), best.indices.tolist()), 1)]
    caption = "\n".join(f"{row['category']} {row['probability']:.1%}" for row in rows)
    picture = plots.photo_rows([[pixels[0].cpu()]], [[caption]], (args.photo.name,))
    common.publish(args, "pretrained_topk", rows, {"pretrained_topk": picture}, network=network.title,
                   photo=args.photo.name)


def features(args, network: imagenet.Pretrained, pixels: torch.Tensor) -> None:
    rows, shown, captions = chosen_maps(network.model, pixels, args.layers, args.count or 5)
    picture = plots.map_grid(pixels, shown, captions, f"{args.network}: {args.photo.name}", normalized=False)
    common.publish(args, "pretrained_features", rows, {"pretrained_features": picture}, network=network.title,
                   photo=args.photo.name)


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("pretrained", __doc__, data=False)
    parser.add_argument("what", choices=("topk", "features"), help="top-k categories, or feature maps")
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="an image file")
    parser.add_argument("--count", type=common.COUNT, metavar="N",
                        help="categories (default: 3), or maps of each layer (default: 5)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="layers of the feature maps (default: the "
                        "first, the middle and the last convolution)")
    imagenet.add_flags(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    network = imagenet.open_network(args)
    pixels = network.image(args.photo)[None].to(args.device)
    {"topk": topk, "features": features}[args.what](args, network, pixels)
