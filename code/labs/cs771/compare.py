"""Networks side by side: parameters, multiply-adds, memory, speed, epochs, and validation accuracy.

Table 1 of the 2023 report (docs/references.md). Speed and memory are those of a training step on random images of the
data's size, in the fastest precision of the device.
"""

import argparse

from labs import common
from labs.cs771 import cost
from labs.trained import open_trained
from libs import plots
from libs.metrics import summarize
from libs.networks import convolution_of, lab_of
from utils import BadInput


def epochs(saved: dict) -> str:
    """Epoch of the weights, and number of epochs of the training."""
    return f"{saved['epoch']} of {saved.get('settings', {}).get('epochs', '?')}"


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("compare", __doc__, resume="several")
    parser.add_argument("--step-batch", type=common.COUNT, default=64, metavar="N",
                        help="images in the training step that is measured (default: 64)")
    return parser


def run(args: argparse.Namespace) -> None:
    networks = open_trained(args, args.resume, args.names)
    rows = []
    for network in networks:
        metrics = summarize(network.logits(), network.labels)
        if lab_of(network.saved):
            raise BadInput(f"{network.title} was trained by a lab; this table is for networks of main.py")
        conv = convolution_of(network.saved.get("settings", {}))
        size = network.images.shape[-1]
        costs = cost.measure(network.name, len(network.class_names), size, args.step_batch, conv, args.gpu)
        rows.append({"network": network.title, "parameters": costs["parameters"],
                     "multiply-adds (M)": costs["multiply_adds"] / 1e6,
                     "memory of a step (MB)": costs["peak_memory_mb"],
                     "images/s": costs["images_per_second"], "epochs": epochs(network.saved),
                     "top-1": metrics["top1"], "top-5": metrics["top5"], "per class": metrics["mean_class_accuracy"],
                     "mAP": metrics["mAP"]})
        print(f"{network.title}: done", flush=True)
    title = f"{len(networks[0].labels):,} validation images of {len(networks[0].class_names)} classes"
    panels = {title: {k: [row[k] for row in rows] for k in ("top-1", "top-5", "mAP")}}
    groups = [f"{row['network']}\n{row['parameters'] / 1e6:.2f} M parameters\n{row['multiply-adds (M)']:,.0f} M "
              f"multiply-adds\n{row['images/s']:,.0f} images/s" for row in rows]
    common.publish(args, "compare", rows, {"compare": plots.bars(panels, groups, "%")},
                   step_batch=args.step_batch)
