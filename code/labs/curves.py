"""Training curves of several runs on one sheet: top-1, top-5, learning rate, loss; training and validation.

Documents 000, figures 3 to 8, and 001, figures 5 to 11. Read from the event files that TensorBoard reads too, in the
run folders that main.py prints.
"""

import math
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import figures
from labs import common
from utils import BadInput

# What main.py writes once an epoch; training loss and learning rate come once every few batches.
BY_EPOCH = {f"data/{k}_accuracy/{split}": (k, split) for k in ("top1", "top5") for split in ("train", "val")}
BY_EPOCH["data/validation_loss"] = "loss", "val"
BY_BATCH = {"data/training_loss": ("loss", "train"), "data/learning_rate": ("rate", "train")}


def read(folder: Path) -> dict[tuple[str, str], tuple[list, list]]:
    """{(measure, split): (epochs, values)} of a run folder. Raises BadInput if it holds no such events."""
    if not list(folder.glob("events.out.tfevents.*")):
        raise BadInput(f"{folder}: holds no event file (events.out.tfevents...); main.py prints it as 'run'")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    there = set(events.Tags()["scalars"])
    if "data/top1_accuracy/train" not in there:
        raise BadInput(f"{folder}: its event file has no training curves; is it of an evaluation or an attack?")
    series = {BY_EPOCH[tag]: ([e.step for e in events.Scalars(tag)], [e.value for e in events.Scalars(tag)])
              for tag in BY_EPOCH.keys() & there}
    epochs = max(series["top1", "train"][0])
    for tag in BY_BATCH.keys() & there:
        found = events.Scalars(tag)
        scale = epochs / max(e.step for e in found)  # the last report is within a few batches of the end
        series[BY_BATCH[tag]] = [e.step * scale for e in found], [e.value for e in found]
    if ("loss", "train") in series:
        series["loss", "train"] = by_epoch(*series["loss", "train"])
    return series


def by_epoch(steps: list[float], values: list[float]) -> tuple[list, list]:
    """The mean over each epoch: single batches jump."""
    sums: dict[int, list[float]] = {}
    for step, value in zip(steps, values):
        sums.setdefault(max(1, math.ceil(step - 1e-6)), []).append(value)
    return list(sums), [sum(many) / len(many) for many in sums.values()]


def job(args) -> None:
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
    common.publish(args, "curves", rows, {"curves": figures.several_runs(runs, args.title)},
                   series={name: {" ".join(key): values for key, values in series.items()}
                           for name, series in runs.items()})


def main(argv=None) -> None:
    parser = common.parser("curves", __doc__, data=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders: logs/exp_...")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="what to call them (default: the folders' names)")
    parser.add_argument("--title", default="", metavar="TEXT", help="of the figure")
    common.run("curves", job, parser, argv)


if __name__ == "__main__":
    main()
