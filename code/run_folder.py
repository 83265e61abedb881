"""Where a run leaves its traces: one folder, one event file, JSON beside it, pictures under images/."""

import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchvision
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import save_image as save_tensor

import figures
from utils import BadInput, writing

# One event file a run holds both curves as data/top1_accuracy/train and /val: `add_scalars`, as the stock scaffold
# uses it, would make a folder and a file for each. The layout draws them into one chart, under "Custom scalars".
LAYOUT = {"accuracy": {f"top-{k}": ["Multiline", [f"data/top{k}_accuracy/train", f"data/top{k}_accuracy/val"]]
                       for k in (1, 5)}}


class RunFolder:
    """`logs`/exp_<date and time>; made when the run really starts.

    For any process but the first (`active` False) every method does nothing.
    """

    def __init__(self, logs: str | os.PathLike, active: bool = True):
        self.active = active
        if not active:
            return
        self.path = self._make(Path(logs))
        self.writer = SummaryWriter(self.path)
        self.writer.add_custom_scalars(LAYOUT)  # training and validation in one chart

    @staticmethod
    def _make(logs: Path) -> Path:
        stamp = time.strftime("exp_%Y-%m-%d_%H-%M-%S")  # no colon, no space: Windows and shells can hold it
        for number in range(100):
            path = logs / (stamp if number == 0 else f"{stamp}_{number}")
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                continue
            except OSError as error:
                raise BadInput(f"--logs {logs}: no folder can be made there ({error.strerror})") from None
        raise FileExistsError(f"{logs / stamp}: a hundred runs began in this second")

    @property
    def models(self) -> Path:
        path = self.path / "models"
        path.mkdir(exist_ok=True)
        return path

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Put each value into TensorBoard as data/NAME at `step`."""
        if self.active:
            for name, value in values.items():
                self.writer.add_scalar(f"data/{name}", value, step)

    def flush(self) -> None:
        if self.active:
            self.writer.flush()

    def image(self, tag: str, image: Tensor, step: int = 0) -> None:
        """A 3,H,W image in [0, 1]: TensorBoard's Image/TAG at `step`, and images/TAG_STEP.png."""
        if self.active:
            self.writer.add_image(f"Image/{tag}", image, step)
            (self.path / "images").mkdir(exist_ok=True)
            with writing(self.path / "images" / f"{tag}_{step:04}.png") as part:
                save_tensor(image, part, format="png")

    def figure(self, name: str, figure: Figure) -> None:
        """NAME.png in the run folder, and Image/NAME in TensorBoard."""
        if self.active:
            figures.save(figure, self.path / f"{name}.png")
            self.writer.add_figure(f"Image/{name}", figure)

    def json(self, name: str, content: dict) -> None:
        """NAME.json, with the versions and the command that made it; NaN is written as null."""
        if self.active:
            with writing(self.path / f"{name}.json") as part:
                part.write_text(json.dumps(plain({**content, "made_by": provenance()}), indent=1) + "\n")

    def class_report(self, summary: dict, names: list[str]) -> None:
        """Confusion matrix and per-class accuracy of a `metrics.summarize`, as pictures."""
        if self.active:
            self.figure("confusion_matrix", figures.confusion(summary["confusion"], names))
            self.figure("class_accuracy", figures.class_bars(summary["class_accuracy"], names))

    def close(self) -> None:
        if self.active:
            self.writer.close()


def provenance() -> dict:
    """What one needs to know to make a result again."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)  # python -m labs.sweep
    return {
        "command": " ".join([f"-m {module}" if module else Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(), "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def _commit() -> str | None:
    """The commit of the code, with + if it was changed since; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def plain(value):
    """The same, with NaN and infinity as None: JSON has no words for them."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
