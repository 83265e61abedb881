"""Progress bar (terminal) or log lines (file), with running metrics, throughput, data wait and time left."""

import sys
import time
from collections.abc import Iterable, Iterator

from torch import Tensor
from tqdm import tqdm

from utils import AverageMeter


def clock(seconds: float) -> str:
    """125.3 -> '2:05'; 4000 -> '1:06:40'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Iterate over the batches of `loader`, measuring the time spent waiting for data; report every `print_freq`.

    Metrics passed to `update` may be tensors. They are read only when they are printed, because reading one
    synchronises with the GPU.
    """

    def __init__(self, title: str, loader: Iterable, print_freq: int = 10, show: bool = True):
        self.title, self.loader, self.print_freq, self.show = title, loader, print_freq, show
        self.meters: dict[str, AverageMeter] = {}
        self.images = self.batches = 0
        self.waited = self.elapsed = self.reported = 0.0
        self.bar = tqdm(total=len(loader), desc=title, unit="batch", leave=False, dynamic_ncols=True,
                        disable=not (show and sys.stderr.isatty()))

    def __iter__(self) -> Iterator:
        before = time.perf_counter()
        self.started = before - self.elapsed
        try:
            for batch in self.loader:
                self.waited += time.perf_counter() - before
                yield batch
                before = time.perf_counter()
        finally:
            self.bar.close()

    def update(self, images: int, **values) -> bool:
        """Count a batch of `images` with its mean metrics. True every `print_freq` batches, and after the last."""
        self.elapsed = time.perf_counter() - self.started
        self.images += images
        self.batches += 1
        for name, value in values.items():
            self.meters.setdefault(name, AverageMeter()).update(value, images)
        due = self.batches % self.print_freq == 0 or self.batches == len(self.loader)
        if self.show and (due or self.elapsed > self.reported + 10):  # slow batches: at least every 10 s
            self.reported = self.elapsed
            self._report()
        self.bar.update()
        return due

    def _report(self) -> None:
        if not self.bar.disable:
            self.bar.set_postfix_str(f"{describe(self.averages())} | {self.speed()}", refresh=False)
        elif self.batches < len(self.loader):  # the caller prints the line of the whole epoch
            left = self.elapsed / self.batches * (len(self.loader) - self.batches)
            print(f"{self.title} [{self.batches}/{len(self.loader)}] {describe(self.averages())} | {self.speed()}, "
                  f"{clock(left)} left", flush=True)

    def state_dict(self) -> dict:
        """For `load_state_dict` of a resumed epoch."""
        return {"images": self.images, "batches": self.batches, "waited": self.waited, "elapsed": self.elapsed,
                "meters": {name: (meter.sum.cpu() if isinstance(meter.sum, Tensor) else meter.sum, meter.count)
                           for name, meter in self.meters.items()}}

    def load_state_dict(self, state: dict) -> None:
        """Count on from there; `loader` has to begin with the batch after it."""
        self.images, self.batches = state["images"], state["batches"]
        self.waited, self.elapsed = state["waited"], state["elapsed"]
        for name, (total, count) in state["meters"].items():
            self.meters[name] = AverageMeter()
            self.meters[name].sum, self.meters[name].count, self.meters[name].avg = total, count, total / max(count, 1)
        self.bar.update(self.batches)

    def averages(self) -> dict[str, float]:
        return {name: float(meter.avg) for name, meter in self.meters.items()}

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data, 0 to 1."""
        return self.waited / self.elapsed if self.elapsed else 0.0

    @property
    def images_per_second(self) -> float:
        return self.images / self.elapsed if self.elapsed else 0.0

    def speed(self) -> str:
        return f"{self.images_per_second:.0f} images/s, {self.data_wait:.0%} waiting for data"


def describe(metrics: dict[str, float]) -> str:
    """{'loss': 2.1, 'top1': 40} -> 'loss 2.100 top1 40.00'."""
    return " ".join(f"{name} {value:.3f}" if name == "loss" else f"{name} {value:.2f}"
                    for name, value in metrics.items())
