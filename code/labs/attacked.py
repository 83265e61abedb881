"""Clean, adversarial, difference: top-1 and top-5 of one or several networks under one attack.

Documents 000, tables 2 and 3, and 001, table 3. `--strong` says what is left under an attack to be judged by.
"""

from collections.abc import Sequence

import figures
from attacks import Threat
from labs import common
from labs.common import Trained
from metrics import top_k

MEASURES = {"top-1": 1, "top-5": 5}


def measure(network: Trained, threat: Threat) -> dict:
    """One row of the table."""
    outcome = network.attack(threat)
    clean, attacked = network.logits(), network.logits(outcome.images)
    row: dict = {"network": network.title}
    for name, k in MEASURES.items():
        row |= {f"{name} clean": top_k(clean, network.labels, k).item(),
                f"{name} adversarial": top_k(attacked, network.labels, k).item()}
        row[f"{name} difference"] = row[f"{name} adversarial"] - row[f"{name} clean"]
    return row


def figure(rows: Sequence[dict], title: str):
    panels = {f"{name} accuracy": {kind: [row[f"{name} {kind}"] for row in rows] for kind in ("clean", "adversarial")}
              for name in MEASURES}
    return figures.bars(panels, [row["network"] for row in rows], "%", title)


def describe(threat: Threat) -> str:
    """For titles of figures."""
    label = {"least-likely": "towards the least likely label", "most-likely": "away from the most likely label",
             "untargeted": "away from the true label", "targeted": "towards a label"}[threat.objective]
    when = f", chosen {'in each step' if threat.relabel else 'once'}" if "likely" in threat.objective else ""
    how = "with momentum" if threat.rule == "momentum" else f"of {threat.step:g}"
    starts = f", {threat.restarts} starts" if threat.restarts > 1 else ""
    return f"{threat.steps} steps {how}, epsilon {threat.epsilon:g}{starts}, {label}{when}"


def job(args) -> None:
    threat = common.threat_of(args)
    networks = common.open_trained(args, args.resume, args.names)
    rows = [measure(network, threat) for network in networks]
    title = f"{len(networks[0].labels):,} validation images; {describe(threat)}"
    print(title)
    common.publish(args, "attacked", rows, {"attacked": figure(rows, title)}, threat=vars(threat))


def main(argv=None) -> None:
    parser = common.parser("attacked", __doc__, resume="several")
    common.add_threat(parser)
    common.run("attacked", job, parser, argv)


if __name__ == "__main__":
    main()
