"""What a network costs: parameters, multiply-adds, and the peak memory and speed of its training step on random images.

`measure` runs this file in a process of its own, so that nothing else is in the account.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import hardware
import models

ROUNDS = 5


def measure(name: str, classes: int, size: int, batch: int, custom_conv: str | None = None,
            gpu: int | None = None) -> dict:
    """parameters; multiply_adds, of one image forward; step_seconds, images_per_second; peak_memory_mb, None where the
    system does not tell. A step is forward, backward and SGD, in what is fast here."""
    flags = [name, str(classes), str(size), str(batch), *(["--conv", custom_conv] if custom_conv else []),
             *(["--gpu", str(gpu)] if gpu is not None else [])]
    done = subprocess.run([sys.executable, "-m", "labs.cost", *flags], capture_output=True, text=True,
                          cwd=Path(__file__).resolve().parents[1])
    if done.returncode:
        raise RuntimeError(f"labs.cost {' '.join(flags)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def peak(device: torch.device) -> float | None:
    """MB that this process has taken at most, so far; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path(os.sep, "proc", "self", "status")  # Linux; its getrusage would count in what the parent had taken
    if not status.exists():
        return None
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def training_step(args: argparse.Namespace, model: torch.nn.Module, device: torch.device) -> Callable[[], None]:
    images, labels = torch.randn(args.batch, 3, args.size, args.size), torch.arange(args.batch) % args.classes
    layout = hardware.pick_memory_format(model, images[:1], device)
    machine = hardware.Hardware(device, hardware.pick_amp("auto", device), layout)
    model.to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, labels = machine.images(images), machine.labels(labels)

    def step() -> None:
        with machine.autocast():
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m labs.cost", description=__doc__.split("\n\n")[0])
    parser.add_argument("name", choices=models.MODEL_NAMES, help="network")
    for flag, text in (("classes", "number of classes"), ("size", "height and width"), ("batch", "images a step")):
        parser.add_argument(flag, type=int, help=text)
    parser.add_argument("--conv", choices=models.CUSTOM_CONVS, help="own convolutions")
    parser.add_argument("--gpu", type=int, help="CUDA device, -1 for the CPU")
    args = parser.parse_args(argv)
    device = hardware.pick_device(args.gpu)
    model = models.build(args.name, args.classes, (args.size, args.size), args.conv).to(device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, args.size, args.size, device=device))
    step = training_step(args, model, device)
    before = peak(device)
    step(), step()
    after = peak(device)
    hardware.keep_memory()  # as in main.py; before, the account of memory would have been too high
    taken = []
    for _ in range(ROUNDS + 2):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    seconds = statistics.median(taken[2:])
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters()),
                      "multiply_adds": counter.get_total_flops() // 2, "step_seconds": seconds,
                      "images_per_second": args.batch / seconds,
                      "peak_memory_mb": None if before is None else after - (0 if device.type == "cuda" else before)}))


if __name__ == "__main__":
    main()
