"""Measures of a classifier from its scores: top-k, per-class accuracy, confusion, average precision. All in percent."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def top_k(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Percentage of rows of N,C whose label is among the min(k, C) largest scores; stays on the device."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1).float().mean() * 100


def confusion_matrix(scores: Tensor, labels: Tensor) -> Tensor:
    """C,C counts: row the true class, column the predicted one."""
    classes = scores.shape[1]
    return torch.bincount(labels * classes + scores.argmax(dim=1), minlength=classes**2).view(classes, classes)


def per_class_accuracy(confusion: Tensor) -> Tensor:
    """Percentage of each class's images that are recognised; NaN where a class has no image."""
    return confusion.diagonal() / confusion.sum(dim=1) * 100


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the area under precision over recall, one class against the rest.

    The retrieval measure of document 000, section 2.2.5, with scikit-learn's step-wise area.
    """
    from sklearn.metrics import average_precision_score  # here: its import takes a second, which --help need not wait

    present = labels.unique()
    truth = F.one_hot(labels, scores.shape[1])[:, present].numpy()
    with warnings.catch_warnings():  # scikit-learn warns where a sample has none of the classes: impossible here
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
