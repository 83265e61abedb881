"""Tools of the scenarios: numbers from seeds, weights by name, one step of training. float32, as a course trains.

A scenario is a generator of (key, value). A value is a tensor, `Parameters`, `Chance`, or anything that == compares.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

Observed = Iterator[tuple[str, object]]


class Parameters(NamedTuple):
    """Tensors by the names that the solution gives its parameters; compared by way of `translate`."""

    tensors: dict[str, Tensor]


class Chance(NamedTuple):
    """How often something happened in `count` tries: another random stream may give another share."""

    share: float
    count: int


def rand(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fill(model: nn.Module, translate: Callable | None = None, base: nn.Module | None = None, gain: float = 1.0):
    """Give every parameter a value that depends on its name only, so that the order of their making has no influence.

    With `base`, the reference's module, the values are those of its parameters, as `translate` arranges them.
    """
    with torch.no_grad():
        if base is not None:
            values = translate(dict(fill(base, gain=gain).named_parameters()), [n for n, _ in model.named_parameters()])
        for name, parameter in model.named_parameters():
            value = values[name] if base is not None else _value(name, parameter.shape, gain)
            if base is not None and value.numel() != parameter.numel():
                raise ValueError(f"{name} has the shape {tuple(parameter.shape)}, its value {tuple(value.shape)}")
            parameter.copy_(value.reshape(parameter.shape))
    return model


def _value(name: str, shape: torch.Size, gain: float) -> Tensor:
    noise = rand(*shape, seed=zlib.crc32(name.encode()))
    if len(shape) < 2:
        return (1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.3 * noise
    return noise * (0.5 if len(shape) == 4 and shape[0] == 1 else gain * shape[1:].numel() ** -0.5)


def gradients(model: nn.Module) -> Parameters:
    return Parameters({name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
                       for name, parameter in model.named_parameters()})


def values(model: nn.Module) -> Parameters:
    return Parameters({name: parameter.detach().clone() for name, parameter in model.named_parameters()})


def passes(model: nn.Module, x: Tensor, seed: int = 9) -> Observed:
    """Output, the gradients of a random functional of it, and whether the input is as it was."""
    given = x.clone()
    model.zero_grad()
    x = x.clone().requires_grad_(True)
    y = model(x)
    yield "y", y.detach().clone()
    (y * rand(*y.shape, seed=seed)).sum().backward()
    yield "dx", torch.zeros_like(x) if x.grad is None else x.grad
    yield "dp", gradients(model)
    yield "input unchanged", torch.equal(x.detach(), given)


def train(model: nn.Module, batches: list[Tensor], rate: float = 0.05) -> Observed:
    """A few steps of gradient descent on the mean square of the output."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for i, x in enumerate(batches):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        yield f"loss {i}", loss.detach()
    yield "trained", values(model)


def reloads(build: Callable[[], nn.Module], x: Tensor) -> Observed:
    """A model's state put into a second one, with other initial weights, gives the same output in evaluation mode."""
    torch.manual_seed(1)
    first = build().eval()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    torch.manual_seed(2)
    second = build().eval()
    yield "all keys", not any(second.load_state_dict(state, strict=False))
    with torch.no_grad():
        yield "reloaded", torch.allclose(first(x), second(x), rtol=1e-5, atol=1e-6)


def prefixed(prefix: str, observed: Observed) -> Observed:
    for key, value in observed:
        yield f"{prefix} {key}", value
