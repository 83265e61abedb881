"""Adversarial fine-tuning of a checkpoint against clean fine-tuning: clean and robust accuracy.

Section 5.3 of the 2023 report and table 3 of the 2019 report (docs/references.md): a checkpoint, the same fine-tuned
adversarially for N epochs, and a control fine-tuned on clean images for N epochs; under the assignment's attack and
under a stronger one.
"""

import argparse

from extras.attacks import Threat, strong
from labs import common
from labs.cs771 import attacked
from labs.trained import open_trained
from libs import checkpoint
from libs.networks import name_of
from utils import ASSIGNMENT_ATTACK, BadInput

METHODS = {"sheet": ("--model", "adv-simplenet"), "pgd": ("--adversarial", "pgd"), "fast": ("--adversarial", "fast")}


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("robust", __doc__, resume="one", trains={"epochs": 10, "lr": 0.01})
    parser.add_argument("--by", choices=METHODS, default="sheet", help="sheet: AdvSimpleNet; pgd, fast: --adversarial "
                        "of main.py, for any network (default: sheet)")
    common.add_reference(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    checkpoints = train(args)
    networks = open_trained(args, list(checkpoints.values()), list(checkpoints))
    epsilon = ASSIGNMENT_ATTACK["epsilon"]
    threats = {"sheet's": Threat(epsilon), "strong": strong(epsilon)}
    rows = {name: [{"attack": name, **attacked.measure(network, threat, args.reference)} for network in networks]
            for name, threat in threats.items()}
    count = f"{len(networks[0].labels):,} validation images"
    pictures = {"robust": attacked.figure(rows["sheet's"], f"{count}; {attacked.describe(Threat(epsilon))}"),
                "robust_strong": attacked.figure(rows["strong"], f"{count}; {attacked.describe(strong(epsilon))}")}
    common.publish(args, "robust", [*rows["sheet's"], *rows["strong"]], pictures, by=args.by, epochs=args.epochs,
                   seed=args.seed)


def train(args: argparse.Namespace) -> dict[str, str]:
    """{title: checkpoint} of the original network, the control, and the adversarially trained one."""
    name = name_of(checkpoint.load(args.resume))
    plain = "simplenet" if name == "adv-simplenet" else name  # the control must not attack its images
    if args.by == "sheet" and plain != "simplenet":
        raise BadInput(f"--by sheet trains AdvSimpleNet, and {args.resume} is {name}; take --by pgd or --by fast")
    flags = "--resume", args.resume, "--start-epoch", "0", "--warmup", "1"
    method = METHODS[args.by] if args.by == "sheet" else (*METHODS[args.by], "--model", plain)
    folders = {f"{name} + {args.epochs} clean epochs": common.run_main(args, *flags, "--model", plain),
               f"{name} + {args.epochs} adversarial": common.run_main(args, *flags, *method)}
    return {name: args.resume, **{title: str(folder / "models" / checkpoint.LAST) for title, folder in folders.items()}}
