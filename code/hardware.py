"""One decision about the machine: device, number type, memory layout, processes; everything else just uses it."""

import copy
import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils import BadInput

AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute. `rank` of `world` processes: 0 of 1 but for torchrun."""

    device: torch.device
    amp: str = "off"
    memory_format: torch.memory_format = torch.contiguous_format
    rank: int = 0
    world: int = 1

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=AMP_DTYPES[self.amp], enabled=self.amp != "off")

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients from vanishing in fp16; passes everything through otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.amp == "fp16")

    def images(self, images: Tensor) -> Tensor:
        return images.to(self.device, memory_format=self.memory_format, non_blocking=True)

    def labels(self, labels: Tensor) -> Tensor:
        return labels.to(self.device, non_blocking=True)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Join tensors of every process along the first dimension, in the order of the ranks, on the CPU."""
        rows = {name: tensor.cpu() for name, tensor in rows.items()}
        if self.world == 1:
            return rows
        parts: list = [None] * self.world
        dist.all_gather_object(parts, rows)
        return {name: torch.cat([part[name] for part in parts]) for name in rows}

    def average(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over all processes."""
        if self.world == 1:
            return values
        tensor = torch.tensor(list(values.values()), dtype=torch.float32, device=self.device)
        dist.all_reduce(tensor)
        return dict(zip(values, (tensor / self.world).tolist()))

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's BatchNorm statistics: those that the checkpoint gets."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        several = f", {self.world} processes" if self.world > 1 else ""
        layout = ", channels last" if self.memory_format is torch.channels_last else ""
        return f"{name}, {'fp32' if self.amp == 'off' else self.amp}{layout}{several}"


def pick_device(gpu: int | None = None, use_mps: bool = False) -> torch.device:
    """CUDA, else Apple's MPS, else the CPU; `gpu` names one: N for CUDA N, -1 for the CPU.

    Raises BadInput if it is not there.
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


def pick_amp(name: str, device: torch.device) -> str:
    """Resolve "auto" to what is fast on `device`, and check the others. Raises BadInput for fp16 off CUDA."""
    if name == "fp16" and device.type != "cuda":
        raise BadInput(f"--amp fp16 needs a CUDA GPU; on {device.type} take --amp bf16, auto or off")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and bf16_pays(device) else "off"


def bf16_pays(device: torch.device) -> bool:
    """Whether bf16 autocast makes a small convolution at least a quarter faster: measured, in a fraction of a second.

    The names of instruction sets do not tell: some machines have bf16 instructions that are no faster.
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


def agree(value, world: int):
    """The first process's value, in all of them: a measurement may come out differently in each."""
    values = [value]
    if world > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def pick_memory_format(model: nn.Module, images: Tensor, device: torch.device) -> torch.memory_format:
    """Channels last where the model takes it: on a CPU it makes convolutions a good deal faster.

    A student's network may call `.view` on its features, which only the default layout allows: send `images`
    forward and back through a copy. Whatever the network raises in the default layout is raised here.
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
    """Have glibc keep the memory of freed tensors for the next ones, instead of giving it back at once.

    By default each tensor above 32 MB comes fresh from the system, page after page, in every step: more than a third of
    SimpleNet's training step on a CPU (benchmarks/probes.py). The process then stays as large as it once was, and the
    gaps between tensors of different sizes make that more than what the tensors need (benchmarks/bench_conv.py).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


@contextmanager
def first_process_first(rank: int, world: int) -> Iterator[None]:
    """The others begin the block when the first process has left it: it may make files for all."""
    if world > 1 and rank > 0:
        dist.barrier()
    yield
    if world > 1 and rank == 0:
        dist.barrier()


def cores() -> int:
    """Cores that this process may use; a container or a batch system often gives fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """(rank, world) of this process; joins torchrun's group, if this is one, for the block's duration."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield 0, 1
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()
