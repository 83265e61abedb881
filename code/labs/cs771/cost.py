"""Cost of a network: parameters, multiply-adds, and peak memory and speed of a training step on random images."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from labs import common
from libs import hardware, networks
from libs.provenance import memory_mb

ROUNDS = 5
MEASURES_MEMORY = True  # common.run then leaves the allocator alone, since memory that it keeps would be counted


def measure(name: str, classes: int, size: int, batch: int, custom_conv: str | None = None,
            gpu: int | None = None) -> dict:
    """Run this lab in a separate process, so that only its own memory is measured.

    Returns parameters; multiply_adds of one image forward; step_seconds and images_per_second; peak_memory_mb, None
    where the system does not report it. A step is forward, backward and SGD in the fastest precision of the device.
    """
    flags = [name, str(classes), str(size), str(batch), *(["--conv", custom_conv] if custom_conv else []),
             *(["--gpu", str(gpu)] if gpu is not None else [])]
    done = subprocess.run([sys.executable, "-m", "labs", "cost", *flags], capture_output=True, text=True,
                          cwd=common.ROOT / "code")
    if done.returncode:
        raise RuntimeError(f"labs cost {' '.join(flags)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m labs cost", description=__doc__)
    parser.add_argument("name", choices=networks.MODEL_NAMES, help="network")
    for flag, text in (("classes", "number of classes"), ("size", "height and width"), ("batch", "images per step")):
        parser.add_argument(flag, type=common.COUNT, help=text)
    parser.add_argument("--conv", choices=networks.CUSTOM_CONVS, help="custom convolution instead of nn.Conv2d")
    parser.add_argument("--gpu", type=int, help="CUDA device, -1 for the CPU")
    return parser


def run(args: argparse.Namespace) -> None:
    device = args.device
    model = networks.build(args.name, args.classes, (args.size, args.size), args.conv).to(device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, args.size, args.size, device=device))
    step = training_step(args, model, device)
    before = 0 if device.type == "cuda" else memory_mb(device)
    for _ in range(2):
        step()
    after = memory_mb(device)
    hardware.keep_memory()  # speed is measured with the allocator settings of main.py
    times = []
    for _ in range(ROUNDS + 2):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[2:])
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters()),
                      "multiply_adds": counter.get_total_flops() // 2, "step_seconds": seconds,
                      "images_per_second": args.batch / seconds,
                      "peak_memory_mb": None if after is None else after - before}))


def training_step(args: argparse.Namespace, model: torch.nn.Module, device: torch.device) -> Callable[[], None]:
    images, labels = torch.randn(args.batch, 3, args.size, args.size), torch.arange(args.batch) % args.classes
    hw = hardware.set_up(device, model, images[:1])
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, labels = hw.images(images), hw.labels(labels)

    def step() -> None:
        with hw.autocast("training"):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step
