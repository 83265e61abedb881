"""Check the convolution of student_code.py: python test_conv.py. Exit code 0 if all checks pass, 1 if not.

Each configuration is compared with nn.Conv2d in float64, and its gradients with numerical gradients.
"""

import sys
from itertools import count
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from student_code import CustomConv2d, custom_conv2d


class Config(NamedTuple):
    """One convolution: N images of Ci x H x W, Co filters of K x K, stride, padding, with or without bias."""

    N: int
    Ci: int
    H: int
    W: int
    Co: int
    K: int
    stride: int = 1
    padding: int = 0
    bias: bool = True


CONFIGS = [
    Config(2, 3, 8, 8, 4, K=3, bias=False),  # the simplest first, so that a later failure points to what it adds
    Config(2, 3, 8, 8, 4, K=3),
    Config(2, 3, 8, 8, 4, K=3, padding=1),
    Config(1, 2, 6, 9, 3, K=3, padding=1),  # H != W
    Config(2, 4, 7, 5, 2, K=1),  # a 1x1 convolution is a matrix product
    Config(2, 4, 7, 6, 2, K=1, stride=2, bias=False),
    Config(2, 2, 8, 8, 3, K=3, stride=2),  # 8 - 3 is odd: the last row and column are not used
    Config(2, 2, 9, 6, 3, K=2, stride=3, padding=1),
    Config(1, 3, 16, 14, 2, K=7, stride=2, padding=3),  # like SimpleNet's first layer
    Config(3, 1, 5, 5, 1, K=5),  # one output position
    Config(2, 2, 4, 4, 2, K=2, stride=4),  # stride larger than the kernel
    Config(1, 2, 3, 4, 2, K=4, padding=3),  # the padding is larger than the image
]


def draw(config: Config, device: torch.device) -> list[torch.Tensor | None]:
    """Random input, weight and bias in float64 that require gradients."""
    shapes = [(config.N, config.Ci, config.H, config.W), (config.Co, config.Ci, config.K, config.K), (config.Co,)]
    drawn = [torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True) for shape in shapes]
    return drawn if config.bias else [*drawn[:2], None]


def close(name: str, ours: torch.Tensor | None, theirs: torch.Tensor) -> None:
    """Raise AssertionError, describing the difference, if `ours` differs from nn.Conv2d's."""
    assert ours is not None, f"{name} is None, expected a tensor of shape {tuple(theirs.shape)}"
    assert ours.shape == theirs.shape, f"{name} has shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    worst = (ours - theirs).abs().max().item()
    assert worst < 1e-9, f"{name} is off by up to {worst:.3g}; its first value should be {theirs.flatten()[0]:.4g}"


def check_forward(config: Config, device: torch.device) -> None:
    x, weight, bias = draw(config, device)
    close("the output", custom_conv2d(x, weight, bias, config.stride, config.padding),
          F.conv2d(x, weight, bias, config.stride, config.padding))


def check_backward(config: Config, device: torch.device) -> None:
    tensors = draw(config, device)
    wanted = [tensor for tensor in tensors if tensor is not None]

    def gradients(convolve) -> tuple:
        output = convolve(*tensors, config.stride, config.padding)
        direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=device).view_as(output)
        return torch.autograd.grad(output, wanted, direction, allow_unused=True)

    names = ["the gradient of the input", "the gradient of the weight", "the gradient of the bias"]
    for name, ours, theirs in zip(names, gradients(custom_conv2d), gradients(F.conv2d)):
        close(name, ours, theirs)
    torch.autograd.gradcheck(lambda *given: custom_conv2d(*given, *[None] * (not config.bias), config.stride,
                                                          config.padding), wanted)


def check_module(config: Config, device: torch.device) -> None:
    """The module in a network: with a non-contiguous input and an in-place ReLU after it."""
    shape = {"stride": config.stride, "padding": config.padding, "bias": config.bias}
    ours = CustomConv2d(config.Ci, config.Co, config.K, **shape).to(device, torch.float64)
    theirs = nn.Conv2d(config.Ci, config.Co, config.K, **shape).to(device, torch.float64)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        x = torch.linspace(-1, 1, config.N * config.Ci * config.H * config.W, dtype=torch.float64, device=device)
        x = x.view(config.N, config.Ci, config.W, config.H).transpose(2, 3).requires_grad_(True)
        output = nn.ReLU(inplace=True)(layer(x))
        output.transpose(1, 3).square().sum().backward()
        results.append([output.detach(), x.grad, layer.weight.grad, *([layer.bias.grad] if config.bias else [])])
    names = ["the module's output", "its input's gradient", "its weight's gradient", "its bias's gradient"]
    for name, mine, expected in zip(names, *results):
        close(name, mine, expected)


def run(check, device: torch.device) -> None:
    """Run a check on every configuration; exit 1 at the first that fails, naming it."""
    for number, config in zip(count(1), CONFIGS):
        torch.manual_seed(number)
        try:
            check(config, device)
        except Exception as error:  # a student's code may raise anything
            print(f"FAILED at configuration {number} of {len(CONFIGS)}: {config}\n{type(error).__name__}: {error}")
            sys.exit(1)


def main() -> None:
    torch.set_num_threads(1)  # for tiny tensors threads only add overhead, minutes of it on a busy machine
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"Using device: {device}")
    print("Check Fprop ...")
    run(check_forward, device)
    print("Fprop testing passed")
    print("Check Bprop ...")
    run(check_backward, device)
    print("Bprop testing passed")
    print("Check nn.module wrapper ...")
    run(check_module, device)
    print("All passed! End of testing.")


if __name__ == "__main__":
    main()
