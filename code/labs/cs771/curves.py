"""Training curves of several runs in one figure: top-1, top-5, learning rate and loss.

Figures 3 to 8 of the 2019 report and 5 to 11 of the 2023 report (docs/references.md). Read from the TensorBoard event
files of the run folders.
"""

import argparse
import math
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from labs import common
from libs import plots
from utils import BadInput

# Scalars that are logged once per epoch, and those that are logged every few batches.
BY_EPOCH = {f"data/{k}_accuracy/{split}": (k, split) for k in ("top1", "top5") for split in ("train", "val")}
BY_EPOCH["data/validation_loss"] = "loss", "val"
BY_BATCH = {"data/training_loss": ("loss", "train"), "data/learning_rate": ("rate", "train")}


def read(folder: Path) -> dict[tuple[str, str], tuple[list, list]]:
    """{(measure, split): (epochs, values)} of a run folder. Raises BadInput if it holds no such events."""
    if not list(folder.glob("events.out.tfevents.*")):
        raise BadInput(f"{folder}: has no event file (events.out.tfevents...); main.py prints the run folder as 'run'")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    available = set(events.Tags()["scalars"])
    if "data/top1_accuracy/train" not in available:
        raise BadInput(f"{folder}: its event file has no training curves; it may be that of an evaluation or an attack")
    series = {BY_EPOCH[tag]: ([e.step for e in events.Scalars(tag)], [e.value for e in events.Scalars(tag)])
              for tag in BY_EPOCH.keys() & available}
    epochs = max(series["top1", "train"][0])
    for tag in BY_BATCH.keys() & available:
        found = events.Scalars(tag)
        scale = epochs / max(e.step for e in found)  # the last logged step is within a few batches of the end
        series[BY_BATCH[tag]] = [e.step * scale for e in found], [e.value for e in found]
    if ("loss", "train") in series:
        series["loss", "train"] = by_epoch(*series["loss", "train"])
    return series


def by_epoch(steps: list[float], values: list[float]) -> tuple[list, list]:
    """Mean over each epoch: (epochs, values)."""
    sums: dict[int, list[float]] = {}
    for step, value in zip(steps, values):
        sums.setdefault(max(1, math.ceil(step - 1e-6)), []).append(value)
    return list(sums), [sum(many) / len(many) for many in sums.values()]


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("curves", __doc__, data=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders: logs/exp_...")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="names in the figure (default: the folders' names)")
    parser.add_argument("--title", default="", metavar="TEXT", help="title of the figure")
    return parser


def run(args: argparse.Namespace) -> None:
    names = args.names or [folder.name for folder in args.runs]
    if len(set(names)) != len(args.runs):
        raise BadInput(f"--names has to give {len(args.runs)} different names, one for each run")
    runs = {name: read(folder) for name, folder in zip(names, args.runs)}
    rows = []
    for name, series in runs.items():
        best = max(series["top1", "val"][1])
        rows.append({"run": name, "epochs": max(series["top1", "train"][0]), "best top-1": best,
                     **{f"last {k} {split}": series[k, split][1][-1] for k in ("top1", "top5") for split in
                        ("train", "val")}, "last validation loss": series["loss", "val"][1][-1]})
    common.publish(args, "curves", rows, {"curves": plots.several_runs(runs, args.title)},
                   series={name: {" ".join(key): values for key, values in series.items()}
                           for name, series in runs.items()})
