"""Tasks for any layer or network: gradients against differences, what calls leave behind, saving, chance, cost.

A task builds its module from `build`: the kind, a seed for the weights, and the kind's own settings.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autograder.worker.common import seed_everything, state_changes, to_numpy, to_tensor

BUILDERS: dict[str, Callable[..., nn.Module]] = {}  # kind -> builder with the kind's settings by keyword


def make(build: dict) -> nn.Module:
    """The student's module in evaluation mode. All parameters are random, so that none is zero or one."""
    settings = dict(build)
    kind, seed = settings.pop("kind"), settings.pop("seed", 3)
    seed_everything(seed)
    module = BUILDERS[kind](**settings)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module.eval()


def call(module: nn.Module, x: Tensor, seed: int = 1) -> Tensor:
    """The module's output, a tensor. The same seed gives the same random numbers."""
    seed_everything(seed)
    y = module(x)
    to_numpy(y, "the output")
    return y


# ---------------------------------------------------------------------------------------------- gradients


def module_slopes(arrays, build: dict, training: bool = False) -> tuple[dict, dict]:
    """Directional derivatives of sum(y * dy), dy drawn here, with respect to the input and to each parameter.

    Returns for float64 and, where that does not run or its slopes differ, for float32: analytic and numeric (tensors,
    directions), and floor, the size of rounding errors. Facts: names, and which have a gradient at all.
    """
    facts, results = {}, {}
    for dtype, step in ((torch.float64, 1e-5), (torch.float32, 2e-2)):
        name = str(dtype).removeprefix("torch.")
        try:
            module = make(build).to(dtype).train(training)
            facts["names"], facts["has_gradient"], found = slopes(module, to_tensor(arrays["x"]).to(dtype), step)
        except Exception:
            if dtype == torch.float32:  # float64 need not run
                raise
            continue
        results |= {f"{name}.{key}": array for key, array in found.items()}
        if bool(
            (abs(found["analytic"] - found["numeric"]) <= 1e-6 * abs(found["numeric"]).max() + found["floor"]).all()
        ):
            break
    return facts, results


def slopes(module: nn.Module, x: Tensor, step: float, directions: int = 2) -> tuple[list, list, dict]:
    """Names of the tensors, whether each has a gradient, and the arrays of module_slopes."""
    x.requires_grad_(True)
    y = call(module, x.clone())
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y.dtype)
    if y.requires_grad:
        (y * dy).sum().backward()
    tensors = {"the input": x, **dict(module.named_parameters())}
    analytic, numeric = torch.zeros(2, len(tensors), directions, dtype=torch.float64)
    for i, tensor in enumerate(tensors.values()):
        generator = torch.Generator().manual_seed(i)
        for k in range(directions):
            direction = torch.randn(tensor.shape, generator=generator).to(tensor.dtype) * tensor.detach().std(
                correction=0
            ).clamp(min=1e-3)
            if tensor.grad is not None:
                analytic[i, k] = (tensor.grad.double() * direction).sum()
            numeric[i, k] = difference(lambda: (call(module, x.clone()).double() * dy).sum(), tensor, direction, step)
    rounding = torch.finfo(y.dtype).eps * (y * dy).detach().double().abs().sum() / step
    return list(tensors), [tensor.grad is not None for tensor in tensors.values()], {
        "analytic": analytic.numpy(), "numeric": numeric.numpy(), "floor": rounding.reshape(1).numpy()}


@torch.no_grad()
def difference(loss: Callable[[], Tensor], tensor: Tensor, direction: Tensor, step: float) -> Tensor:
    """The derivative of `loss` along `direction`, by central differences of fourth order."""
    kept, ends = tensor.detach().clone(), {}
    for k in (-2, -1, 1, 2):
        tensor.copy_(kept + k * step * direction)
        ends[k] = loss()
    tensor.copy_(kept)
    return (8 * (ends[1] - ends[-1]) - (ends[2] - ends[-2])) / (12 * step)


# ------------------------------------------------------------------------------------------ memory, chance


def module_memory(arrays, builds: list[dict], calls: list[list]) -> tuple[dict, dict]:
    """Several modules side by side. `calls`: (module, input, "eval" or "train"), each from the same seed.

    Returns the outputs of the calls in evaluation mode by their number; "train" makes a backward pass, too. Facts: the
    calls that modified their input or a module's mode, and the global state that the first call changes.
    """
    modules: dict[int, nn.Module] = {}  # made at their first call: a later one may disturb those before
    results, facts = {}, {"input_changed": [], "mode_changed": []}
    for number, (m, i, mode) in enumerate(calls):
        if m not in modules:
            modules[m] = make(builds[m])
        module, x = modules[m].train(mode == "train"), to_tensor(arrays[f"x{i}"])
        before = [part.training for part in module.modules()]
        y, after = call(module, x), [part.training for part in module.modules()]
        facts["input_changed"] += [number] if not torch.equal(x, to_tensor(arrays[f"x{i}"])) else []
        facts["mode_changed"] += [number] if before != after else []
        if mode == "train" and y.requires_grad:
            y.square().sum().backward()
            module.zero_grad()
        elif mode == "eval":
            results[str(number)] = to_numpy(y, "the output")
    facts["state"] = state_changes(lambda: modules[0].eval()(to_tensor(arrays["x0"])))
    return facts, results


def module_chance(arrays, build: dict) -> tuple[dict, dict]:
    """Outputs from two seeds, in both modes: eval.0, eval.1, train.0, train.1."""
    module, results = make(build), {}
    for mode in ("eval", "train"):
        for n in (0, 1):
            results[f"{mode}.{n}"] = to_numpy(
                call(module.train(mode == "train"), to_tensor(arrays["x"]), 10 + n), "the output"
            )
    return {}, results


def module_reload(arrays, build: dict) -> tuple[dict, dict]:
    """The outputs of a module and of another one, built from another seed, that loaded its state_dict."""
    first, second = make(build), make({**build, "seed": 4})
    before = to_numpy(call(first, to_tensor(arrays["x"])), "the output")
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    try:
        second.load_state_dict(saved)
    except RuntimeError as error:
        return {"error": str(error)[:300]}, {"before": before}
    return {"saved": len(saved)}, {
        "before": before,
        "after": to_numpy(call(second, to_tensor(arrays["x"])), "the output"),
    }


# --------------------------------------------------------------------------------------------------- cost


def race(student: Callable, reference: Callable, sizes: list, limit: float) -> dict:
    """Processor seconds of the student's call, and of the reference's at the last of the growing `sizes`.

    `student` and `reference` make a call from a size. Both run in this process, so that a busy machine slows both.
    Ends at the first size where the student's takes more than `limit` times as long; a first call may warm up.
    """
    work = reference(sizes[-1])
    base, seconds, size = min(processor_seconds(work) for _ in range(4)), 0.0, sizes[0]
    for size in sizes:
        work = student(size)
        seconds = processor_seconds(work)
        if seconds > limit * base:
            seconds = min(seconds, processor_seconds(work))
        if seconds > limit * base:
            break
    return {"seconds": seconds, "reference": base, "size": list(size)}


def processor_seconds(work: Callable) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


TASKS = (module_slopes, module_memory, module_chance, module_reload)
