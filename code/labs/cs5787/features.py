"""Feature maps of an early, a middle and a late layer, and the first layer's filters as a mosaic.

CS 5787 Homework 2, problems 1 and 3. Of each layer the most diverse maps are shown: the one of largest variance, then
always the one least correlated with those chosen. Each map and each filter is min-max normalised.
"""

import argparse
from collections.abc import Sequence

from torch import Tensor, nn

from extras import explain
from labs import common
from labs.trained import open_trained
from libs import plots
from utils import BadInput, spread


def chosen_maps(model: nn.Module, image: Tensor, layers: Sequence[str] | None,
                count: int) -> tuple[list[dict], dict, dict]:
    """For an image 1,3,H,W: a table row for each map, {layer: maps in [0, 1]} and {layer: captions}."""
    layers = layers or explain.evenly_spaced([*explain.convolutions(model)], 3)
    rows, shown, captions = [], {}, {}
    for layer, output in explain.feature_maps(model, image, layers).items():
        maps = output[0].cpu()
        channels = explain.diverse_channels(maps, count)
        rows += [{"layer": layer, "channel": channel, "of": len(maps),
                  "height": maps.shape[1], "width": maps.shape[2], "smallest": maps[channel].min().item(),
                  "largest": maps[channel].max().item()} for channel in channels]
        shown[layer] = explain.stretched(maps[channels]).numpy()
        captions[layer] = [f"channel {channel}" for channel in channels]
    return rows, shown, captions


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("features", __doc__, resume="one")
    parser.add_argument("--image", type=int, metavar="N", help="index of the validation image (default: 0)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="modules whose outputs to show (default: the "
                        "first, the middle and the last convolution)")
    parser.add_argument("--count", type=common.COUNT, default=5, metavar="N", help="maps of each layer (default: 5)")
    return parser


def run(args: argparse.Namespace) -> None:
    network, = open_trained(args, [args.resume])
    index = args.image if args.image is not None else spread(network.labels, 1)[0].item()
    if not 0 <= index < len(network.images):
        raise BadInput(f"--image {index}: there are the images 0 to {len(network.images) - 1}")
    image = network.hardware.images(network.images[index : index + 1])
    rows, shown, captions = chosen_maps(network.model, image, args.layers, args.count)
    filters = explain.first_filters(network.model)
    label = network.class_names[network.labels[index]]
    title = f"{network.title}: feature maps of image {index} ({label})"
    pictures = {"features": plots.map_grid(network.images[index : index + 1], shown, captions, title),
                "filters": plots.mosaic(filters, 16, f"{network.title}: {len(filters)} filters, "
                                          f"{filters.shape[2]} x {filters.shape[3]}, each stretched")}
    common.publish(args, "features", rows, pictures, image=index)
