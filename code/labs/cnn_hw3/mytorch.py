"""Own convolution and max pooling with the arguments and results of torch's. CNN Homework 3, deliverable 1.

Made of unfold, matrix products and maxima, and differentiated by autograd; no convolution or pooling function of torch.
Sizes, strides and paddings are one int or a pair (height, width), as in torch. Needs nothing but torch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    # BEGIN SOLUTION
    if input.dim() != 4 or input.shape[1] != weight.shape[1]:
        raise ValueError(f"conv2d: input {tuple(input.shape)} does not have the channels of the weight "
                         f"{tuple(weight.shape)}")
    kernel, stride, padding = weight.shape[2:], pair(stride), pair(padding)
    size = out_size(input.shape[2:], tuple(kernel), stride, padding)
    columns = F.unfold(input, kernel, padding=padding, stride=stride)  # (N, Ci*kh*kw, Ho*Wo)
    output = (weight.flatten(1) @ columns).unflatten(2, size)  # (N, Co, Ho, Wo)
    return output if bias is None else output + bias.view(-1, 1, 1)
    # END SOLUTION
    # STARTER: raise NotImplementedError("conv2d: the convolution of input with weight, plus bias")


class Conv2d(nn.Module):
    """nn.Conv2d, with its initial weights: `weight` (Co, Ci, kh, kw), and `bias` (Co) or None."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size = 0,
                 bias: bool = True):
        super().__init__()
        # BEGIN SOLUTION
        self.in_channels, self.out_channels, self.groups, self.transposed = in_channels, out_channels, 1, False
        self.kernel_size, self.stride, self.padding = pair(kernel_size), pair(stride), pair(padding)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        nn.Conv2d.reset_parameters(self)
        # END SOLUTION
        # STARTER: raise NotImplementedError("Conv2d.__init__: the parameters weight and bias, drawn as by torch")

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION
        return conv2d(x, self.weight, self.bias, self.stride, self.padding)
        # END SOLUTION
        # STARTER: raise NotImplementedError("Conv2d.forward: conv2d with the module's parameters")


class MaxPool2d(nn.Module):
    """nn.MaxPool2d: the largest value in each window; ties send the gradient to the first. `stride`: kernel_size."""

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0):
        super().__init__()
        self.kernel_size, self.padding = pair(kernel_size), pair(padding)
        self.stride = self.kernel_size if stride is None else pair(stride)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size)):
            raise ValueError(f"MaxPool2d: padding {self.padding} is more than half of the kernel {self.kernel_size}")

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION
        (kh, kw), (sh, sw), (ph, pw) = self.kernel_size, self.stride, self.padding
        out_size(x.shape[-2:], self.kernel_size, self.stride, self.padding)
        if ph or pw:
            x = F.pad(x, (pw, pw, ph, ph), value=-math.inf)
        windows = x.unfold(-2, kh, sh).unfold(-2, kw, sw)  # (N, C, Ho, Wo, kh, kw)
        return windows.flatten(-2).max(dim=-1).values
        # END SOLUTION
        # STARTER: raise NotImplementedError("MaxPool2d.forward: the maximum of each window")
