"""What training changes besides the weights: learning-rate schedule, optimizer, history, place inside the epoch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from libs.hardware import Hardware
from libs.progress import Progress
from utils import random_state, seed_everything, set_random_state


class WarmupCosine:
    """Learning-rate factor of each iteration: linear warm-up, then half a cosine to zero.

    Equations (4) and (5) of the 2019 report (docs/references.md). Counted in epochs, so it is independent of the batch
    size. The first iteration has 1 / (number of warm-up iterations), never 0; warm-up is at most half of the run.
    """

    def __init__(self, epochs: int, warmup: float, steps_per_epoch: int):
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.warmup = self.start = min(warmup, epochs / 2)
        self.peak = 1.0

    def __call__(self, step: int) -> float:
        epoch = step / self.steps_per_epoch
        if epoch < self.warmup:
            return min(1.0, (step + 1) / (self.warmup * self.steps_per_epoch))
        if epoch >= self.epochs:
            return 0.0
        return self.peak * 0.5 * (1 + math.cos(math.pi * (epoch - self.start) / (self.epochs - self.start)))

    def retarget(self, epoch: float, epochs: int) -> None:
        """Change the length of a run at `epoch`: the rate falls from its value there to zero at `epochs`.

        During warm-up the warm-up is finished first, at half of the new length at the latest.
        """
        if epoch < min(self.warmup, epochs / 2):
            self.warmup = self.start = min(self.warmup, epochs / 2)
        else:
            self.peak = self(epoch * self.steps_per_epoch)
            self.start, self.warmup = epoch, min(self.warmup, epoch)
        self.epochs = epochs


@dataclass
class TrainingState:
    """What training changes besides the weights; a checkpoint holds both.

    `position` is None between epochs. Inside one it is {"batches": finished so far, "ranks": [for each process
    {"progress": Progress.state_dict(), "random": utils.random_state()}]}.
    """

    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]  # iteration -> factor of the learning rate
    scaler: torch.amp.GradScaler
    epoch: int = 0  # epochs finished
    best_acc1: float = -1.0  # so that the first epoch is the best so far, even at 0 %
    history: list[dict] = field(default_factory=list)  # a row for each epoch
    position: dict | None = None
    scheduler: LambdaLR | None = None

    @property
    def batches(self) -> int:
        """Batches of the present epoch that are finished."""
        return self.position["batches"] if self.position else 0

    def start(self, steps_per_epoch: int) -> None:
        """Make the scheduler, at the current iteration. Groups without an `initial_lr` start from their `lr`."""
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        done = self.epoch * steps_per_epoch + self.batches
        self.scheduler = LambdaLR(self.optimizer, self.schedule, last_epoch=done - 1)
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), "_step_count": done + 1})

    def enter(self, progress: Progress, seed: int, hardware: Hardware) -> None:
        """Set random states and the running means of `progress` to where this epoch is: its beginning, or `position`.

        Another number of processes than at the time of saving has the same batches; the running means are divided
        among the processes, and their random states are new.
        """
        seed_everything(seed, self.epoch, hardware.rank)
        if self.position is None:
            return
        ranks = self.position["ranks"]
        if len(ranks) == hardware.world:
            progress.load_state_dict(ranks[hardware.rank]["progress"])
            set_random_state(ranks[hardware.rank]["random"], hardware.device)
        else:
            progress.load_state_dict(average_progress([rank["progress"] for rank in ranks], hardware.world))
            seed_everything(seed, self.epoch, hardware.rank, self.batches)

    def to_checkpoint(self, model_arch: str, model: nn.Module, settings: dict) -> dict:
        """The content of a checkpoint file."""
        return {"epoch": self.epoch, "model_arch": model_arch, "state_dict": model.state_dict(),
                "best_acc1": self.best_acc1, "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(), "scaler": self.scaler.state_dict(), "history": self.history,
                "position": self.position, "settings": settings}


def position_of(progress: Progress, hardware: Hardware) -> dict:
    """The `position` of a TrainingState; in several processes, each has to call this."""
    here = {"progress": progress.state_dict(), "random": random_state(hardware.device)}
    return {"batches": progress.batches, "ranks": hardware.gather_objects(here)}


def average_progress(states: list[dict], world: int) -> dict:
    """`Progress.state_dict()` of each of `world` processes, from those of another number of processes."""
    meters = {name: (sum(state["meters"][name][0] for state in states) / world,
                     sum(state["meters"][name][1] for state in states) // world) for name in states[0]["meters"]}
    return {**states[0], "images": sum(state["images"] for state in states) // world, "meters": meters}
