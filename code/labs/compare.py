"""Networks side by side: size, work, memory, speed, epochs, top-1, top-5, mean per-class accuracy, mAP.

Document 001, table 1. Speed and memory are those of a training step, on random images of the data's size, in what is
fast on this machine; the accuracies are those of the checkpoints on the validation images.
"""

import figures
from labs import common, cost
from metrics import summarize
from utils import BadInput


def epochs(saved: dict) -> str:
    """Which epoch's weights these are, of how many: the best one's, mostly."""
    return f"{saved['epoch']} of {saved.get('settings', {}).get('epochs', '?')}"


def job(args) -> None:
    networks = common.open_trained(args, args.resume, args.names)
    rows = []
    for network in networks:
        judged = summarize(network.logits(), network.labels)
        if common.lab_of(network.saved):
            raise BadInput(f"{network.title} is a lab's network; this table is for main.py's")
        conv = common.convolution_of(network.saved)
        size = network.images.shape[-1]
        spent = cost.measure(network.name, len(network.names), size, args.step_batch, conv, args.gpu)
        rows.append({"network": network.title, "parameters": spent["parameters"],
                     "multiply-adds (M)": spent["multiply_adds"] / 1e6,
                     "memory of a step (MB)": spent["peak_memory_mb"],
                     "images/s": spent["images_per_second"], "epochs": epochs(network.saved),
                     "top-1": judged["top1"], "top-5": judged["top5"], "per class": judged["mean_class_accuracy"],
                     "mAP": judged["mAP"]})
        print(f"{network.title}: done", flush=True)
    title = f"{len(networks[0].labels):,} validation images of {len(networks[0].names)} classes"
    panels = {title: {k: [row[k] for row in rows] for k in ("top-1", "top-5", "mAP")}}
    groups = [f"{row['network']}\n{row['parameters'] / 1e6:.2f} M parameters\n{row['multiply-adds (M)']:,.0f} M "
              f"multiply-adds\n{row['images/s']:,.0f} images/s" for row in rows]
    common.publish(args, "compare", rows, {"compare": figures.bars(panels, groups, "%")},
                   step_batch=args.step_batch)


def main(argv=None) -> None:
    parser = common.parser("compare", __doc__, resume="several")
    parser.add_argument("--step-batch", type=common.COUNT, default=64, metavar="N",
                        help="images in the training step that is measured (default: 64)")
    common.run("compare", job, parser, argv)


if __name__ == "__main__":
    main()
