"""Per-class accuracy, the confusion matrix, and the best and worst classes with examples."""

import argparse

import torch

from labs import common
from labs.trained import Trained, open_trained
from libs import plots
from libs.metrics import summarize


def examples(network: Trained, scores: torch.Tensor, label: int, count: int) -> tuple:
    """Images of a class, captions, and whether each is classified correctly: most confident first, mistakes last."""
    confidence, predicted = scores.max(1)
    members = (network.labels == label).nonzero()[:, 0]
    correct = predicted[members] == label
    best = members[correct][confidence[members][correct].argsort(descending=True)]
    worst = members[~correct][confidence[members][~correct].argsort()]
    share = min(len(best), max(count - len(worst), round(count * len(best) / len(members))))
    chosen = [*best[:share].tolist(), *worst[max(0, len(worst) - (count - share)) :].tolist()]
    return (network.images[chosen], [f"{network.class_names[predicted[i]]} {confidence[i]:.0%}" for i in chosen],
            [bool(predicted[i] == label) for i in chosen])


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("classes", __doc__, resume="one")
    parser.add_argument("--ends", type=common.COUNT, default=3, metavar="N",
                        help="best and worst classes shown (default: 3)")
    parser.add_argument("--count", type=common.COUNT, default=6, metavar="N", help="images of each (default: 6)")
    return parser


def run(args: argparse.Namespace) -> None:
    network, = open_trained(args, [args.resume])
    logits = network.logits()
    metrics, scores = summarize(logits, network.labels), logits.softmax(1)
    confusion = torch.tensor(metrics["confusion"])
    rows = []
    for label, accuracy in enumerate(metrics["class_accuracy"]):
        if accuracy is not None:
            mistakes = confusion[label].clone()
            mistakes[label] = 0
            rows.append({"class": network.class_names[label], "images": int(confusion[label].sum()),
                         "accuracy": accuracy,
                         "most often taken for": network.class_names[mistakes.argmax()] if mistakes.any() else "",
                         "label": label})
    rows.sort(key=lambda row: -row["accuracy"])
    ends = {id(row): row for row in rows[: args.ends] + rows[-args.ends :]}.values()
    shown = {f"{row['class']}\n{row['accuracy']:.0f} %": examples(network, scores, row["label"], args.count)
             for row in ends}
    title = f"{network.title}: best and worst classes; a thick frame marks a mistake"
    pictures = {"classes_examples": plots.class_examples(shown, title),
                "classes_bars": plots.class_bars(metrics["class_accuracy"], network.class_names),
                "classes_confusion": plots.confusion(metrics["confusion"], network.class_names)}
    common.publish(args, "classes", rows, pictures, top1=metrics["top1"],
                   mean_class_accuracy=metrics["mean_class_accuracy"])
