"""SimpleNet with nn.Conv2d, the student's convolution and flat_conv.py: time, memory, accuracy, curves.

Table 1 and figures 4 and 5 of the 2019 report, and table 1 of the 2023 report (docs/references.md). Time and accuracy
are those of main.py; memory is measured on a training step in a separate process.
"""

import argparse
import json
import statistics

from custom_dataloader import open_split
from labs import common
from labs.cs771 import cost, curves
from libs import networks, plots

KINDS = {"nn.Conv2d": (), "custom (unfold)": ("--use-custom-conv", "unfold"),
         "custom (flat)": ("--use-custom-conv", "flat")}


def get_args_parser() -> argparse.ArgumentParser:
    return common.parser("convolutions", __doc__, trains={"epochs": 10, "lr": 0.05})


def run(args: argparse.Namespace) -> None:
    dataset, names = open_split(args.data, "val", networks.student_transforms("val"))
    size, rows, runs = dataset[0][0].shape[-1], [], {}
    for kind, flags in KINDS.items():
        folder = common.run_main(args, "--model", "simplenet", *flags)
        history = json.loads((folder / "results.json").read_text(encoding="utf-8"))["history"]
        speed = statistics.median(row["images_per_second"] for row in history)
        costs = cost.measure("simplenet", len(names), size, args.train_batch, flags[1] if flags else None, args.gpu)
        last = history[-1]["val"]
        rows.append({"convolution": kind, "batch (s)": args.train_batch / speed, "images/s": speed,
                     "memory of a step (MB)": costs["peak_memory_mb"], "top-1": last["top1"], "top-5": last["top5"],
                     "loss": last["loss"]})
        runs[kind] = curves.read(folder)
    for row in rows:
        for name, measure in (("time ratio", "batch (s)"), ("memory ratio", "memory of a step (MB)")):
            row[name] = row[measure] / rows[0][measure] if rows[0][measure] else None
    picture = plots.several_runs(runs, f"SimpleNet, {args.epochs} epochs; training dashed, validation solid")
    common.publish(args, "convolutions", rows, {"convolutions": picture}, epochs=args.epochs, seed=args.seed)
