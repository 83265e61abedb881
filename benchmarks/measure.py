"""Shared by the benchmarks: interleaved timing, peak memory, tables, and records with provenance."""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import torch  # noqa: E402

from libs.provenance import memory_mb, provenance, write_json  # noqa: E402


def parser(description: str) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--json", type=Path, metavar="FILE", help="also write the figures, with hardware and versions")
    flags.add_argument("--rounds", type=int, default=7, metavar="N", help="timed rounds, at least 5 (default: 7)")
    flags.add_argument("--batch", type=int, default=64, metavar="N", help="images per step (default: 64)")
    flags.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    return flags


class InOwnProcess:
    """A callable in a worker process: `make(*arguments)` creates it there, and each call runs there.

    So each side has its own heap and allocator settings: the baseline the default ones, ours those of main.py.
    """

    def __init__(self, make: Callable[..., Callable], *arguments):
        context = multiprocessing.get_context("spawn")
        self.pipe, remote = context.Pipe()
        self.process = context.Process(target=_serve, args=(remote, make, arguments))
        self.process.start()

    def __call__(self, *arguments):
        self.pipe.send(arguments)
        return self.pipe.recv()

    def __enter__(self) -> "InOwnProcess":
        return self

    def __exit__(self, *_) -> None:
        if self.process.is_alive():
            self.pipe.send(None)
        self.process.join()


def _serve(pipe, make: Callable[..., Callable], arguments: tuple) -> None:
    call = make(*arguments)
    while (message := pipe.recv()) is not None:
        pipe.send(call(*message))


def seconds(call: Callable[[], object], device: str = "cpu") -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def interleaved(calls: dict[str, Callable[[], object]], rounds: int, device: str = "cpu",
                warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each call, all of them in each round, so that background load affects them alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(warmup + rounds):
        for name, call in calls.items():
            took = seconds(call, device)
            if done >= warmup:
                taken[name].append(took)
    return taken


def ratio(taken: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of ours / theirs."""
    return median(a / b for a, b in zip(taken[ours], taken[theirs]))


def peak_memory(arguments: list[str], processes: int = 3) -> float:
    """Peak MB, without that of Python and torch, of this script in a subprocess with `arguments`.

    The median of several processes, since heap fragmentation is partly random.
    """
    command = [sys.executable, sys.argv[0], *arguments]
    return median(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
                  for _ in range(processes))


def print_peak_memory(prepare: Callable[[], Callable[[], object]], device: str) -> None:
    """In that subprocess: `prepare` a call, run it twice, and print the peak."""
    torch.ones(256, 256, device=device) @ torch.ones(256, 256, device=device)  # allocates the BLAS workspace
    before = 0 if device == "cuda" else memory_mb(peak=False)
    call = prepare()
    call(), call()
    print(memory_mb(device) - before)


def spread(values: list[float], unit: float = 1e3) -> str:
    """Median and range, in milliseconds by default."""
    return f"{unit * median(values):8.1f} ({unit * min(values):.1f}-{unit * max(values):.1f})"


def save(args: argparse.Namespace, figures: dict) -> None:
    """Write `figures` and their provenance to --json, if given."""
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        conditions = {**provenance(), "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
        write_json(args.json, {**figures, "machine": conditions})
        print(f"written to {args.json}")
