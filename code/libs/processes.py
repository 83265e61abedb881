"""The processes of a run: one, or those that torchrun has started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def started(device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield (rank, world) of this process, inside torchrun's process group if there is one."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield 0, 1
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    from torch.distributed.rendezvous import rendezvous  # imported here: some builds of torch do not have it

    store, rank, world = next(rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        # After --max-restarts the store is still that of the processes that ended, with their addresses.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    # Gloo also next to NCCL: `largest` is asked after each step, and must not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    try:
        yield rank, world
    finally:
        dist.destroy_process_group()


@contextmanager
def main_process_first(rank: int, world: int) -> Iterator[None]:
    """Rank 0 runs the block first, the other ranks wait: it may make files that all of them read."""
    if world > 1 and rank > 0:
        dist.barrier()
    yield
    if world > 1 and rank == 0:
        dist.barrier()


def broadcast_object(value, world: int):
    """Rank 0's value in all processes."""
    values = [value]
    if world > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]
