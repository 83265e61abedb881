"""Adversarial examples: original, noise, ten times the noise, adversarial, with labels and probabilities.

Figures 10 and 11 of the 2019 report and 13 to 15 of the 2023 report (docs/references.md). The images are ones that the
network classifies correctly.
"""

import argparse

from labs import common
from labs.cs771.attacked import describe
from labs.trained import open_trained
from libs import plots
from utils import BadInput, spread


def get_args_parser(name: str = "noise", doc: str = __doc__, count: int = 5) -> argparse.ArgumentParser:
    parser = common.parser(name, doc, resume="one")
    parser.add_argument("--count", type=common.COUNT, default=count, metavar="N",
                        help="images shown (default: %(default)s)")
    common.add_threat(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    threat = common.threat_of(args)
    network, = open_trained(args, [args.resume])
    before = network.logits().softmax(1)
    correct = (before.argmax(1) == network.labels).nonzero()[:, 0]  # only these can be fooled
    if not len(correct):
        raise BadInput(f"{args.resume}: classifies none of the {len(before)} images correctly, so none can be fooled")
    chosen = correct[spread(network.labels[correct], args.count)]
    network.images, network.labels, before = network.images[chosen], network.labels[chosen], before[chosen]
    images, attacker = network.adversarial(threat, args.reference)
    after = network.logits(images).softmax(1)
    change = (images - network.images).abs().flatten(1).amax(1)
    names = network.class_names
    rows = [{"true": names[label], "seen before": names[b.argmax()], "probability before": b.max().item(),
             "seen after": names[a.argmax()], "probability after": a.max().item(), "largest change": c.item()}
            for label, b, a, c in zip(network.labels.tolist(), before, after, change)]
    captions = [[f"{row[f'seen {when}']} {row[f'probability {when}']:.0%}" for row in rows]
                for when in ("before", "after")]
    picture = plots.attack_rows(network.images, images, *captions, f"{network.title}: {describe(threat)}")
    common.publish(args, "noise", rows, {"noise": picture}, threat=vars(threat), attacked_by=attacker)
