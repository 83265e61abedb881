"""Feature maps early, in the middle and late in a network, and its first filters as a mosaic.

Sheet 002, problems 1 and 3. Of each layer those maps are shown that differ most from each other: the loudest first,
then always the one that is least like those before; so the choice is the same each time. Each map, and each filter over
its three channels, is stretched to its own full contrast.
"""


import explain
from labs import common
from pictures import spread
from utils import BadInput


def job(args) -> None:
    network, = common.open_trained(args, [args.resume])
    index = args.image if args.image is not None else spread(network.labels, 1)[0].item()
    if not 0 <= index < len(network.images):
        raise BadInput(f"--image {index}: there are the images 0 to {len(network.images) - 1}")
    image = network.machine.images(network.images[index : index + 1])
    layers = args.layers or explain.at_depths([*explain.convolutions(network.model)], 3)
    maps = {layer: found[0].cpu() for layer, found in explain.feature_maps(network.model, image, layers).items()}
    chosen = {layer: explain.most_different(found, args.count) for layer, found in maps.items()}
    rows = [{"layer": layer, "channel": channel, "of": len(maps[layer]), "height": maps[layer].shape[1],
             "width": maps[layer].shape[2], "smallest": maps[layer][channel].min().item(),
             "largest": maps[layer][channel].max().item()} for layer in layers for channel in chosen[layer]]
    shown = {layer: explain.stretched(maps[layer][chosen[layer]]).numpy() for layer in layers}
    captions = {layer: [f"channel {channel}" for channel in chosen[layer]] for layer in layers}
    filters = explain.first_filters(network.model)
    seen = network.names[network.labels[index]]
    title = f"{network.title}: feature maps of image {index} ({seen})"
    pictures = {"features": common.figures.map_grid(network.images[index : index + 1], shown, captions, title),
                "filters": common.figures.mosaic(filters, 16, f"{network.title}: {len(filters)} filters, "
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
