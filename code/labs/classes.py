"""Which classes a network knows: accuracy of each as bars, the confusion matrix, the best and worst with examples."""

import torch

import figures
from labs import common
from metrics import summarize


def examples(network: common.Trained, scores: torch.Tensor, label: int, count: int) -> tuple:
    """Images of a class with what they are taken for: the surest right ones first, the surest mistakes last."""
    sure, said = scores.max(1)
    mine = (network.labels == label).nonzero()[:, 0]
    right = said[mine] == label
    best = mine[right][sure[mine][right].argsort(descending=True)]
    worst = mine[~right][sure[mine][~right].argsort()]
    share = min(len(best), max(count - len(worst), round(count * len(best) / len(mine))))
    chosen = [*best[:share].tolist(), *worst[max(0, len(worst) - (count - share)) :].tolist()]
    return (network.images[chosen], [f"{network.names[said[i]]} {sure[i]:.0%}" for i in chosen],
            [bool(said[i] == label) for i in chosen])


def job(args) -> None:
    network, = common.open_trained(args, [args.resume])
    logits = network.logits()
    judged, scores = summarize(logits, network.labels), logits.softmax(1)
    confusion = torch.tensor(judged["confusion"])
    rows = []
    for label, accuracy in enumerate(judged["class_accuracy"]):
        if accuracy is not None:
            mistakes = confusion[label].clone()
            mistakes[label] = 0
            rows.append({"class": network.names[label], "images": int(confusion[label].sum()), "accuracy": accuracy,
                         "most often taken for": network.names[mistakes.argmax()] if mistakes.any() else "",
                         "label": label})
    rows.sort(key=lambda row: -row["accuracy"])
    ends = {id(row): row for row in rows[: args.ends] + rows[-args.ends :]}.values()
    shown = {f"{row['class']}\n{row['accuracy']:.0f} %": examples(network, scores, row["label"], args.count)
             for row in ends}
    title = f"{network.title}: best and worst classes; a thick frame marks a mistake"
    pictures = {"classes_examples": figures.class_examples(shown, title),
                "classes_bars": figures.class_bars(judged["class_accuracy"], network.names),
                "classes_confusion": figures.confusion(judged["confusion"], network.names)}
    common.publish(args, "classes", rows, pictures, top1=judged["top1"],
                   mean_class_accuracy=judged["mean_class_accuracy"])


def main(argv=None) -> None:
    parser = common.parser("classes", __doc__, resume="one")
    parser.add_argument("--ends", type=common.COUNT, default=3, metavar="N",
                        help="best and worst classes shown (default: 3)")
    parser.add_argument("--count", type=common.COUNT, default=6, metavar="N", help="images of each (default: 6)")
    common.run("classes", job, parser, argv)


if __name__ == "__main__":
    main()
