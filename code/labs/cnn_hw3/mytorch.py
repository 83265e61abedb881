"""Own convolution and max pooling with the arguments and results of torch's. CNN Homework 3, deliverable 1.

Made of unfold, matrix products and maxima, differentiated by autograd (student_code.py writes a convolution's backward
pass by hand). Sizes, strides and paddings are one int or a pair (height, width), as in torch.

    python -m labs mytorch test   compares both layers with torch's over a grid of settings
"""

import argparse
import itertools
import math
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labs import common

TOLERANCE = 1e-10  # in float64
Size = int | tuple[int, int]


def pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def out_size(sides, kernel, stride, padding) -> list[int]:
    """Height and width of the output. Raises ValueError if the kernel is larger than the padded input."""
    size = [(side + 2 * p - k) // s + 1 for side, k, s, p in zip(sides, kernel, stride, padding)]
    if min(size) < 1:
        raise ValueError(f"a kernel of {kernel} is larger than the input {tuple(sides)} with padding {padding}")
    return size


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Size = 1, padding: Size = 0) -> Tensor:
    """N,Ci,H,W and Co,Ci,kh,kw (and Co) -> N,Co,Ho,Wo, as nn.functional.conv2d."""
    if input.dim() != 4 or input.shape[1] != weight.shape[1]:
        raise ValueError(f"conv2d: input {tuple(input.shape)} does not have the channels of the weight "
                         f"{tuple(weight.shape)}")
    kernel, stride, padding = weight.shape[2:], pair(stride), pair(padding)
    size = out_size(input.shape[2:], tuple(kernel), stride, padding)
    columns = F.unfold(input, kernel, padding=padding, stride=stride)  # (N, Ci*kh*kw, Ho*Wo)
    output = (weight.flatten(1) @ columns).unflatten(2, size)  # (N, Co, Ho, Wo)
    return output if bias is None else output + bias.view(-1, 1, 1)


class Conv2d(nn.Module):
    """nn.Conv2d, with its initial weights."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size = 0,
                 bias: bool = True):
        super().__init__()
        self.in_channels, self.out_channels, self.groups, self.transposed = in_channels, out_channels, 1, False
        self.kernel_size, self.stride, self.padding = pair(kernel_size), pair(stride), pair(padding)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        nn.Conv2d.reset_parameters(self)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride, self.padding)


class MaxPool2d(nn.Module):
    """nn.MaxPool2d: the largest value in each window; ties send the gradient to the first."""

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0):
        super().__init__()
        self.kernel_size, self.padding = pair(kernel_size), pair(padding)
        self.stride = self.kernel_size if stride is None else pair(stride)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size)):
            raise ValueError(f"MaxPool2d: padding {self.padding} is more than half of the kernel {self.kernel_size}")

    def forward(self, x: Tensor) -> Tensor:
        (kh, kw), (sh, sw), (ph, pw) = self.kernel_size, self.stride, self.padding
        out_size(x.shape[-2:], self.kernel_size, self.stride, self.padding)
        if ph or pw:
            x = F.pad(x, (pw, pw, ph, ph), value=-math.inf)
        windows = x.unfold(-2, kh, sh).unfold(-2, kw, sw)  # (N, C, Ho, Wo, kh, kw)
        return windows.flatten(-2).max(dim=-1).values


# ------------------------------------------------------------------------------------- comparison with torch


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
