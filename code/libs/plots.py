"""All figures: arrays in, a matplotlib Figure out; `save` writes it as PNG."""

import os
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from torch import Tensor

from utils import denormalize, writing

# Okabe and Ito's palette, safe for colour-blind readers: blue, vermilion, green, orange, purple, sky, black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#000000")
TRAIN, VAL = COLOURS[:2]
rcParams["text.parse_math"] = False  # class and file names may contain dollar signs


def save(figure: Figure, path: str | os.PathLike, dpi: int = 110) -> None:
    with writing(path) as part:
        figure.savefig(part, dpi=dpi, format="png")


def headline(figure: Figure, text: str, fontsize: float = 11) -> None:
    """Set the figure's title, wrapped to its width."""
    figure.suptitle(textwrap.fill(text, max(20, int(130 * figure.get_figwidth() / fontsize))), fontsize=fontsize)


def pixels(images: Tensor) -> np.ndarray:
    """Normalised N,3,H,W -> N,H,W,3 floats in [0, 1]."""
    return denormalize(images).cpu().permute(0, 2, 3, 1).numpy()


def curves(history: Sequence[dict], title: str = "") -> Figure:
    """Loss, top-1, top-5 and learning rate by epoch; training and validation share a panel.

    `history` has a dict for each epoch: epoch (from 1), rate, and train and val with loss, top1, top5.
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
    headline(figure, title)
    return figure


def several_runs(runs: dict[str, dict], title: str = "") -> Figure:
    """Top-1, top-5, learning rate and loss of several runs by epoch, a colour each; training is dashed.

    `runs` is {name: {(measure, split): (epochs, values)}} with the measures top1, top5, loss (train, val) and rate.
    """
    figure = Figure(figsize=(9.6, 6.8), layout="constrained")
    panels = {"top1": "top-1 accuracy (%)", "top5": "top-5 accuracy (%)", "rate": "learning rate",
              "loss": "cross-entropy loss"}
    for axis, (measure, label) in zip(figure.subplots(2, 2).flat, panels.items()):
        for (name, series), colour in zip(runs.items(), COLOURS * len(runs)):
            for split, style in (("train", "--"), ("val", "-")):
                if (measure, split) in series:
                    axis.plot(*series[measure, split], style, color=colour, linewidth=1.3,
                              label=name if split == "val" or measure == "rate" else None)
        axis.set(xlabel="epoch", ylabel=label)
        axis.grid(alpha=0.3)
    clip_outliers(figure.axes[3])
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    headline(figure, title or "validation solid, training (augmented images) dashed")
    return figure


def clip_outliers(axis) -> None:
    """End the y axis at the 97th percentile if a few points lie far above, and annotate the largest."""
    values = np.concatenate([line.get_ydata() for line in axis.get_lines()] or [[0.0]])
    usual, highest = 1.3 * np.quantile(values, 0.97), values.max()
    if highest > 2 * usual:
        axis.set_ylim(0, usual)
        axis.text(0.98, 0.96, f"largest value {highest:,.0f}, off the scale", transform=axis.transAxes, ha="right",
                  va="top", fontsize=8)


def lines(panels: dict[str, dict[str, tuple]], xlabels: Sequence[str], ylabel: str, title: str = "") -> Figure:
    """A panel for each of {panel: {line: (xs, ys) or (xs, ys, lows, highs)}}, sharing a y axis of 0 to 100."""
    figure = Figure(figsize=(4.7 * len(panels) + 0.2, 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (panel, series), xlabel in zip(axes, panels.items(), xlabels):
        for (name, (xs, ys, *band)), colour, mark in zip(series.items(), COLOURS, "osD^vP*"):
            axis.plot(xs, ys, color=colour, marker=mark, markersize=4, label=name)
            if band:
                axis.fill_between(xs, *band, color=colour, alpha=0.15, linewidth=0)
        axis.set(xlabel=xlabel, title=panel, ylim=(0, 102))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel(ylabel)
    headline(figure, title)
    return figure


def bars(panels: dict[str, dict[str, Sequence[float]]], groups: Sequence[str], ylabel: str, title: str = "") -> Figure:
    """Grouped bars, in stacked panels, of {panel: {series: a value for each group}}, from 0 to 100."""
    figure = Figure(figsize=(max(7.0, 1.35 * len(groups) + 1), 2.9 * len(panels) + 0.7), layout="constrained")
    for axis, (panel, series) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items()):
        width = 0.82 / len(series)
        for place, ((name, values), colour) in enumerate(zip(series.items(), COLOURS)):
            at = [group + (place - (len(series) - 1) / 2) * width for group in range(len(groups))]
            drawn = axis.bar(at, values, width, color=colour, label=name, edgecolor="white", linewidth=0.5)
            axis.bar_label(drawn, fmt="%.0f", fontsize=7)
        axis.set_xticks(range(len(groups)), groups, fontsize=8)
        axis.set(ylabel=ylabel, title=panel, ylim=(0, 108))
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    handles, names = figure.axes[0].get_legend_handles_labels()
    columns = min(len(names), int(figure.get_figwidth() / (0.7 + 0.085 * max(map(len, names)))))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    headline(figure, title)
    return figure


def over_epochs(panels: dict[str, dict[str, tuple]], title: str = "") -> Figure:
    """A panel for each {label of the y axis: {line: (epochs, values)}}, side by side."""
    figure = Figure(figsize=(4.5 * len(panels), 3.7), layout="constrained")
    for axis, (label, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for (name, (epochs, values)), colour, mark in zip(series.items(), COLOURS, "osD^vP*"):
            axis.plot(epochs, values, color=colour, marker=mark, markersize=3, label=name)
        axis.set(xlabel="epoch", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    headline(figure, title)
    return figure


def attack_rows(original: Tensor, adversarial: Tensor, before: Sequence[str], after: Sequence[str],
                title: str = "") -> Figure:
    """A row for each image: original, noise, ten times the noise, adversarial (the 2019 report, Figure 11).

    Images normalised N,3,H,W; `before` and `after` are captions of original and adversarial images. No noise is grey.
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
    headline(figure, title)
    return figure


