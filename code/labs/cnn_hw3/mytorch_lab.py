"""Compares the layers of mytorch.py with torch's over a grid of settings. CNN Homework 3, deliverable 1."""

import argparse
import itertools
import math
import sys

import torch
from torch import Tensor, nn

from labs import common
from labs.cnn_hw3.mytorch import Conv2d, MaxPool2d

TOLERANCE = 1e-10  # in float64


def max_difference(ours: nn.Module, theirs: nn.Module, x: Tensor) -> float:
    """Largest difference of outputs, input gradients and parameter gradients."""
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
        results.append([out, *torch.autograd.grad((out * weights).sum(), [leaf, *layer.parameters()])])
    if results[0][0].shape != results[1][0].shape:
        return math.inf
    return max((a - b).abs().max().item() for a, b in zip(*results))


def grid() -> list[tuple[str, nn.Module, nn.Module, Tensor]]:
    """Settings to compare: (name, ours, torch's, input)."""
    torch.manual_seed(0)
    cases = []
    sizes = itertools.product((1, 3, (2, 5)), (1, 2, (3, 1)), (0, 1, (2, 0)), (True, False))
    for kernel, stride, padding, bias in sizes:
        ours, theirs = (kind(3, 4, kernel, stride, padding, bias=bias).double() for kind in (Conv2d, nn.Conv2d))
        ours.load_state_dict(theirs.state_dict())
        cases.append((f"Conv2d kernel {kernel} stride {stride} padding {padding} bias {bias}", ours, theirs,
                      torch.randn(2, 3, 9, 11).double()))
    for kernel, stride, padding in itertools.product((2, 3, (2, 4)), (None, 1, 2, (3, 2)), (0, 1)):
        # Rounded to make ties: the gradient has to go to the same element as torch's.
        cases.append((f"MaxPool2d kernel {kernel} stride {stride} padding {padding}",
                      MaxPool2d(kernel, stride, padding), nn.MaxPool2d(kernel, stride, padding),
                      torch.randn(2, 3, 9, 11).round().double()))
    return cases


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("mytorch", __doc__, data=False)
    parser.add_argument("what", nargs="?", choices=("test",), default="test", help="compare with torch (default)")
    return parser


def run(args: argparse.Namespace) -> None:
    differences = {name: max_difference(ours, theirs, x) for name, ours, theirs, x in grid()}
    for name, difference in differences.items():
        if difference > TOLERANCE:
            print(f"differs by {difference:.2g}: {name}")
    rows = []
    for layer in ("Conv2d", "MaxPool2d"):
        of_layer = [difference for name, difference in differences.items() if name.startswith(layer)]
        rows.append({"layer": layer, "settings": len(of_layer), "largest difference": f"{max(of_layer):.2g}"})
    common.publish(args, "mytorch", rows, {}, settings=differences)
    largest = max(differences.values())
    print(f"{len(differences)} settings, outputs and gradients: largest difference to torch {largest:.2g}")
    sys.exit(largest > TOLERANCE)
