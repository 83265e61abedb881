"""Saliency maps of validation images that are classified rightly and, apart from them, of those that are not.

Document 000, figure 9, and 001, figure 12. The map is that of the student module, `GradAttention`: the largest gradient
of the loss over the channels. `--logit` takes the gradient of the predicted label's logit instead.
"""

import torch
from torch import nn

import explain
import figures
import models
from labs import common
from pictures import spread


def job(args) -> None:
    network, = common.open_trained(args, [args.resume])
    scores = network.logits().softmax(1)
    said = scores.argmax(1)
    of = "logit" if args.logit else "loss"
    rows, pictures = [], {}
    for kind, mine in (("right", said == network.labels), ("wrong", said != network.labels)):
        indices = mine.nonzero()[:, 0]
        if not len(indices):
            print(f"no image is classified {'rightly' if kind == 'right' else 'wrongly'}: no picture of those")
            continue
        chosen = indices[spread(network.labels[indices], args.count)]
        images, maps = network.images[chosen], saliency(network, network.images[chosen], args.logit)
        few = [{"kind": kind, "true": network.names[network.labels[i]], "seen": network.names[said[i]],
                "probability": scores[i].max().item(), "loudest tenth": concentration(m)} for i, m in zip(chosen, maps)]
        captions = [f"true: {row['true']}\nseen: {row['seen']} {row['probability']:.0%}" for row in few]
        overlay = models.from_student("default_visfunction")
        blended = torch.stack([overlay(x[None], vis_output=m[None]) for x, m in zip(images, maps)])
        title = f"{network.title}, classified {kind}ly: image, |gradient of the {of}|, overlay"
        pictures[f"saliency_{kind}"] = figures.overlay_rows(images, maps, blended, captions, title)
        rows += few
    common.publish(args, "saliency", rows, pictures, of=of)


def saliency(network: common.Trained, images: torch.Tensor, logit: bool) -> torch.Tensor:
    """N,1,H,W on the CPU."""
    images = network.machine.images(images)
    if logit:
        return explain.saliency(network.model, images).cpu()
    return models.from_student("default_attention")(nn.CrossEntropyLoss()).explain(network.model, images).cpu()


def concentration(heat: torch.Tensor) -> float:
    """The share of a map that lies in its loudest tenth of all pixels: 0.1 if it is the same everywhere, at most 1."""
    values = heat.flatten().sort(descending=True).values
    return (values[: -(-len(values) // 10)].sum() / values.sum().clamp_min(1e-12)).item()


def main(argv=None) -> None:
    parser = common.parser("saliency", __doc__, resume="one")
    parser.add_argument("--count", type=common.COUNT, default=6, metavar="N", help="images of each kind (default: 6)")
    parser.add_argument("--logit", action="store_true", help="gradient of the predicted label's logit, not of the loss")
    common.run("saliency", job, parser, argv)


if __name__ == "__main__":
    main()
