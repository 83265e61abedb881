"""Every picture that people look at. Arrays in, a matplotlib Figure out; `save` writes it as PNG."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from utils import denormalize, writing

TRAIN, VAL = "#0072b2", "#d55e00"  # blue and vermilion of Okabe and Ito: apart for colour-blind readers as well


def save(figure: Figure, path: str | os.PathLike, dpi: int = 110) -> None:
    with writing(path) as part:
        figure.savefig(part, dpi=dpi, format="png")


def pixels(images: Tensor) -> np.ndarray:
    """Normalised N,3,H,W -> N,H,W,3 floats in [0, 1]."""
    return denormalize(images).cpu().permute(0, 2, 3, 1).numpy()


def curves(history: Sequence[dict], title: str = "") -> Figure:
    """Loss, top-1, top-5 and learning rate over the epochs, training and validation in one panel each.

    `history` has one dict for each epoch: epoch (from 1), rate, and train and val with loss, top1, top5.
    """
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    panels = {"loss": "cross-entropy loss", "top1": "top-1 accuracy (%)", "top5": "top-5 accuracy (%)"}
    axes = figure.subplots(2, 2).flat
    for axis, (key, label) in zip(axes, panels.items()):
        for split, colour, mark in (("train", TRAIN, "o"), ("val", VAL, "s")):
            axis.plot(epochs, [row[split][key] for row in history], color=colour, marker=mark, markersize=3,
                      label={"train": "training (augmented)", "val": "validation"}[split])
        axis.set(xlabel="epoch", ylabel=label)
        axis.legend(frameon=False)
    rate = figure.axes[3]
    rate.plot(epochs, [row["rate"] for row in history], color="black", marker="o", markersize=3)
    rate.set(xlabel="epoch", ylabel="learning rate after the epoch")
    for axis in figure.axes:
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    return figure


def attack_rows(original: Tensor, adversarial: Tensor, before: Sequence[str], after: Sequence[str],
                title: str = "") -> Figure:
    """A row for each image: original, noise, ten times the noise, adversarial (document 000, Figure 11).

    Images normalised N,3,H,W; `before` and `after` are the captions under the first and the last picture.
    Grey is no noise. Original and adversarial share one scale.
    """
    clean, attacked = pixels(original), pixels(adversarial)
    noise = attacked - clean
    columns = {"original": clean, "noise (grey: none)": 0.5 + noise, "10 x noise": (0.5 + 10 * noise).clip(0, 1),
               "adversarial": attacked}
    figure = Figure(figsize=(8.4, 2.25 * len(clean) + 0.4), layout="constrained")
    for axes, row in zip(figure.subplots(len(clean), 4, squeeze=False), range(len(clean))):
        captions = before[row], f"largest change {255 * np.abs(noise[row]).max():.1f} of 255", "", after[row]
        for axis, (name, images), caption in zip(axes, columns.items(), captions):
            show(axis, images[row], name if row == 0 else "", caption)
    figure.suptitle(title)
    return figure


def overlay_rows(images: Tensor, saliency: Tensor, overlay: Tensor, captions: Sequence[str], title: str = "") -> Figure:
    """Six to a line: each image, its saliency below, and below that the one laid over the other.

    images N,3,H,W normalised; saliency N,1,H,W; overlay N,3,H,W in [0, 1].
    """
    per_line = 6
    lines = -(-len(images) // per_line)
    figure = Figure(figsize=(9.6, 5.2 * lines + 0.4), layout="constrained")
    axes = figure.subplots(3 * lines, per_line, squeeze=False)
    heat = saliency.cpu()[:, 0].numpy()
    blended = overlay.cpu().permute(0, 2, 3, 1).numpy()
    for i, image in enumerate(pixels(images)):
        line, column = divmod(i, per_line)
        show(axes[3 * line, column], image, captions[i])
        show(axes[3 * line + 1, column], heat[i] / max(np.quantile(heat[i], 0.99), 1e-12), cmap="magma", vmin=0, vmax=1)
        show(axes[3 * line + 2, column], blended[i])
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(title)
    return figure


def show(axis, image: np.ndarray, title: str = "", caption: str = "", **keywords) -> None:
    axis.imshow(image, **keywords)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(caption, fontsize=8)


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Rows are true classes, columns predictions; each row in percent of the class's images."""
    matrix = np.asarray(matrix, dtype=float)
    share = 100 * matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    side = min(11.0, 3.5 + 0.32 * len(names))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(names))
    small = 8 if len(names) <= 40 else 4
    axis.set_xticks(ticks, names, rotation=90, fontsize=small)
    axis.set_yticks(ticks, names, fontsize=small)
    axis.set(xlabel="predicted class", ylabel="true class")
    if len(names) <= 20:
        for row, column in np.ndindex(share.shape):
            if share[row, column] >= 0.5:
                axis.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=7,
                          color="white" if share[row, column] > 50 else "black")
    figure.colorbar(picture, ax=axis, label="% of the true class", shrink=0.8)
    return figure


def class_bars(accuracy: Sequence[float | None], names: Sequence[str]) -> Figure:
    """Per-class accuracy as horizontal bars, the best class on top; classes without images are left out."""
    pairs = sorted((value, name) for value, name in zip(accuracy, names) if value is not None)
    figure = Figure(figsize=(7, max(2.5, 0.16 * len(pairs) + 1.2)), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh([name for _, name in pairs], [value for value, _ in pairs], color=TRAIN)
    axis.bar_label(bars, fmt=" %.0f", fontsize=7 if len(pairs) <= 40 else 5)
    axis.axvline(np.mean([value for value, _ in pairs]), color=VAL, linestyle="--", label="mean over classes")
    axis.set(xlabel="top-1 accuracy (%)", xlim=(0, 105))
    axis.tick_params(axis="y", labelsize=8 if len(pairs) <= 40 else 6)
    axis.margins(y=0.01)
    axis.legend(frameon=False, loc="lower right")
    return figure
