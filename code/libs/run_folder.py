"""Run folder: TensorBoard events, checkpoints, JSON results, figures and images of one run."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import save_image as save_tensor

from libs import checkpoint, plots
from libs.events import EventFile
from libs.provenance import provenance, write_json
from utils import BadInput, load_image, remove_stale_parts, writing

# The stock scaffold's `add_scalars` makes a folder and an event file for each curve. Here one event file holds
# data/top1_accuracy/train and /val, and this layout puts both into one chart under "Custom scalars".
LAYOUT = {"accuracy": {f"top-{k}": ["Multiline", [f"data/top{k}_accuracy/train", f"data/top{k}_accuracy/val"]]
                       for k in (1, 5)}}


class RunFolder:
    """`logs`/exp_<date and time>, created at once. With `active` False (ranks above 0) every method does nothing.

    Training survives one failed write of events or of a checkpoint, with a warning, because the next one may succeed;
    the second in a row raises BadInput. Raises BadInput, too, if the folder cannot be created.
    """

    def __init__(self, logs: str | os.PathLike, active: bool = True):
        self.active = active
        if not active:
            return
        self.path = _create(Path(logs))
        remove_stale_parts(Path(logs))
        self.models = self.path / "models"
        self.failed: set[str] = set()
        with naming(logs):
            self.events = EventFile(self.path)
        self.events.custom_scalars(LAYOUT)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log each value as the TensorBoard scalar data/NAME at `step`."""
        if self.active:
            for name, value in values.items():
                self.events.scalar(f"data/{name}", value, step)

    def logged(self) -> dict[str, list]:
        """All scalars so far, for `replay` in the folder of the run that continues this one."""
        return self.events.scalars

    def replay(self, scalars: dict[str, list]) -> None:
        if self.active:
            for tag, entries in scalars.items():
                for step, value, when in entries:
                    self.events.scalar(tag, value, step, when)

    def flush(self) -> None:
        if self.active:
            with self._once("TensorBoard's events"):
                self.events.flush()

    def save(self, content: dict, is_best: bool, newer_than: float = 0.0) -> None:
        """Write a checkpoint, as `checkpoint.save` does."""
        if self.active:
            self.flush()
            with self._once("the checkpoint"):
                checkpoint.save(self.models, content, is_best, newer_than)

    @contextmanager
    def _once(self, what: str) -> Iterator[None]:
        """Let one failure pass with a warning; the second in a row raises BadInput."""
        try:
            yield
        except (OSError, checkpoint.Unwritable) as error:
            if what in self.failed:
                raise BadInput(f"{what} could not be written twice in a row: {error}") from None
            self.failed.add(what)
            print(f"warning: {what} could not be written: {error}. Training goes on; if this happens again it stops",
                  file=sys.stderr, flush=True)
        else:
            self.failed.discard(what)

    def image(self, tag: str, image: Tensor, step: int = 0) -> None:
        """Log a 3,H,W image in [0, 1] as Image/TAG at `step`, and save it as images/TAG_STEP.png."""
        if self.active:
            self.events.image(f"Image/{tag}", image, step)
            (self.path / "images").mkdir(exist_ok=True)
            with writing(self.path / "images" / f"{tag}_{step:04}.png") as part:
                save_tensor(image, part, format="png")

    def figure(self, name: str, figure: Figure) -> None:
        """Save NAME.png, and log it as Image/NAME."""
        if self.active:
            plots.save(figure, path := self.path / f"{name}.png")
            self.events.image(f"Image/{name}", load_image(path).transpose(2, 0, 1))

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
            self.flush()
            self.events.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_) -> None:
        self.close()


@contextmanager
def naming(logs: Path) -> Iterator[None]:
    """Turn an OSError into a BadInput that names --logs."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"--logs {logs}: no folder can be created there ({error.strerror})") from None


def _create(logs: Path) -> Path:
    stamp = time.strftime("exp_%Y-%m-%d_%H-%M-%S")  # no colon and no space: valid on Windows, and easy in a shell
    for number in range(100):
        path = logs / (stamp if number == 0 else f"{stamp}_{number}")
        with naming(logs):
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                if not path.is_dir():  # a file lies where the folder belongs
                    raise
    raise BadInput(f"--logs {logs}: a hundred runs started in this second; start again")
