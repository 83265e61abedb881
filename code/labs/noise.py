"""Images under attack, close up: original, noise, ten times the noise, adversarial, with labels and probabilities.

Document 000, figures 10 and 11, and 001, figures 13 to 15.
"""


import figures
from labs import attacked, common
from pictures import spread
from utils import BadInput


def job(args) -> None:
    threat = common.threat_of(args)
    network, = common.open_trained(args, [args.resume])
    before = network.logits().softmax(1)
    known = (before.argmax(1) == network.labels).nonzero()[:, 0]  # a mistake cannot be fooled
    if not len(known):
        raise BadInput(f"{args.resume}: none of the {len(before)} images is recognised: nothing to be fooled")
    chosen = known[spread(network.labels[known], args.count)]
    network.images, network.labels, before = network.images[chosen], network.labels[chosen], before[chosen]
    images = network.attack(threat).images
    after = network.logits(images).softmax(1)
    change = (images - network.images).abs().flatten(1).amax(1)
    rows = [{"true": network.names[label],
             "seen before": network.names[b.argmax()], "probability before": b.max().item(),
             "seen after": network.names[a.argmax()], "probability after": a.max().item(), "largest change": c.item()}
            for label, b, a, c in zip(network.labels.tolist(), before, after, change)]
    captions = [[f"{row[f'seen {when}']} {row[f'probability {when}']:.0%}" for row in rows]
                for when in ("before", "after")]
    title = f"{network.title}: {attacked.describe(threat)}"
    picture = figures.attack_rows(network.images, images, *captions, title)
    common.publish(args, "noise", rows, {"noise": picture}, threat=vars(threat))


def main(argv=None) -> None:
    parser = common.parser("noise", __doc__, resume="one")
    parser.add_argument("--count", type=common.COUNT, default=5, metavar="N",
                        help="images shown, which the network recognises before the attack (default: 5)")
    common.add_threat(parser)
    common.run("noise", job, parser, argv)


if __name__ == "__main__":
    main()
