"""SimpleNet trained with torch's convolution, with your own, and with the fast own one: time, memory, accuracy, curves.

Document 000, table 1 and figures 4 and 5, and 001, table 1. Time and accuracy are main.py's own; memory is that of a
training step in a process of its own.
"""

import json
import statistics

import figures
import models
from custom_dataloader import open_split
from labs import common, cost, curves

KINDS = {"nn.Conv2d": (), "own (unfold)": ("--use-custom-conv", "unfold"), "own (flat)": ("--use-custom-conv", "flat")}


def job(args) -> None:
    dataset, names = open_split(args.data, "val", models.student_transforms("val"))
    size, rows, runs = dataset[0][0].shape[-1], [], {}
    for kind, flags in KINDS.items():
        folder = common.train(args, "--model", "simplenet", *flags)
        history = json.loads((folder / "results.json").read_text(encoding="utf-8"))["history"]
        speed = statistics.median(row["images_per_second"] for row in history)
        spent = cost.measure("simplenet", len(names), size, args.train_batch, flags[1] if flags else None, args.gpu)
        last = history[-1]["val"]
        rows.append({"convolution": kind, "batch (s)": args.train_batch / speed, "images/s": speed,
                     "memory of a step (MB)": spent["peak_memory_mb"], "top-1": last["top1"], "top-5": last["top5"],
                     "loss": last["loss"]})
        runs[kind] = curves.read(folder)
    for row in rows:
        for name, measure in (("time ratio", "batch (s)"), ("memory ratio", "memory of a step (MB)")):
            row[name] = row[measure] / rows[0][measure] if rows[0][measure] else None
    picture = figures.several_runs(runs, f"SimpleNet, {args.epochs} epochs; training dashed, validation solid")
    common.publish(args, "convolutions", rows, {"convolutions": picture}, epochs=args.epochs, seed=args.seed)


def main(argv=None) -> None:
    parser = common.parser("convolutions", __doc__, trains={"epochs": 10, "lr": 0.05})
    common.run("convolutions", job, parser, argv)


if __name__ == "__main__":
    main()
