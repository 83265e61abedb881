"""Draw docs/pictures/data_path.png, the way of the data through a training run: python docs/draw.py"""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

DOCS = Path(__file__).resolve().parent
# Each stop: what it is, the file that holds it, and what leaves it for the next stop.
DATA = [("label line", "train.txt", "path, label"),
        ("data set", "custom_dataloader.py", "H,W,3 uint8"),
        ("decoded cache", "libs/decoded_cache.py", "H,W,3 uint8"),
        ("augmentation", "libs/batch_transforms.py", "B,3,128,128"),
        ("data loader", "libs/loaders.py", "images, labels")]
STEP = [("network", "student_code.py", "logits B,C"),
        ("loss, step", "libs/engine.py", "epoch summary"),
        ("checkpoint", "libs/checkpoint.py", ""),
        ("events, figures", "libs/run_folder.py", "")]
DECIDED = [("flags", "libs/arguments.py"), ("frozen Run", "libs/run.py"), ("the order of it all", "main.py")]
SIZE = 1.9, 0.85
BLUE, ORANGE, GREEN = "#d9e8f5", "#fbe5d0", "#dcefe4"


def box(axis, x: float, y: float, title: str, file: str, colour: str) -> None:
    axis.add_patch(FancyBboxPatch((x, y), *SIZE, boxstyle="round,pad=0.02,rounding_size=0.12", facecolor=colour,
                                  edgecolor="#444444", linewidth=1))
    axis.text(x + SIZE[0] / 2, y + 0.54, title, ha="center", va="center", fontsize=10.5)
    axis.text(x + SIZE[0] / 2, y + 0.24, file, ha="center", va="center", fontsize=7.5, family="monospace")


def arrow(axis, start: tuple, end: tuple, text: str = "") -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#444444", "linewidth": 1.2})
    if text:
        axis.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.62, text, ha="center", fontsize=7.5,
                  color="#444444")


def draw() -> Figure:
    figure = Figure(figsize=(11.6, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(-0.1, 12.1), ylim=(-0.35, 4.5))
    axis.set_axis_off()
    gap = 2.5
    for i, (title, file) in enumerate(DECIDED):
        box(axis, gap * i, 3.5, title, file, GREEN)
        if i:
            arrow(axis, (gap * (i - 1) + SIZE[0], 3.92), (gap * i, 3.92))
    axis.text(gap * 3 + 0.1, 3.92, "decided once, before the first batch", va="center", fontsize=9, style="italic")
    for i, (title, file, _) in enumerate(DATA):
        box(axis, gap * i, 2.0, title, file, BLUE)
        if i:
            arrow(axis, (gap * (i - 1) + SIZE[0], 2.42), (gap * i, 2.42), DATA[i - 1][2])
    turn = gap * 4 + SIZE[0] / 2
    arrow(axis, (turn, 2.0), (turn, 1.05))
    axis.text(turn - 0.1, 1.5, DATA[-1][2], ha="right", fontsize=7.5, color="#444444")
    for i, (title, file, _) in enumerate(STEP):
        x = gap * (4 - i)
        box(axis, x, 0.15, title, file, ORANGE)
        if i:
            arrow(axis, (x + gap, 0.57), (x + SIZE[0], 0.57), STEP[i - 1][2])
    axis.text(gap * 0.5, 0.57, "once an epoch", va="center", ha="center", fontsize=9, style="italic")
    return figure


if __name__ == "__main__":
    path = DOCS / "pictures/data_path.png"
    draw().savefig(path, dpi=110)
    print(path)
