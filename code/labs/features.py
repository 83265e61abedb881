"""Feature maps early, in the middle and late in a network, and its first filters as a mosaic.

Sheet 002, problems 1 and 3. Of each layer those maps are shown that differ most from each other: the loudest first,
then always the one that is least like those before; so the choice is the same each time. Each map, and each filter over
its three channels, is stretched to its own full contrast.
"""


from collections.abc import Sequence

from torch import Tensor, nn

import explain
import figures
from labs import common
from pictures import spread
from utils import BadInput


def chosen_maps(model: nn.Module, image: Tensor, layers: Sequence[str] | None,
                count: int) -> tuple[list[dict], dict, dict]:
    """Of one image 1,3,H,W: a row of the table for each map, and {layer: maps in [0, 1]}, {layer: captions}."""
    layers = layers or explain.at_depths([*explain.convolutions(model)], 3)
    rows, shown, captions = [], {}, {}
    for layer, found in explain.feature_maps(model, image, layers).items():
        maps = found[0].cpu()
        channels = explain.most_different(maps, count)
        rows += [{"layer": layer, "channel": channel, "of": len(maps),
                  "height": maps.shape[1], "width": maps.shape[2], "smallest": maps[channel].min().item(),
                  "largest": maps[channel].max().item()} for channel in channels]
        shown[layer] = explain.stretched(maps[channels]).numpy()
        captions[layer] = [f"channel {channel}" for channel in channels]
    return rows, shown, captions


def job(args) -> None:
    network, = common.open_trained(args, [args.resume])
    index = args.image if args.image is not None else spread(network.labels, 1)[0].item()
    if not 0 <= index < len(network.images):
        raise BadInput(f"--image {index}: there are the images 0 to {len(network.images) - 1}")
    image = network.machine.images(network.images[index : index + 1])
    rows, shown, captions = chosen_maps(network.model, image, args.layers, args.count)
    filters = explain.first_filters(network.model)
    seen = network.names[network.labels[index]]
    title = f"{network.title}: feature maps of image {index} ({seen})"
    pictures = {"features": figures.map_grid(network.images[index : index + 1], shown, captions, title),
                "filters": figures.mosaic(filters, 16, f"{network.title}: {len(filters)} filters, "
                                          f"{filters.shape[2]} x {filters.shape[3]}, each stretched")}
    common.publish(args, "features", rows, pictures, image=index)


def main(argv=None) -> None:
    parser = common.parser("features", __doc__, resume="one")
    parser.add_argument("--image", type=int, metavar="N", help="which validation image, from 0 (default: the first)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="modules whose outputs to show (default: the "
                        "first, the middle and the last convolution)")
    parser.add_argument("--count", type=common.COUNT, default=5, metavar="N", help="maps of each layer (default: 5)")
    common.run("features", job, parser, argv)


if __name__ == "__main__":
    main()
