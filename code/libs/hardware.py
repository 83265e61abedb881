"""Device, mixed precision and memory format of a run."""

import copy
import ctypes
import os
import sys
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from libs.processes import broadcast_object
from utils import BadInput

AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """Autocast type for each purpose: "off" (fp32), "bf16" or "fp16"."""

    training: str = "off"  # forward pass of training, adversarial training included
    attack: str = "off"  # forward pass that an attack takes its gradients from
    report: str = "off"  # logits behind every reported figure, and pictures


@dataclass(frozen=True)
class Hardware:
    """Where a run computes, and how. `rank` of `world` processes: 0 of 1 unless started by torchrun."""

    device: torch.device
    precision: Precision = Precision()
    memory_format: torch.memory_format = torch.contiguous_format
    rank: int = 0
    world: int = 1

    def autocast(self, purpose: str) -> torch.autocast:
        """Autocast context for `purpose`: "training", "attack" or "report"."""
        dtype = AMP_DTYPES[getattr(self.precision, purpose)]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16 training, whose small gradients would underflow; disabled otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision.training == "fp16")

    def images(self, images: Tensor) -> Tensor:
        return images.to(self.device, memory_format=self.memory_format, non_blocking=True)

    def labels(self, labels: Tensor) -> Tensor:
        return labels.to(self.device, non_blocking=True)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Concatenate the tensors of all processes along the first dimension, in rank order, on the CPU."""
        rows = {name: tensor.cpu() for name, tensor in rows.items()}
        if self.world == 1:
            return rows
        parts = self.gather_objects(rows)
        return {name: torch.cat([part[name] for part in parts]) for name in rows}

    def average(self, values: dict[str, float]) -> dict[str, float]:
        """Mean over all processes."""
        if self.world == 1:
            return values
        tensor = torch.tensor(list(values.values()), dtype=torch.float32, device=self.device)
        dist.all_reduce(tensor)
        return dict(zip(values, (tensor / self.world).tolist()))

    def gather_objects(self, value) -> list:
        """The values of all processes, in rank order; tensors in them have to be on the CPU."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def largest(self, value: int) -> int:
        """The maximum over all processes."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value)  # on the CPU
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers (BatchNorm statistics) to the other ranks; they are those in the checkpoint."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def broadcast(self, value):
        """Rank 0's value in all processes: a measurement may come out differently in each."""
        return broadcast_object(value, self.world)

    def describe(self, purpose: str) -> str:
        """One line such as "cpu, bf16, channels last"; `purpose` as for `autocast`."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        amp = getattr(self.precision, purpose)
        several = f", {self.world} processes" if self.world > 1 else ""
        layout = ", channels last" if self.memory_format is torch.channels_last else ""
        return f"{name}, {'fp32' if amp == 'off' else amp}{layout}{several}"


def set_up(device: torch.device, model: nn.Module, example: Tensor, amp: str = "auto", measured: str | None = None,
           rank: int = 0, world: int = 1) -> Hardware:
    """Move `model` to `device` in its fastest memory format, and choose the precision; `example` is a batch 1,C,H,W.

    `amp` and `measured` as for `pick_precision`.
    """
    model.to(device)
    layout = pick_memory_format(model, example, device)
    model.to(memory_format=layout)
    return Hardware(device, broadcast_object(pick_precision(amp, device, measured), world), layout, rank, world)


def pick_device(gpu: int | None = None, use_mps: bool = False) -> torch.device:
    """The device of --gpu and --use-mps: CUDA if available, else Apple's MPS, else the CPU; -1 is the CPU.

    Under torchrun each process takes the GPU of its local rank. Raises BadInput for a device that is not available.
    """
    if use_mps:
        if not torch.backends.mps.is_available():
            raise BadInput("--use-mps: this machine, or this build of torch, has no Apple MPS device")
        return torch.device("mps")
    local, world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    count = torch.cuda.device_count()
    if gpu is not None and gpu >= 0:
        if world > 1:
            raise BadInput(f"--gpu {gpu}: under torchrun each process has a GPU of its own; leave --gpu out, or give "
                           "--gpu -1 for the CPU")
        if gpu >= count:
            there = f"has CUDA GPUs 0..{count - 1}" if count else "has no CUDA GPU that torch can use"
            raise BadInput(f"--gpu {gpu}: this machine {there}; leave --gpu out for the best device there is, "
                           "or give --gpu -1 for the CPU")
        return torch.device("cuda", gpu)
    if gpu is None and torch.cuda.is_available():
        if local >= count:
            raise BadInput(f"torchrun started more processes on this machine than its {count} GPUs; take "
                           f"--nproc-per-node={count}")
        return torch.device("cuda", local)
    if gpu is None and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_precision(amp: str, device: torch.device, measured: str | None = None) -> Precision:
    """Resolve --amp, the only place where precision is decided. Raises BadInput for fp16 without CUDA.

    A named type holds for everything. "auto" trains in `measured`, or in the fastest type of `device`, attacks in the
    same unless that is fp16 (small gradients would underflow, and their sign is all an attack uses), and reports fp32.
    """
    if amp == "fp16" and device.type != "cuda":
        raise BadInput(f"--amp fp16 needs a CUDA GPU; on {device.type} take --amp bf16, auto or off")
    if amp != "auto":
        return Precision(amp, amp, amp)
    fastest = measured or fastest_amp(device)
    return Precision(fastest, "off" if fastest == "fp16" else fastest)


def fastest_amp(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and bf16_is_faster(device) else "off"


def bf16_is_faster(device: torch.device) -> bool:
    """Time a small convolution, forward and backward: True if bf16 autocast is at least 1.25 times as fast as fp32.

    Instruction set names do not decide this: some processors have bf16 instructions that are no faster.
    """
    layer = nn.Conv2d(64, 64, 3, padding=1).to(device, memory_format=torch.channels_last)
    images = torch.ones(8, 64, 32, 32, device=device).to(memory_format=torch.channels_last)

    def seconds(enabled: bool) -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            layer(images).sum().backward()
        return time.perf_counter() - start

    rounds = [(seconds(False), seconds(True)) for _ in range(6)][1:]
    return min(fp32 for fp32, _ in rounds) > 1.25 * min(bf16 for _, bf16 in rounds)


def pick_memory_format(model: nn.Module, images: Tensor, device: torch.device) -> torch.memory_format:
    """Channels last if the model has convolutions and runs in it, else the contiguous format.

    Channels last is faster for convolutions, but a student's network may call `.view` on its features, which needs
    the contiguous format. So `images` go forward and backward through a copy of the model; errors in the contiguous
    format are the caller's.
    """
    eligible = device.type in ("cpu", "cuda") and any(isinstance(m, nn.Conv2d) for m in model.modules())
    if eligible:
        try:
            _try_out(model, images, device, torch.channels_last)
            return torch.channels_last
        except NotImplementedError:
            raise
        except RuntimeError as error:
            if "view" not in str(error):
                raise
    _try_out(model, images, device, torch.contiguous_format)
    return torch.contiguous_format


def _try_out(model: nn.Module, images: Tensor, device: torch.device, layout: torch.memory_format) -> None:
    copied = copy.deepcopy(model).eval().to(memory_format=layout)
    images = images.to(device, memory_format=layout).requires_grad_(True)  # a gradient there even without parameters
    copied(images).sum().backward()


def keep_memory() -> None:
    """Let glibc reuse the memory of freed tensors instead of returning it to the system (Linux only).

    By default each tensor above 32 MB is mapped anew, page by page, in every step: over a third of SimpleNet's training
    step on a CPU (benchmarks/probes.py). In exchange the process never shrinks, and fragmentation makes its peak higher
    than what the tensors need (benchmarks/bench_conv.py).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def cores() -> int:
    """Cores available to this process: in a container or under a batch system fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
