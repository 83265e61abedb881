"""What machines do wrong while a run computes, in sentences: memory, disks, and processes that were killed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils import BadInput


@contextmanager
def in_sentences(batch_size: int, world: int = 1) -> Iterator[None]:
    """Turn errors of the machine into BadInput with something to try; other errors are bugs and pass."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        sentence = explain(error, batch_size, world)
        if sentence is None:
            raise
        raise BadInput(sentence) from error


def explain(error: Exception, batch_size: int, world: int = 1) -> str | None:
    """A sentence about an error of the machine; None for any other."""
    text = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in text:
        where = "the GPU" if isinstance(error, torch.OutOfMemoryError) else "this machine"
        smaller = max(world, batch_size // 2 // world * world)
        return (f"out of memory on {where} with --batch-size {batch_size}. Try --batch-size {smaller}" if
                smaller < batch_size else f"out of memory on {where}, even with --batch-size {batch_size}")
    if "DataLoader worker" in text:
        return ("a process of the data loader was killed or ended, often for want of memory. Try fewer of them: "
                f"--workers 1, or 0 ({text.splitlines()[0]})")
    if world > 1 and any(words in text for words in ("Connection", "connection", "timed out", "Timed out", "NCCL")):
        return f"another process of this run has ended, and its own error says why ({text.splitlines()[0][:100]})"
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, BrokenPipeError):
        return f"{error.filename or 'a file'}: {error.strerror}"
    return None
