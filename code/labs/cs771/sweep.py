"""PGD over steps, step size and epsilon, least against most likely label: table, bars and curves.

The settings of table 2 of the 2023 report (docs/references.md); its figure 16 is sweep.png. sweep_curves.png shows
accuracy over epsilon and over steps. PGDAttack of student_code.py supports neither the most likely label nor a
label chosen once; extras/attacks.py runs those (column "attacked by").
"""

import argparse
from collections.abc import Sequence

from matplotlib.figure import Figure

from extras.attacks import Threat, strong
from labs import common
from labs.trained import Trained, open_trained
from libs import plots
from libs.metrics import top_k
from utils import ASSIGNMENT_ATTACK

SETTINGS = ((10, 0.01, 0.1), (50, 0.01, 0.1), (10, 0.1, 0.1), (10, 0.01, 10.0), (10, 0.1, 10.0), (50, 0.1, 10.0))
LABELS = ("least-likely", "most-likely")
EPSILONS = (0.0, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("sweep", __doc__, resume="one")
    parser.add_argument("--quick", action="store_true", help="the first setting only, and shorter curves")
    common.add_reference(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    network, = open_trained(args, [args.resume])
    rows = measure(network, SETTINGS[:1] if args.quick else SETTINGS, args.reference)
    clean = {f"top-{k}": top_k(network.logits(), network.labels, k).item() for k in (1, 5)}
    title = f"{network.title}, {len(network.labels):,} images, clean top-1 {clean['top-1']:.1f} %"
    epsilons, steps = (EPSILONS[::2], 10) if args.quick else (EPSILONS, 50)
    epsilon = ASSIGNMENT_ATTACK["epsilon"]
    shown = {"10 steps of epsilon / 4 (strong: 20)": over_epsilon(network, epsilons),
             f"epsilon {epsilon}, step {ASSIGNMENT_ATTACK['step_size']}; best iterate so far":
                 over_steps(network, epsilon, steps)}
    pictures = {"sweep": bars(rows, title),
                "sweep_curves": plots.lines(shown, ("epsilon (normalised units)", "steps"), "top-1 accuracy (%)",
                                            title)}
    common.publish(args, "sweep", rows, pictures, clean=clean, curves=shown)


def measure(network: Trained, settings: Sequence[tuple], reference: bool) -> list[dict]:
    """A row for each setting, label, and label choice (at each step or once)."""
    rows = []
    for steps, step_size, epsilon in settings:
        for label in LABELS:
            for when in ("each step", "once"):
                threat = Threat(epsilon, label, steps=steps, step_size=step_size, relabel=when == "each step")
                images, attacker = network.adversarial(threat, reference)
                logits = network.logits(images)
                rows.append({"steps": steps, "step size": step_size, "epsilon": epsilon, "label": label,
                             "chosen": when, "top-1": top_k(logits, network.labels, 1).item(),
                             "top-5": top_k(logits, network.labels, 5).item(), "attacked by": attacker})
                print(common.table(rows).splitlines()[-1], flush=True)
    return rows


OBJECTIVES = {"least likely, each step": {"objective": "least-likely"},
              "least likely, once": {"objective": "least-likely", "relabel": False},
              "most likely, once": {"objective": "most-likely", "relabel": False}}


def over_epsilon(network: Trained, epsilons: Sequence[float]) -> dict[str, tuple]:
    """{objective: (epsilons, accuracies)} under extras/attacks.py."""

    def accuracy(threat: Threat) -> float:
        return top_k(network.logits(network.attack(threat).images), network.labels, 1).item()

    curves = {name: (epsilons, [accuracy(Threat(e, step_size=None, **objective)) for e in epsilons])
              for name, objective in OBJECTIVES.items()}
    return {**curves, "strong setting": (epsilons, [accuracy(strong(e, 20, 1)) for e in epsilons])}


def over_steps(network: Trained, epsilon: float, steps: int) -> dict[str, tuple]:
    """{objective: (steps, accuracies)}; robust accuracy against the best iterate so far."""
    threats = {name: Threat(epsilon, steps=steps, keep="best", **objective) for name, objective in OBJECTIVES.items()}
    threats["strong setting"] = strong(epsilon, steps, 1)
    counts = [n for n in (0, 1, 2, 5, 10, 20, 50, 100) if n <= steps]
    curves = {}
    for name, threat in threats.items():
        outcome = network.attack(threat)
        curves[name] = counts, [100 - outcome.rate_after(n) for n in counts]
    return curves


def bars(rows: list[dict], title: str) -> Figure:
    groups = list(dict.fromkeys(f"{row['steps']} / {row['step size']:g} / {row['epsilon']:g}" for row in rows))
    series = list(dict.fromkeys((row["label"], row["chosen"]) for row in rows))
    panels = {f"adversarial {k} accuracy": {f"{label}, {when}": [row[k] for row in rows
                                                                 if (row["label"], row["chosen"]) == (label, when)]
                                            for label, when in series} for k in ("top-1", "top-5")}
    return plots.bars(panels, groups, "%", f"{title}; steps / step size / epsilon")
