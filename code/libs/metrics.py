"""Classification metrics, all in percent: top-k and per-class accuracy, confusion matrix, average precision."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def top_k(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Top-min(k, C) accuracy of scores N,C, as a tensor on their device."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1).float().mean() * 100


def confusion_matrix(scores: Tensor, labels: Tensor) -> Tensor:
    """C,C counts: rows are true classes, columns predicted ones."""
    classes = scores.shape[1]
    return torch.bincount(labels * classes + scores.argmax(dim=1), minlength=classes**2).view(classes, classes)


def per_class_accuracy(confusion: Tensor) -> Tensor:
    """Recall of each class, C; NaN for a class without images."""
    return confusion.diagonal() / confusion.sum(dim=1) * 100


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Mean over the classes present of the one-vs-rest average precision (scikit-learn's step-wise area).

    The retrieval metric of the 2019 report, section 2.2.5 (docs/references.md).
    """
    from sklearn.metrics import average_precision_score  # imported here: it takes a second

    present = labels.unique()
    truth = F.one_hot(labels, scores.shape[1])[:, present].numpy()
    with warnings.catch_warnings():  # scikit-learn warns of samples without a positive class: each has one here
        warnings.simplefilter("ignore", UserWarning)
        return 100 * float(np.mean([average_precision_score(truth[:, i], scores[:, c]) for i, c in
                                    enumerate(present.tolist())]))


def summarize(logits: Tensor, labels: Tensor) -> dict:
    """loss, top1, top5, mean_class_accuracy, mAP, class_accuracy (list, None without images), confusion (lists).

    logits N,C and labels N on the CPU; `top5` is top-min(5, C).
    """
    logits = logits.float()
    confusion = confusion_matrix(logits, labels)
    by_class = per_class_accuracy(confusion)
    return {
        "loss": F.cross_entropy(logits, labels).item(),
        "top1": top_k(logits, labels, 1).item(),
        "top5": top_k(logits, labels, 5).item(),
        "mean_class_accuracy": by_class.nanmean().item(),
        "mAP": mean_average_precision(logits.softmax(dim=1), labels),
        "class_accuracy": [None if value != value else value for value in by_class.tolist()],
        "confusion": confusion.tolist(),
    }
