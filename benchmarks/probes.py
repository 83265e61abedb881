"""Microbenchmarks behind the fast paths: alternatives for one operation, in milliseconds.

    python benchmarks/probes.py [--only NAME] [--json FILE]

benchmarks/README.md draws the conclusions. CPU only.
"""

import argparse
from collections.abc import Callable
from statistics import median

import cv2
import measure
import numpy as np
import torch
import torch.nn.functional as F
from bench_conv import training_step
from torch import Tensor

from extras import adversarial_training, flat_conv
from extras.attacks import frozen
from libs import hardware

Calls = dict[str, Callable[[], object]]


def memory() -> Calls:
    """SimpleNet's training step, nn.Conv2d: freed memory returned to the system, or kept."""
    return {f"{number_type}, {'kept' if keep else 'given back'}":
                measure.InOwnProcess(_training_step, conv, number_type, keep)
            for conv, number_type in (("default", "fp32"), ("best", "bf16")) for keep in (False, True)}


def _training_step(conv: str, number_type: str, keep: bool) -> Callable[[], None]:
    if keep:
        hardware.keep_memory()
    return training_step(conv, number_type, "cpu", 64)


def compiled() -> Calls:
    """The same step with torch.compile (compiled in the warm-up)."""
    model, faster = _simplenet().features, torch.compile(_simplenet().features)
    images = torch.randn(64, 3, 128, 128).to(memory_format=torch.channels_last)

    def step(net: Callable) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            net(images).float().mean().backward()

    return {"eager, bf16": lambda: step(model), "compiled, bf16": lambda: step(faster)}


def _simplenet() -> torch.nn.Module:
    from student_code import SimpleNet

    return SimpleNet().to(memory_format=torch.channels_last)


def product() -> Calls:
    """A 1x1 convolution's fp32 matrix product: torch.mm, or oneDNN's linear layer."""
    rows, matrix = torch.randn(65536, 64), torch.randn(64, 256)
    return {"torch.mm": lambda: torch.mm(rows, matrix), "oneDNN": lambda: flat_conv.matmul(rows, matrix)}


def winograd() -> Calls:
    """A 3x3 convolution of 64 channels, 32 x 32 pixels, forward, fp32."""
    images = torch.randn(64, 64, 32, 32).to(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3).to(memory_format=torch.channels_last)

    def columns() -> Tensor:
        output = torch.empty_like(images)
        flat_conv._convolve_im2col(images, weight, None, 1, 1, output)
        return output

    return {"nn.Conv2d": lambda: F.conv2d(images, weight, padding=1), "columns": columns,
            "Winograd": lambda: flat_conv.convolve(images, weight, None, 1, 1)}


def attention() -> Calls:
    """softmax(q k^T) v of 512 windows of 16 tokens, forward and backward."""
    def both(attend: Callable, dtype: torch.dtype) -> Callable:
        qkv = torch.randn(512, 16, 3, 4, 48, dtype=dtype, requires_grad=True)

        def call() -> None:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            attend(q, k, v).sum().backward()
        return call

    ways = {"kernel": F.scaled_dot_product_attention,
            "written out": lambda q, k, v: (q * 48**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v}
    return {f"{name}, {str(dtype).split('.')[1]}": both(way, dtype) for dtype in (torch.float32, torch.bfloat16)
            for name, way in ways.items()}


def stem() -> Calls:
    """The input gradient, bf16: of the whole network, and of its 7x7 stem alone."""
    net = _simplenet()
    images = torch.randn(64, 3, 128, 128).to(memory_format=torch.channels_last)
    labels = torch.zeros(64, dtype=torch.long)
    first = net.features[0].requires_grad_(False)
    x = images.bfloat16().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        features = first(x)
    direction = torch.ones_like(features)

    def whole() -> None:
        with torch.autocast("cpu", torch.bfloat16), frozen(net):
            adversarial_training.gradient_sign(net, images, labels)

    return {"forward and backward": whole, "the stem's gradient": lambda: torch.autograd.grad(
        features, x, direction, retain_graph=True)}


def noise() -> Calls:
    """Uniform noise for a batch of images in channels last."""
    images = torch.empty(64, 3, 128, 128).to(memory_format=torch.channels_last)
    return {"uniform_": lambda: torch.empty_like(images).uniform_(-1, 1),
            "noise_like": lambda: adversarial_training.noise_like(images, 1.0)}


def warp() -> Calls:
    """64 images: OpenCV's affine warp, and its colour lookup table."""
    cv2.setNumThreads(0)
    images = list(np.random.default_rng(0).integers(0, 256, (64, 128, 128, 3), dtype=np.uint8))
    four = [cv2.cvtColor(image, cv2.COLOR_RGB2RGBA) for image in images]
    affine, table = np.array([[0.7, 0.1, 10], [-0.1, 0.7, 20]]), np.zeros((1, 256, 3), np.float32)
    how = {"dsize": (128, 128), "flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    out = np.empty((128, 128, 3), np.float32)
    return {"three channels": lambda: [cv2.warpAffine(image, affine, **how) for image in images],
            "four channels": lambda: [cv2.warpAffine(image, affine, **how) for image in four],
            "the table": lambda: [cv2.LUT(image, table, dst=out) for image in images]}


PROBES = (memory, compiled, product, winograd, attention, stem, noise, warp)


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[probe.__name__ for probe in PROBES], metavar="NAME",
                        help=f"one of {', '.join(probe.__name__ for probe in PROBES)}")
    args = parser.parse_args()
    args.device = "cpu"
    hardware.keep_memory()
    figures = {}
    for probe in PROBES:
        if args.only in (None, probe.__name__):
            calls = probe()
            times = measure.interleaved(calls, args.rounds)
            for call in calls.values():
                if isinstance(call, measure.InOwnProcess):
                    call.__exit__()
            print(f"{probe.__name__}: {probe.__doc__.splitlines()[0]}")
            for name, seconds in times.items():
                print(f"  {name:24}{measure.spread(seconds)}", flush=True)
            figures[probe.__name__] = {name: 1e3 * median(seconds) for name, seconds in times.items()}
    measure.save(argparse.Namespace(json=args.json, device="cpu"), figures)


if __name__ == "__main__":
    main()
