"""What a person sees while batches go by: a bar in a terminal, plain lines in a file; speed, waiting, time left."""

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from utils import AverageMeter


def clock(seconds: float) -> str:
    """125.3 -> '2:05'; 4000 -> '1:06:40'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Iterate over a loader's batches, timing how long each one is waited for; report every `print_freq` batches.

    `update` takes running values (loss, top1, ...) that may be tensors: they are read, which on a GPU waits for
    all work before, only when something is printed.
    """

    def __init__(self, title: str, loader: Iterable, print_freq: int = 10, show: bool = True):
        self.title, self.loader, self.print_freq, self.show = title, loader, print_freq, show
        self.meters: dict[str, AverageMeter] = {}
        self.images = self.batches = 0
        self.waited = self.elapsed = self.reported = 0.0
        self.bar = tqdm(total=len(loader), desc=title, unit="batch", leave=False, dynamic_ncols=True,
                        disable=not (show and sys.stderr.isatty()))

    def __iter__(self) -> Iterator:
        self.started = before = time.perf_counter()
        try:
            for batch in self.loader:
                self.waited += time.perf_counter() - before
                yield batch
                before = time.perf_counter()
        finally:
            self.bar.close()

    def update(self, images: int, **values) -> bool:
        """Count a batch of so many images and its mean values. True if this batch is one to report."""
        self.elapsed = time.perf_counter() - self.started
        self.images += images
        self.batches += 1
        for name, value in values.items():
            self.meters.setdefault(name, AverageMeter()).update(value, images)
        due = self.batches % self.print_freq == 0 or self.batches == len(self.loader)
        if self.show and (due or self.elapsed > self.reported + 10):  # a slow batch is news as well
            self.reported = self.elapsed
            self._report()
        self.bar.update()
        return due

    def _report(self) -> None:
        if not self.bar.disable:
            self.bar.set_postfix_str(f"{self.figures()} | {self.speed()}", refresh=False)
        elif self.batches < len(self.loader):  # the closing line is the caller's
            left = self.elapsed / self.batches * (len(self.loader) - self.batches)
            print(f"{self.title} [{self.batches}/{len(self.loader)}] {self.figures()} | {self.speed()}, "
                  f"{clock(left)} left", flush=True)

    def averages(self) -> dict[str, float]:
        return {name: float(meter.avg) for name, meter in self.meters.items()}

    @property
    def data_wait(self) -> float:
        """The share of time spent waiting for data, 0 to 1."""
        return self.waited / self.elapsed if self.elapsed else 0.0

    @property
    def images_per_second(self) -> float:
        return self.images / self.elapsed if self.elapsed else 0.0

    def figures(self) -> str:
        return describe(self.averages())

    def speed(self) -> str:
        return f"{self.images_per_second:.0f} images/s, {self.data_wait:.0%} waiting for data"


def describe(figures: dict[str, float]) -> str:
    """{'loss': 2.1, 'top1': 40} -> 'loss 2.100 top1 40.00'."""
    return " ".join(f"{name} {value:.3f}" if name == "loss" else f"{name} {value:.2f}"
                    for name, value in figures.items())
