"""A pretrained network on one photograph: its first three guesses, or feature maps by depth. Sheet 002, problem 1.

The photograph is resized, cropped and normalised as the metadata of the weights says. Feature maps: five early, five in
the middle, five late; which ones is chosen as in labs.features, so always the same.
"""

from pathlib import Path

import torch

import figures
from labs import common, imagenet
from labs.features import chosen_maps


def topk(args, network: imagenet.Pretrained, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        probabilities = network.model(pixels).softmax(1)[0]
    best = probabilities.topk(min(args.count or 3, len(probabilities)))
    rows = [{"place": place, "category": network.categories[i], "class": int(i), "probability": p}
            for place, (p, i) in enumerate(zip(best.values.tolist(), best.indices.tolist()), 1)]
    caption = "\n".join(f"{row['category']} {row['probability']:.1%}" for row in rows)
    picture = figures.photo_rows([[pixels[0].cpu()]], [[caption]], (args.photo.name,))
    common.publish(args, "pretrained_topk", rows, {"pretrained_topk": picture}, network=network.title,
                   photo=args.photo.name)


def features(args, network: imagenet.Pretrained, pixels: torch.Tensor) -> None:
    rows, shown, captions = chosen_maps(network.model, pixels, args.layers, args.count or 5)
    picture = figures.map_grid(pixels, shown, captions, f"{args.network}: {args.photo.name}", normalized=False)
    common.publish(args, "pretrained_features", rows, {"pretrained_features": picture}, network=network.title,
                   photo=args.photo.name)


def job(args) -> None:
    network = imagenet.open_network(args)
    pixels = network.image(args.photo)[None].to(args.device)
    {"topk": topk, "features": features}[args.what](args, network, pixels)


def main(argv=None) -> None:
    parser = common.parser("pretrained", __doc__, data=False)
    parser.add_argument("what", choices=("topk", "features"), help="the first guesses, or feature maps")
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="an image file")
    parser.add_argument("--count", type=common.COUNT, metavar="N",
                        help="guesses (default: 3), or maps of each layer (default: 5)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="layers of the feature maps (default: the "
                        "first, the middle and the last convolution)")
    imagenet.add_flags(parser)
    common.run("pretrained", job, parser, argv)


if __name__ == "__main__":
    main()
