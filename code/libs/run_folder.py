"""Run folder: TensorBoard events, checkpoints, JSON results, figures and images of one run."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import save_image as save_tensor

from libs import plots
from libs.provenance import provenance, write_json
from utils import BadInput, writing

# The stock scaffold's `add_scalars` makes a folder and an event file for each curve. Here one event file holds
# data/top1_accuracy/train and /val, and this layout puts both into one chart under "Custom scalars".
LAYOUT = {"accuracy": {f"top-{k}": ["Multiline", [f"data/top{k}_accuracy/train", f"data/top{k}_accuracy/val"]]
                       for k in (1, 5)}}


class RunFolder:
    """`logs`/exp_<date and time>, created at once. With `active` False (ranks above 0) every method does nothing.

    Raises BadInput if the folder cannot be created.
    """

    def __init__(self, logs: str | os.PathLike, active: bool = True):
        self.active = active
        if not active:
            return
        self.path = _create(Path(logs))
        self.models = self.path / "models"
        self.writer = SummaryWriter(self.path)
        self.writer.add_custom_scalars(LAYOUT)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log each value as the TensorBoard scalar data/NAME at `step`."""
        if self.active:
            for name, value in values.items():
                self.writer.add_scalar(f"data/{name}", value, step)

    def flush(self) -> None:
        if self.active:
            self.writer.flush()

    def image(self, tag: str, image: Tensor, step: int = 0) -> None:
        """Log a 3,H,W image in [0, 1] as Image/TAG at `step`, and save it as images/TAG_STEP.png."""
        if self.active:
            self.writer.add_image(f"Image/{tag}", image, step)
            (self.path / "images").mkdir(exist_ok=True)
            with writing(self.path / "images" / f"{tag}_{step:04}.png") as part:
                save_tensor(image, part, format="png")

    def figure(self, name: str, figure: Figure) -> None:
        """Save NAME.png, and log it as Image/NAME."""
        if self.active:
            plots.save(figure, self.path / f"{name}.png")
            self.writer.add_figure(f"Image/{name}", figure)

    def json(self, name: str, content: dict) -> None:
        """Write NAME.json with the provenance of the run."""
        if self.active:
            write_json(self.path / f"{name}.json", {**content, "made_by": provenance()})

    def class_report(self, summary: dict, names: Sequence[str]) -> None:
        """Save the confusion matrix and the per-class accuracy of a `metrics.summarize` as figures."""
        if self.active:
            self.figure("confusion_matrix", plots.confusion(summary["confusion"], names))
            self.figure("class_accuracy", plots.class_bars(summary["class_accuracy"], names))

    def close(self) -> None:
        if self.active:
            self.writer.close()


def _create(logs: Path) -> Path:
    stamp = time.strftime("exp_%Y-%m-%d_%H-%M-%S")  # no colon and no space: valid on Windows, and easy in a shell
    for number in range(100):
        path = logs / (stamp if number == 0 else f"{stamp}_{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise BadInput(f"--logs {logs}: no folder can be created there ({error.strerror})") from None
    raise FileExistsError(f"{logs / stamp}: a hundred runs started in this second")
