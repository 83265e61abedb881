"""The worker's tasks for 3.1.1. Arrays: x, w, b (left out: no bias), and dy, the gradient of the output."""

import torch
from torch.nn.functional import fold, unfold

from autograder.worker import kernels
from autograder.worker.common import seed_everything, state_changes, student_class, to_numpy, to_tensor
from autograder.worker.probes import race

GRADIENTS = {"x": "dx", "w": "dw", "b": "db"}


def given_tensors(arrays: dict, requires_grad: list[str], prefix: str = "") -> dict[str, torch.Tensor | None]:
    """The tensors x, w and b of `arrays`, whose names there begin with `prefix`; None for a bias that is left out."""
    return {name: to_tensor(arrays[prefix + name], name in requires_grad) if prefix + name in arrays else None
            for name in "xwb"}


def gradients(tensors: dict) -> dict:
    """The gradients dx, dw and db that there are."""
    return {GRADIENTS[name]: to_numpy(tensor.grad, f"the gradient of {name}") for name, tensor in tensors.items()
            if tensor is not None and tensor.grad is not None}


def run_convolution(arrays, stride: int, padding: int, via: str = "function",
                    requires_grad: list[str] = ("x", "w", "b"), inplace_relu: bool = False,
                    noncontiguous_dy: bool = False) -> tuple[dict, dict]:
    """Forward, and backward if `arrays` has `dy`. Returns the output dtype, y, and the gradients dx, dw, db.

    `via`: "function" calls CustomConv2DFunction, "defaults" without stride and padding, "module" CustomConv2d.
    `inplace_relu` applies ReLU(inplace=True) to the output; `noncontiguous_dy` makes dy non-contiguous.
    """
    given = given_tensors(arrays, requires_grad)
    y = convolution(given, stride, padding, via)
    results = {"y": to_numpy(y, "the output").copy()}
    if inplace_relu:
        y = torch.relu_(y)
        results["relu"] = to_numpy(y, "the output")
    facts = {"dtype": str(y.dtype).removeprefix("torch."), "convolutions_disabled": kernels.still_disabled()}
    if "dy" in arrays:
        dy = to_tensor(arrays["dy"]).to(y.dtype)
        if noncontiguous_dy:
            dy = dy.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
        y.backward(dy)
        results |= gradients(given)
    return facts, results


def convolution(given: dict, stride: int, padding: int, via: str = "function"):
    """The output. For "module" the tensors w and b of `given` become the module's parameters."""
    if via != "module":
        settings = () if via == "defaults" else (stride, padding)
        return student_class("CustomConv2DFunction").apply(given["x"], given["w"], given["b"], *settings)
    Co, Ci, K, _ = given["w"].shape
    layer = student_class("CustomConv2d")(Ci, Co, kernel_size=K, stride=stride, padding=padding,
                                          bias=given["b"] is not None)
    with torch.no_grad():
        layer.weight.copy_(given["w"])
        if given["b"] is not None:
            layer.bias.copy_(given["b"])
    given["w"], given["b"] = layer.weight, layer.bias
    return layer(given["x"])


def run_convolutions(arrays, settings: list[list[int]]) -> tuple[dict, dict]:
    """Several convolutions at a time, as the layers of a network: all forward, then all backward, in one order.

    `settings`: (stride, padding) of each; the arrays of convolution i are named i.x, i.w, i.b, i.dy. Returns i.y, i.dx
    and so on, which global state has changed, and which arrays were modified in place ("changed": [i, name]).
    """
    inputs = [given_tensors(arrays, list("xwb"), f"{i}.") for i in range(len(settings))]
    upstream = [to_tensor(arrays[f"{i}.dy"]) for i in range(len(settings))]

    def once() -> list:
        for given in inputs:
            for tensor in given.values():
                if tensor is not None:
                    tensor.grad = None
        outputs = [convolution(given, *pair) for given, pair in zip(inputs, settings)]
        for y, dy in zip(outputs, upstream):
            y.backward(dy)
        return outputs

    results = {}
    for i, y in enumerate(once()):
        results[f"{i}.y"] = to_numpy(y, "the output")
        results |= {f"{i}.{name}": array for name, array in gradients(inputs[i]).items()}
    changed = [[i, name] for i, given in enumerate(inputs) for name, tensor in {**given, "dy": upstream[i]}.items()
               if tensor is not None and not torch.equal(tensor, to_tensor(arrays[f"{i}.{name}"]))]
    return {"changed": changed, "state": state_changes(once)}, results


def convolution_slopes(arrays, stride: int, padding: int, directions: int = 4) -> tuple[dict, dict]:
    """Directional derivatives of sum(y * dy), dy drawn here: by backward (name.analytic), and of the student's own
    forward (name.numeric), which is linear in each argument, so that a difference over a large step is exact."""
    given = given_tensors(arrays, list("xwb"))
    y = convolution(given, stride, padding)
    seed_everything(0)
    dy, results = torch.randn_like(y), {}
    y.backward(dy)
    for name, tensor in given.items():
        if tensor is None:
            continue
        steps = torch.randn(directions, *tensor.shape)
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        results[f"{GRADIENTS[name]}.analytic"] = to_numpy((gradient * steps).flatten(1).double().sum(1), "a gradient")
        numeric = [half_difference(given, name, step, stride, padding, dy) for step in steps]
        results[f"{GRADIENTS[name]}.numeric"] = to_numpy(torch.stack(numeric), "a difference")
    return {}, results


def half_difference(given: dict, name: str, step, stride: int, padding: int, dy):
    """(f(+step) - f(-step)) / 2 for the change `step` of the argument `name`, of f = sum(y * dy)."""
    with torch.no_grad():
        ends = [convolution({**given, name: given[name].detach() + sign * step}, stride, padding) for sign in (1, -1)]
        return ((ends[0] - ends[1]).double() * dy).sum() / 2


def time_convolution(_, sizes: list[list[int]], limit: float) -> tuple[dict, dict]:
    """Seconds of forward and backward over N,C,side,side with a 3x3 kernel, the student's and of the three operations
    that the sheet names; see probes.race."""
    def tensors(size):
        N, C, side = size
        seed_everything(0)
        return torch.randn(N, C, side, side, requires_grad=True), torch.randn(C, C, 3, 3, requires_grad=True)

    def student(size):
        x, w = tensors(size)
        function = student_class("CustomConv2DFunction")
        return lambda: function.apply(x, w, None, 1, 1).sum().backward()

    def reference(size):
        x, w = (tensor.detach() for tensor in tensors(size))

        def operations() -> None:
            columns = unfold(x, 3, padding=1)
            rows = w.flatten(1) @ columns
            rows @ unfold(x, 3, padding=1).transpose(1, 2)
            fold(w.flatten(1).t() @ rows, x.shape[2:], 3, padding=1)
        return operations
    return race(student, reference, sizes, limit), {}


TASKS = (run_convolution, run_convolutions, convolution_slopes, time_convolution)
