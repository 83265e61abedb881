"""Check the convolution of student_code.py: python test_conv.py. Exit code 0 if all checks pass, 1 if not.

Each configuration is compared with nn.Conv2d in float64, and its gradients with numerical gradients.
"""

import sys
from itertools import count
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from student_code import CustomConv2d, custom_conv2d
from utils import innermost_line, settings_kept

GRADIENTS = ["the gradient of the input", "the gradient of the weight", "the gradient of the bias"]


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
    assert worst < 1e-9, (f"{name} is off by up to {worst:.3g}; its first value is {ours.flatten()[0]:.4g}, expected "
                          f"{theirs.flatten()[0]:.4g}")


class NoConvolution(TorchDispatchMode):
    """Raise AssertionError where a convolution function of PyTorch runs, which the assignment forbids."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        assert "conv" not in name or "convert" in name, f"{name} is a convolution function; write it without one"
        return func(*args, **(kwargs or {}))


def check_forward(config: Config, device: torch.device) -> None:
    """The output is that of nn.Conv2d."""
    x, weight, bias = draw(config, device)
    close("the output", custom_conv2d(x, weight, bias, config.stride, config.padding),
          F.conv2d(x, weight, bias, config.stride, config.padding))


def gradients(convolve, config: Config, tensors: list, layout: str = "contiguous") -> list[torch.Tensor | None]:
    """The gradients of the tensors that require them, for a gradient of the output with this memory layout."""
    output = convolve(*tensors, config.stride, config.padding)
    N, Co, Ho, Wo = output.shape
    values = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device)
    direction = {"contiguous": lambda: values.view(N, Co, Ho, Wo),
                 "transposed": lambda: values.view(N, Co, Wo, Ho).transpose(2, 3),
                 "channels last": lambda: values.view(N, Ho, Wo, Co).permute(0, 3, 1, 2),
                 "expanded": lambda: values[-1].expand(N, Co, Ho, Wo)}[layout]()  # as of output.sum()
    wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    before = direction.clone()
    found = list(torch.autograd.grad(output, wanted, direction, allow_unused=True))
    assert torch.equal(direction, before), "backward changes the gradient of the output that it is given"
    return found


def check_backward(config: Config, device: torch.device) -> None:
    """The gradients are those of nn.Conv2d, and the numerical ones."""
    tensors = draw(config, device)
    for name, ours, theirs in zip(GRADIENTS, gradients(custom_conv2d, config, tensors),
                                  gradients(F.conv2d, config, tensors)):
        close(name, ours, theirs)
    torch.autograd.gradcheck(lambda *given: custom_conv2d(*given, *[None] * (not config.bias), config.stride,
                                                          config.padding),
                             [tensor for tensor in tensors if tensor is not None])


def check_layouts(config: Config, device: torch.device) -> None:
    """The gradient of the output need not be contiguous: after a permute or a sum it is not."""
    tensors = draw(config, device)
    for layout in ("transposed", "channels last", "expanded"):
        for name, ours, theirs in zip(GRADIENTS, gradients(custom_conv2d, config, tensors, layout),
                                      gradients(F.conv2d, config, tensors, layout)):
            close(f"{name}, for a gradient of the output that is {layout},", ours, theirs)


def check_frozen(config: Config, device: torch.device) -> None:
    """Only some of the tensors need a gradient: an attack freezes the network, fine-tuning a part of it."""
    for wanted in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)):
        tensors = [tensor if tensor is None else tensor.detach().requires_grad_(number in wanted)
                   for number, tensor in enumerate(draw(config, device))]
        if not any(tensor is not None and tensor.requires_grad for tensor in tensors):
            continue
        names = [GRADIENTS[number] for number in wanted if tensors[number] is not None]
        for name, ours, theirs in zip(names, gradients(custom_conv2d, config, tensors),
                                      gradients(F.conv2d, config, tensors)):
            close(f"{name}, with the other gradients not needed,", ours, theirs)


def check_two_layers(config: Config, device: torch.device) -> None:
    """Two convolutions in one graph, as in a network: the second must not overwrite what the first one saved."""
    other = CONFIGS[(CONFIGS.index(config) + 6) % len(CONFIGS)]
    tensors = [draw(one, device) for one in (config, other)]

    def gradients_of_both(convolve) -> tuple:
        outputs = [convolve(*given, one.stride, one.padding) for given, one in zip(tensors, (config, other))]
        return torch.autograd.grad(sum(output.square().sum() for output in outputs), [given[0] for given in tensors])

    for number, ours, theirs in zip(count(1), gradients_of_both(custom_conv2d), gradients_of_both(F.conv2d)):
        close(f"the gradient of the input of layer {number} of two, the other being {other},", ours, theirs)


def check_float32(config: Config, device: torch.device) -> None:
    """float32, as in training, stays float32; and no convolution function of PyTorch is called."""
    drawn = draw(config, device)
    output = F.conv2d(*drawn, config.stride, config.padding)  # float64: cuDNN rounds float32 to ten bits (TF32)
    tensors = [tensor if tensor is None else tensor.detach().float().requires_grad_() for tensor in drawn]
    with NoConvolution():
        ours = custom_conv2d(*tensors, config.stride, config.padding)
        assert ours.dtype == torch.float32, f"the output is {ours.dtype} for an input in float32"
        ours.sum().backward()
    for name, tensor in zip(GRADIENTS, tensors):
        assert tensor is None or tensor.grad is not None, f"{name} is None"
    # Sums of at most 147 products, each rounded by 6e-8 of it: 1e-5 of the largest output at worst.
    worst = (ours - output).abs().max().item()
    assert worst < 1e-4 * max(1.0, output.abs().max().item()), f"the output in float32 is off by up to {worst:.3g}"


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


class Failure(NamedTuple):
    """What was checked, the configuration at which it failed, and the error."""

    checked: str
    number: int
    config: Config
    error: Exception

    @property
    def reason(self) -> str:
        kind = "" if type(self.error) is AssertionError else f"{type(self.error).__name__}: "
        return f"{kind}{self.error}"

    def __str__(self) -> str:
        place = innermost_line(self.error, "student_code.py")
        where = f"\nat student_code.py:{place.lineno}, in {place.name}: {place.line}" if place else ""
        return (f"FAILED at configuration {self.number} of {len(CONFIGS)}: {self.config}\n"
                f"Checked: {self.checked}\n{self.reason}{where}")


def first_failure(check, device: torch.device) -> Failure | None:
    """Run a check on every configuration, with a seed for each, up to the first that fails."""
    for number, config in zip(count(1), CONFIGS):
        torch.manual_seed(number)
        seed = torch.initial_seed()
        try:
            with settings_kept():
                check(config, device)
            assert torch.initial_seed() == seed, "the convolution sets the seed of random numbers"
        except Exception as error:  # a student's code may raise anything
            return Failure(check.__doc__.splitlines()[0], number, config, error)
    return None


def run(*checks, device: torch.device) -> None:
    """Exit 1 at the first configuration that fails, naming it."""
    for check in checks:
        if (failure := first_failure(check, device)) is not None:
            print(failure)
            sys.exit(1)


def main() -> None:
    torch.set_num_threads(1)  # for tiny tensors threads only add overhead, minutes of it on a busy machine
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"Using device: {device}")
    print("Check Fprop ...")
    run(*FPROP, device=device)
    print("Fprop testing passed")
    print("Check Bprop ...")
    run(*BPROP, device=device)
    print("Bprop testing passed")
    print("Check nn.module wrapper ...")
    run(*WRAPPER, device=device)
    print("All passed! End of testing.")


FPROP, WRAPPER = [check_forward], [check_module]
BPROP = [check_backward, check_layouts, check_frozen, check_two_layers, check_float32]

if __name__ == "__main__":
    main()