def overlay_rows(images: Tensor, saliency: Tensor, overlay: Tensor, captions: Sequence[str], title: str = "") -> Figure:
    """Six images per line, each with its saliency map and the overlay below it.

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
        show(axes[3 * line, column], image)
        axes[3 * line, column].set_title(captions[i], fontsize=7.5)
        show(axes[3 * line + 1, column], heat[i] / max(np.quantile(heat[i], 0.99), 1e-12), cmap="magma", vmin=0, vmax=1)
        show(axes[3 * line + 2, column], blended[i])
    for axis in axes.flat:
        axis.set_axis_off()
    headline(figure, title)
    return figure


def map_rows(images: Tensor, maps: Tensor, captions: Sequence[str], name: str, title: str = "") -> Figure:
    """A row for each image: input, map, and blends of both, with the map upsampled bilinearly and by nearest.

    images N,3,H,W normalised; maps N,h,w, each on its own colour scale. `name` is the map's title.
    """
    figure = Figure(figsize=(8.4, 2.3 * len(images) + 0.4), layout="constrained")
    extent = 0, images.shape[3], images.shape[2], 0
    for axes, image, heat, caption in zip(figure.subplots(len(images), 4, squeeze=False), pixels(images),
                                          maps.detach().cpu().numpy(), captions):
        first = axes is figure.axes[0] or axes[0] is figure.axes[0]
        heads = ("input", f"{name} ({heat.shape[0]} x {heat.shape[1]})", "blend, bilinear", "blend, nearest")
        show(axes[0], image, heads[0] if first else "", caption)
        show(axes[1], heat, heads[1] if first else "", cmap="magma", extent=extent, interpolation="nearest")
        for axis, interpolation, head in zip(axes[2:], ("bilinear", "nearest"), heads[2:]):
            show(axis, image, head if first else "", extent=extent)
            axis.imshow(heat, cmap="magma", alpha=0.5, extent=extent, interpolation=interpolation)
    headline(figure, title)
    return figure


def photo_rows(rows: Sequence[Sequence[Tensor]], captions: Sequence[Sequence[str]], heads: Sequence[str],
               title: str = "", names: Sequence[str] = ()) -> Figure:
    """Rows of images 3,H,W in [0, 1], with captions, column heads, and row names."""
    side, lines = max(2.1, 3.6 / len(heads)), 1 + max(caption.count("\n") for row in captions for caption in row)
    figure = Figure(figsize=(side * len(heads) + 0.3, (side + 0.17 * lines) * len(rows) + 0.5), layout="constrained")
    for number, axes in enumerate(figure.subplots(len(rows), len(heads), squeeze=False)):
        for axis, image, caption, head in zip(axes, rows[number], captions[number], heads):
            show(axis, image.permute(1, 2, 0).clamp(0, 1).numpy(), head if number == 0 else "", caption)
        if names:
            axes[0].set_ylabel(names[number], fontsize=8)
    headline(figure, title, fontsize=10)
    return figure


def map_grid(image: Tensor, layers: dict[str, np.ndarray], captions: dict[str, Sequence[str]], title: str = "",
             normalized: bool = True) -> Figure:
    """The input 1,3,H,W and a row of feature maps for each of {layer: K,h,w in [0, 1]}, with captions."""
    columns = 1 + max(len(maps) for maps in layers.values())
    figure = Figure(figsize=(1.6 * columns + 0.3, 2.0 * len(layers) + 0.4), layout="constrained")
    grid = figure.subplots(len(layers), columns, squeeze=False)
    for axes, (layer, maps) in zip(grid, layers.items()):
        for axis in (axes[0], *axes[1 + len(maps) :]):
            axis.set_axis_off()
        for axis, values, caption in zip(axes[1:], maps, captions[layer]):
            show(axis, values, caption=caption, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes[1].set_ylabel(f"{layer}\n{maps.shape[1]} x {maps.shape[2]}", fontsize=8)
    grid[0, 0].set_axis_on()
    show(grid[0, 0], pixels(image)[0] if normalized else image[0].cpu().permute(1, 2, 0).numpy(), caption="input")
    headline(figure, title)
    return figure


def mosaic(filters: Tensor, columns: int = 16, title: str = "") -> Figure:
    """Filters N,3,K,K in [0, 1], `columns` to a row."""
    tiles = filters.cpu().permute(0, 2, 3, 1).numpy()
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(0.58 * columns, 0.58 * rows + 0.45))
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.08, "hspace": 0.08})
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, tile in zip(axes.flat, tiles):
        axis.imshow(tile, interpolation="nearest")
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.45 / (0.58 * rows + 0.45))
    headline(figure, title, fontsize=10)
    return figure


def digit_rows(rows: dict[str, tuple[Tensor, Tensor]], title: str = "") -> Figure:
    """A row of images for each {title: (images N,1,H,W in [0, 1], whether to frame each, N bool)}."""
    columns = len(next(iter(rows.values()))[0])
    figure = Figure(figsize=(1.15 * columns + 0.8, 1.2 * len(rows) + 0.5), layout="constrained")
    for axes, (name, (images, framed)) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items()):
        for axis, image, frame in zip(axes, images.detach().cpu()[:, 0].numpy(), framed):
            show(axis, image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.spines[:].set(color=VAL if frame else "grey", linewidth=3 if frame else 0.5)
        axes[0].set_ylabel(name, fontsize=8)
    headline(figure, title, fontsize=9)
    return figure


def class_examples(rows: dict[str, tuple[Tensor, Sequence[str], Sequence[bool]]], title: str = "") -> Figure:
    """A row for each {title: (images N,3,H,W, captions, correct)}; misclassified images have a thick frame."""
    columns = max(len(captions) for _, captions, _ in rows.values())
    figure = Figure(figsize=(1.62 * columns + 0.5, 1.95 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (name, (images, captions, correct)) in zip(grid, rows.items()):
        for axis in axes[len(captions) :]:
            axis.set_axis_off()
        for axis, image, caption, is_correct in zip(axes, pixels(images), captions, correct):
            show(axis, image, caption=caption)
            axis.spines[:].set(color=TRAIN if is_correct else VAL, linewidth=1 if is_correct else 3)
        axes[0].set_ylabel(name, fontsize=8)
    headline(figure, title)
    return figure


def show(axis, image: np.ndarray, title: str = "", caption: str = "", **keywords) -> None:
    axis.imshow(image, **keywords)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(caption, fontsize=8)


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Confusion matrix; rows are true classes, in percent of the class's images."""
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
    """Per-class accuracy as horizontal bars, the best class on top; classes without images are omitted."""
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
