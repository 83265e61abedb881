"""Does adversarial training make a network robust? From one checkpoint: trained on attacked images, or as long without.

Document 001, section 5.3, and document 000, table 3: a network, the same after N more epochs on adversarial images, and
a control after N more epochs on clean ones; clean and attacked, by the sheet's attack and by a strong one.
"""

import checkpoint
import models
from attacks import Threat, strong
from labs import attacked, common
from utils import BadInput

WAYS = {"sheet": ("--model", "adv-simplenet"), "pgd": ("--adversarial", "pgd"), "fast": ("--adversarial", "fast")}


def train(args) -> dict[str, str]:
    """{what tables call it: checkpoint} of the network before, the control, and the robust one."""
    name = models.name_of(checkpoint.load(args.resume))
    plain = "simplenet" if name == "adv-simplenet" else name  # the control must not attack its images
    if args.by == "sheet" and plain != "simplenet":
        raise BadInput(f"--by sheet trains AdvSimpleNet, and {args.resume} is {name}; take --by pgd or --by fast")
    flags = "--resume", args.resume, "--start-epoch", "0", "--warmup", "1"
    ways = WAYS[args.by] if args.by == "sheet" else (*WAYS[args.by], "--model", plain)
    folders = {f"{name} + {args.epochs} clean epochs": common.train(args, *flags, "--model", plain),
               f"{name} + {args.epochs} adversarial": common.train(args, *flags, *ways)}
    return {name: args.resume, **{title: str(folder / "models" / checkpoint.LAST) for title, folder in folders.items()}}


def job(args) -> None:
    networks = train(args)
    opened = common.open_trained(args, list(networks.values()), list(networks))
    rows = []
    for threat, name in ((Threat(0.1), "sheet's"), (strong(0.1), "strong")):
        rows += [{"attack": name, **attacked.measure(network, threat)} for network in opened]
    title = f"{len(opened[0].labels):,} validation images; sheet's attack"
    pictures = {"robust": attacked.figure(rows[:3], f"{title}: {attacked.describe(Threat(0.1))}"),
                "robust_strong": attacked.figure(rows[3:], f"strong attack: {attacked.describe(strong(0.1))}")}
    common.publish(args, "robust", rows, pictures, by=args.by, epochs=args.epochs, seed=args.seed)


def main(argv=None) -> None:
    parser = common.parser("robust", __doc__, resume="one", trains={"epochs": 10, "lr": 0.01})
    parser.add_argument("--by", choices=WAYS, default="sheet", help="sheet: AdvSimpleNet; pgd, fast: --adversarial of "
                        "main.py, for any network (default: sheet)")
    common.run("robust", job, parser, argv)


if __name__ == "__main__":
    main()
