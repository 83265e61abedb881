"""Clean and adversarial accuracy: top-1 and top-5 of one or several networks under one attack.

Tables 2 and 3 of the 2019 report and table 3 of the 2023 report (docs/references.md). `--strong` measures robust
accuracy under a stronger attack.
"""

import argparse
from collections.abc import Sequence

from matplotlib.figure import Figure

from extras.attacks import Threat
from labs import common
from labs.trained import Trained, open_trained
from libs import plots
from libs.metrics import top_k

MEASURES = {"top-1": 1, "top-5": 5}


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("attacked", __doc__, resume="several")
    common.add_threat(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    threat = common.threat_of(args)
    networks = open_trained(args, args.resume, args.names)
    rows = [measure(network, threat, args.reference) for network in networks]
    title = f"{len(networks[0].labels):,} validation images; {describe(threat)}"
    print(title)
    common.publish(args, "attacked", rows, {"attacked": figure(rows, title)}, threat=vars(threat))


def measure(network: Trained, threat: Threat, reference: bool = False) -> dict:
    """One row of the table."""
    images, attacker = network.adversarial(threat, reference)
    clean, adversarial = network.logits(), network.logits(images)
    row: dict = {"network": network.title}
    for name, k in MEASURES.items():
        row |= {f"{name} clean": top_k(clean, network.labels, k).item(),
                f"{name} adversarial": top_k(adversarial, network.labels, k).item()}
        row[f"{name} difference"] = row[f"{name} adversarial"] - row[f"{name} clean"]
    return {**row, "attacked by": attacker}


def figure(rows: Sequence[dict], title: str) -> Figure:
    panels = {f"{name} accuracy": {kind: [row[f"{name} {kind}"] for row in rows] for kind in ("clean", "adversarial")}
              for name in MEASURES}
    return plots.bars(panels, [row["network"] for row in rows], "%", title)


def describe(threat: Threat) -> str:
    """The threat model in words, for titles."""
    label = {"least-likely": "towards the least likely label", "most-likely": "away from the most likely label",
             "untargeted": "away from the true label", "targeted": "towards a target label"}[threat.objective]
    when = f", chosen {'at each step' if threat.relabel else 'once'}" if "likely" in threat.objective else ""
    how = "with momentum" if threat.rule == "momentum" else f"of {threat.resolved_step_size:g}"
    starts = f", {threat.restarts} starts" if threat.restarts > 1 else ""
    return f"{threat.steps} steps {how}, epsilon {threat.epsilon:g}{starts}, {label}{when}"
