"""Steps x step size x epsilon, least against most likely label, chosen in each step or once: table, bars, curves.

The settings of document 001, table 2; its figure 16 as sweep.png; accuracy over epsilon and over steps as
sweep_curves.png. Adversarial images come from one checkpoint.
"""

from collections.abc import Sequence

import figures
from attacks import Threat, strong
from labs import common
from labs.common import Trained
from metrics import top_k

SETTINGS = ((10, 0.01, 0.1), (50, 0.01, 0.1), (10, 0.1, 0.1), (10, 0.01, 10.0), (10, 0.1, 10.0), (50, 0.1, 10.0))
LABELS = ("least-likely", "most-likely")
EPSILONS = (0.0, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)


def settings(network: Trained, chosen: tuple) -> list[dict]:
    """A row for each setting and each way to choose the label."""
    rows = []
    for steps, step_size, epsilon in chosen:
        for label in LABELS:
            for when in ("each step", "once"):
                threat = Threat(epsilon, label, steps=steps, step_size=step_size, relabel=when == "each step")
                logits = network.logits(network.attack(threat).images)
                rows.append({"steps": steps, "step size": step_size, "epsilon": epsilon, "label": label,
                             "chosen": when, "top-1": top_k(logits, network.labels, 1).item(),
                             "top-5": top_k(logits, network.labels, 5).item()})
                print(common.table(rows).splitlines()[-1], flush=True)
    return rows


def curves(network: Trained, epsilons: Sequence[float], steps: int) -> tuple[dict, dict]:
    """{panel: {line: (xs, accuracy)}} over epsilon and over steps.

    Over steps the attacks keep the best point: an image counts as right while no point so far has fooled the network.
    """
    ways = {"least likely, each step": {"objective": "least-likely"},
            "least likely, once": {"objective": "least-likely", "relabel": False},
            "most likely, once": {"objective": "most-likely", "relabel": False}}

    def accuracy(threat: Threat) -> float:
        return top_k(network.logits(network.attack(threat).images), network.labels, 1).item()

    by_epsilon = {name: (epsilons, [accuracy(Threat(e, step_size=None, **way)) for e in epsilons])
                  for name, way in ways.items()}
    by_epsilon["strong setting"] = epsilons, [accuracy(strong(e, 20, 1)) for e in epsilons]
    threats = {name: Threat(0.1, steps=steps, keep="best", **way) for name, way in ways.items()}
    threats["strong setting"] = strong(0.1, steps, 1)
    counts = [n for n in (0, 1, 2, 5, 10, 20, 50, 100) if n <= steps]
    by_steps = {}
    for name, threat in threats.items():
        outcome = network.attack(threat)
        by_steps[name] = counts, [100 - outcome.after(n) for n in counts]
    return by_epsilon, by_steps


def bars(rows: list[dict], title: str):
    groups = list(dict.fromkeys(f"{row['steps']} / {row['step size']:g} / {row['epsilon']:g}" for row in rows))
    series = list(dict.fromkeys((row["label"], row["chosen"]) for row in rows))
    panels = {f"{k} accuracy left": {f"{label}, {when}": [row[k] for row in rows
                                                          if (row["label"], row["chosen"]) == (label, when)]
                                     for label, when in series} for k in ("top-1", "top-5")}
    return figures.bars(panels, groups, "%", f"{title}; steps / step size / epsilon")


def job(args) -> None:
    network, = common.open_trained(args, [args.resume])
    chosen = SETTINGS[:1] if args.quick else SETTINGS
    rows = settings(network, chosen)
    clean = {f"top-{k}": top_k(network.logits(), network.labels, k).item() for k in (1, 5)}
    title = f"{network.title}, {len(network.labels):,} images, clean top-1 {clean['top-1']:.1f} %"
    by_epsilon, by_steps = curves(network, EPSILONS[::2] if args.quick else EPSILONS, 10 if args.quick else 50)
    shown = {"10 steps of epsilon / 4 (strong: 20)": by_epsilon, "epsilon 0.1, step 0.01; best point so far": by_steps}
    pictures = {"sweep": bars(rows, title),
                "sweep_curves": figures.lines(shown, ("epsilon (normalised units)", "steps"),
                                              "top-1 accuracy (%)", title)}
    common.publish(args, "sweep", rows, pictures, clean=clean, curves=shown)


def main(argv=None) -> None:
    parser = common.parser("sweep", __doc__, resume="one")
    parser.add_argument("--quick", action="store_true", help="the first setting alone, and shorter curves")
    common.run("sweep", job, parser, argv)


if __name__ == "__main__":
    main()
