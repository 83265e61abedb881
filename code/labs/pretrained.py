"""A pretrained network on one photograph: its first three guesses, or feature maps by depth. Sheet 002, problem 1.

The photograph is resized, cropped and normalised as the metadata of the weights says. Feature maps: five early, five in
the middle, five late; which ones is chosen as in labs.features, so always the same.
"""

import torch

import explain
from labs import common, imagenet


def topk(args, network: imagenet.Pretrained, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        probabilities = network.model(pixels).softmax(1)[0]
    best = probabilities.topk(args.count or 3)
    rows = [{"place": place, "category": network.categories[i], "class": int(i), "probability": p}
            for place, (p, i) in enumerate(zip(best.values.tolist(), best.indices.tolist()), 1)]
    caption = "\n".join(f"{row['category']} {row['probability']:.1%}" for row in rows)
    picture = common.figures.photo_rows([[pixels[0].cpu()]], [[caption]], (args.photo.name,))
    common.publish(args, "pretrained_topk", rows, {"pretrained_topk": picture}, network=network.title,
                   photo=args.photo.name)


def features(args, network: imagenet.Pretrained, pixels: torch.Tensor) -> None:
    layers = args.layers or explain.at_depths([*explain.convolutions(network.model)], 3)
    maps = {layer: found[0].cpu() for layer, found in explain.feature_maps(network.model, pixels, layers).items()}
    chosen = {layer: explain.most_different(found, args.count or 5) for layer, found in maps.items()}
    rows = [{"layer": layer, "channel": channel, "of": len(maps[layer]), "height": maps[layer].shape[1],
             "width": maps[layer].shape[2]} for layer in layers for channel in chosen[layer]]
    shown = {layer: explain.stretched(maps[layer][chosen[layer]]).numpy() for layer in layers}
    captions = {layer: [f"channel {channel}" for channel in chosen[layer]] for layer in layers}
    picture = common.figures.map_grid(pixels, shown, captions, f"{args.network}: {args.photo.name}", normalized=False)
    common.publish(args, "pretrained_features", rows, {"pretrained_features": picture}, network=network.title,
                   photo=args.photo.name)


def job(args) -> None:
    network = imagenet.open_network(args)
    pixels = network.image(args.photo)[None].to(args.device)
    {"topk": topk, "features": features}[args.what](args, network, pixels)


def main(argv=None) -> None:
    parser = common.parser("pretrained", __doc__, data=False)
    parser.add_argument("what", choices=("topk", "features"), help="the first guesses, or feature maps")
    parser.add_argument("photo", type=common.Path, metavar="PHOTO", help="an image file")
    parser.add_argument("--count", type=common.COUNT, metavar="N",
                        help="guesses (default: 3), or maps of each layer (default: 5)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="layers of the feature maps (default: the "
                        "first, the middle and the last convolution)")
    imagenet.add_flags(parser)
    common.run("pretrained", job, parser, argv)


if __name__ == "__main__":
    main()
