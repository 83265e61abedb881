"""Class activation maps of validation images: input, map, and the blend of both, bilinear and nearest.

Sheet 004, deliverable 5. Where a network has no such maps but tokens, as SimpleViT, it shows the tokens' saliency, and
says so: the length of the predicted logit's gradient by each token's embedding.
"""

import explain
import figures
from labs import common
from pictures import spread


def maps_of(network: common.Trained, images):
    """Maps N,h,w on the CPU, and what they are called. Raises BadInput for a network that has neither kind."""
    images = network.machine.images(images)
    if network.name == "vit":
        return explain.token_saliency(network.model, images).cpu(), "token saliency"
    return explain.class_activation_maps(network.model, images)[0].cpu(), "CAM"


def job(args) -> None:
    network, = common.open_trained(args, [args.resume])
    scores = network.logits().softmax(1)
    chosen = spread(network.labels, args.count)
    maps, name = maps_of(network, network.images[chosen])
    rows = [{"true": network.names[network.labels[i]], "seen": network.names[scores[i].argmax()],
             "probability": scores[i].max().item(), "map mean": m.mean().item(), "map largest": m.max().item()}
            for i, m in zip(chosen, maps)]
    captions = [f"true: {row['true']}\nseen: {row['seen']} {row['probability']:.0%}" for row in rows]
    picture = figures.map_rows(network.images[chosen], maps, captions, name,
                               f"{network.title}: {name} of the predicted label")
    common.publish(args, "cam", rows, {"cam": picture}, kind=name)


def main(argv=None) -> None:
    parser = common.parser("cam", __doc__, resume="one")
    parser.add_argument("--count", type=common.COUNT, default=5, metavar="N", help="images (default: 5)")
    common.run("cam", job, parser, argv)


if __name__ == "__main__":
    main()
