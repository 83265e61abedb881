"""The tasks of a worker: each runs student code once and returns facts (JSON) and arrays, without a verdict.

A task takes arrays, then settings by keyword. Arrays become tensors of the same dtype.
"""

import random
import types

import numpy as np
import torch
from torch import Tensor, nn

from autograder.worker import graft, kernels

student: types.ModuleType
models: dict[str, nn.Module] = {}


def to_tensor(array: np.ndarray, gradient: bool = False) -> Tensor:
    return torch.from_numpy(array.copy()).requires_grad_(gradient)


def to_numpy(value, name: str) -> np.ndarray:
    """A tensor as an array; bfloat16 as float32. Raises TypeError for anything else."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, not a tensor")
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()


def seed_everything(seed: int) -> None:
    """Seed torch, NumPy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class Missing(Exception):
    """The student's file lacks something that the sheet requires."""


def student_class(name: str):
    """The class `name` of student_code.py. Raises Missing."""
    if not hasattr(student, name):
        raise Missing(f"student_code.py has no {name}")
    return getattr(student, name)


def load(_, seed: int) -> tuple[dict, dict]:
    """Import student_code."""
    global student
    seed_everything(seed)
    import student_code
    student = student_code
    return {}, {}


# ------------------------------------------------------------------------------------------- convolution


def run_convolution(arrays, stride: int, padding: int, via: str = "function",
                    requires_grad: list[str] = ("x", "w", "b"), inplace_relu: bool = False,
                    noncontiguous_dy: bool = False) -> tuple[dict, dict]:
    """Forward, and backward if `arrays` has `dy`. Returns the output dtype, y, and the gradients dx, dw, db.

    `via`: "function" calls CustomConv2DFunction, "defaults" without stride and padding, "module" CustomConv2d.
    `inplace_relu` applies ReLU(inplace=True) to the output; `noncontiguous_dy` makes dy non-contiguous.
    """
    x, w = to_tensor(arrays["x"], "x" in requires_grad), to_tensor(arrays["w"], "w" in requires_grad)
    b = to_tensor(arrays["b"], "b" in requires_grad) if "b" in arrays else None
    if via == "module":
        layer = student_class("CustomConv2d")(w.shape[1], w.shape[0], kernel_size=w.shape[2], stride=stride,
                                              padding=padding, bias=b is not None).to(w.dtype)
        with torch.no_grad():
            layer.weight.copy_(w)
            if b is not None:
                layer.bias.copy_(b)
        w, b = layer.weight, layer.bias
        call = lambda: layer(x)  # noqa: E731
    else:
        function = student_class("CustomConv2DFunction")
        given = () if via == "defaults" else (stride, padding)
        call = lambda: function.apply(x, w, b, *given)  # noqa: E731
    y = call()
    results = {"y": to_numpy(y, "the output").copy()}
    if inplace_relu:
        y = torch.relu_(y)
        results["relu"] = to_numpy(y, "the output")
    if "dy" in arrays:
        dy = to_tensor(arrays["dy"]).to(y.dtype)
        if noncontiguous_dy:
            dy = dy.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
        y.backward(dy)
        for name, given in (("dx", x), ("dw", w), ("db", b)):
            if given is not None and given.grad is not None:
                results[name] = to_numpy(given.grad, f"the gradient of {name[1]}")
    return {"dtype": str(y.dtype).removeprefix("torch."), "convolutions_disabled": kernels.still_disabled()}, results


# ----------------------------------------------------------------------------------- attention and blocks


def run_attention(arrays, num_heads: int, qkv_bias: bool) -> tuple[dict, dict]:
    """Attention with the given weights. Returns y, and dx, the gradient of sum(y * dy) with respect to x."""
    x = to_tensor(arrays["x"], True)
    layer = student_class("Attention")(x.shape[-1], num_heads=num_heads, qkv_bias=qkv_bias).to(x.dtype).eval()
    for name, targets in projections(layer, x.shape[-1]).items():
        for target, piece in zip(targets, np.split(arrays[name], len(targets)) if name in arrays else ()):
            target.data = to_tensor(piece)
    y = layer(x)
    to_numpy(y, "the output")
    (y * to_tensor(arrays["dy"])).sum().backward()
    gradient = to_numpy(x.grad, "the gradient of x") if x.grad is not None else np.zeros_like(arrays["x"])
    return {}, {"y": to_numpy(y, "the output"), "dx": gradient}


def projections(layer: nn.Module, dim: int) -> dict[str, list[Tensor]]:
    """The parameters of the q, k, v and output projections: one fused layer (C to 3C) or three, and one layer C to C.

    Found by name, in an nn.MultiheadAttention, or by shape. Raises Missing.
    """
    parameters = dict(layer.named_parameters())
    if "qkv.weight" in parameters and "proj.weight" in parameters:
        names = "qkv.weight", "qkv.bias", "proj.weight", "proj.bias"
        return {name: [parameters[name]] for name in names if name in parameters}
    inner = [module for module in layer.modules() if isinstance(module, nn.MultiheadAttention)]
    if len(inner) == 1:
        found = {"qkv.weight": inner[0].in_proj_weight, "qkv.bias": inner[0].in_proj_bias,
                 "proj.weight": inner[0].out_proj.weight, "proj.bias": inner[0].out_proj.bias}
        return {name: [parameter] for name, parameter in found.items() if parameter is not None}
    linear = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    wide = [module for module in linear if module.weight.shape == (3 * dim, dim)]
    square = [module for module in linear if module.weight.shape == (dim, dim)]
    if len(linear) != len(wide) + len(square) or (len(wide), len(square)) not in ((1, 1), (0, 4)):
        raise Missing("Attention has no layers qkv (dim to 3 * dim) and proj (dim to dim), as the sheet's __init__ "
                      f"makes them; it has the parameters {', '.join(parameters) or 'none'}")
    up, last = wide or square[:3], square[-1]
    return {"qkv.weight": [module.weight for module in up], "proj.weight": [last.weight],
            "qkv.bias": [module.bias for module in up if module.bias is not None],
            "proj.bias": [last.bias] if last.bias is not None else []}


def run_block(arrays, num_heads: int, window_size: int, drop_path: float, training: bool,
              seed: int) -> tuple[dict, dict]:
    """TransformerBlock around a known-good Attention, with the given weights assigned by layer type and order.

    Returns the number of layers of each type, whether the input was modified, and the output y.
    """
    graft.patch_class(student, "Attention", "GoodAttention", "forward")
    x = to_tensor(arrays["x"])
    dim, hidden = x.shape[-1], arrays["fc1.weight"].shape[0]
    seed_everything(seed)
    block = student_class("TransformerBlock")(dim, num_heads, mlp_ratio=hidden / dim, qkv_bias=True,
                                              drop_path=drop_path, norm_layer=nn.LayerNorm, act_layer=nn.GELU,
                                              window_size=window_size)
    attention = [module for module in block.modules() if hasattr(module, "qkv") and hasattr(module, "proj")]
    in_attention = {id(part) for module in attention for part in module.modules()}
    norms = [module for module in block.modules() if isinstance(module, nn.LayerNorm)]
    linear = [module for module in block.modules() if isinstance(module, nn.Linear) and id(module) not in in_attention]
    up = [module for module in linear if module.weight.shape == (hidden, dim)]
    down = [module for module in linear if module.weight.shape == (dim, hidden)]
    parts = {"Attention": attention, "LayerNorm": norms, "MLP layer up": up, "MLP layer down": down}
    counts = {name: len(found) for name, found in parts.items()}
    if counts == {"Attention": 1, "LayerNorm": 2, "MLP layer up": 1, "MLP layer down": 1}:
        named = {"qkv": attention[0].qkv, "proj": attention[0].proj, "norm1": norms[0], "norm2": norms[1],
                 "fc1": up[0], "fc2": down[0]}
        for name, array in arrays.items():
            module, _, parameter = name.partition(".")
            if parameter:
                getattr(named[module], parameter).data = to_tensor(array)
    block = block.to(x.dtype).train(training)
    given = x.clone()
    y = block(x)
    return {"counts": counts, "input_changed": not torch.equal(given, x)}, {"y": to_numpy(y, "the output")}


# --------------------------------------------------------------------------------- the vision transformer


def build_vit(_, seed: int, **keywords) -> tuple[dict, dict]:
    """Build SimpleViT from known-good blocks, in float64 and eval mode, with noise added so that no parameter is 0."""
    graft.patch_class(student, "Attention", "GoodAttention", "forward")
    graft.patch_class(student, "TransformerBlock", "GoodBlock", "forward")
    seed_everything(seed)
    model = student_class("SimpleViT")(**keywords).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    models["vit"] = model
    return {}, {}


def run_vit(arrays) -> tuple[dict, dict]:
    """Returns the logits, and the settings of the blocks in the order of their forward passes."""
    log = graft.REPLACEMENTS["GoodBlock"].log
    log.clear()
    logits = models["vit"](to_tensor(arrays["x"]))
    return {"blocks": [block.settings for block in log]}, {"logits": to_numpy(logits, "the output")}


def train_vit(arrays) -> tuple[dict, dict]:
    """One backward pass in training mode. Returns the names of the parameters without a gradient."""
    model = models["vit"].train()
    model.zero_grad()
    logits = model(to_tensor(arrays["x"]))
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    dead = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    return {"without_gradient": dead, "parameters": len(list(model.parameters()))}, {}


# ----------------------------------------------------------------------------------------------- attacks


class QuadraticNet(nn.Module):
    """Logits with a closed-form gradient: w_k . z - c_k |z - t_k|^2 + b_k, where z is BatchNorm(x).

    Dropout and BatchNorm reveal a call in training mode. Records every input (`queries`).
    """

    def __init__(self, arrays: dict):
        super().__init__()
        self.norm = nn.BatchNorm2d(arrays["mean"].shape[0], affine=False)
        self.norm.running_mean.copy_(to_tensor(arrays["mean"]))
        self.norm.running_var.copy_(to_tensor(arrays["var"]))
        self.drop = nn.Dropout(0.5)
        self.w, self.t = nn.Parameter(to_tensor(arrays["w"])), nn.Parameter(to_tensor(arrays["t"]))
        self.b, self.c = nn.Parameter(to_tensor(arrays["b"])), nn.Parameter(to_tensor(arrays["c"]), requires_grad=False)
        self.queries: list[np.ndarray] = []
        self.graph_sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.queries.append(to_numpy(x, "the input of the model").copy())
        self.graph_sizes.append(graph_size(x.grad_fn))
        z = self.drop(self.norm(x)).flatten(1)
        return z @ self.w.T - self.c * (z[:, None] - self.t).square().sum(2) + self.b


def graph_size(node) -> int:
    """The number of nodes of an autograd graph, at most about 100."""
    seen, waiting = set(), [node]
    while waiting and len(seen) < 100:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [behind for behind, _ in node.next_functions]
    return len(seen)


def state(model: nn.Module) -> dict:
    """What an attack must not change: training modes, requires_grad, gradients."""
    return {"modes": [module.training for module in model.modules()],
            "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
            "has_gradient": [parameter.grad is not None and bool(parameter.grad.any())
                             for parameter in model.parameters()]}


def run_attack(arrays, num_steps: int, step_size: float, epsilon: float, seed: int, training: bool = False,
               use_defaults: bool = False) -> tuple[dict, dict]:
    """PGDAttack on a QuadraticNet. Returns all queries, the adversarial images, and the state of model and input."""
    seed_everything(seed)
    model = QuadraticNet(arrays).train(training)
    x = to_tensor(arrays["x"])
    settings = {} if use_defaults else {"num_steps": num_steps, "step_size": step_size, "epsilon": epsilon}
    before, parameters = state(model), [parameter.detach().clone() for parameter in model.parameters()]
    adversarial = student_class("PGDAttack")(nn.CrossEntropyLoss(), **settings).perturb(model, x)
    results = {"adversarial": to_numpy(adversarial, "the result of perturb").copy(), "x": to_numpy(x, "x"),
               "running_mean": to_numpy(model.norm.running_mean, "a buffer")}
    if len({query.shape for query in model.queries}) == 1:
        results["queries"] = np.stack(model.queries)
    same = all(torch.equal(old, new) for old, new in zip(parameters, model.parameters()))
    return {"before": before, "after": state(model), "graph_sizes": model.graph_sizes, "parameters_unchanged": same,
            "attached": adversarial.grad_fn is not None or adversarial.requires_grad,
            "input_requires_grad": x.requires_grad, "shares_memory": adversarial.data_ptr() == x.data_ptr(),
            "num_queries": len(model.queries)}, results


def run_adversarial_training(arrays, seed: int, training: bool, own_attack: bool) -> tuple[dict, dict]:
    """AdvSimpleNet (2024: SimpleNet) on images, with the student's PGDAttack or a known-good one.

    Returns the inputs and modes of the first convolution, and which parameters have a gradient.
    """
    undo = (lambda: None) if own_attack else graft.patch_class(student, "PGDAttack", "GoodPGD", "perturb")
    try:
        return record_first_convolution(arrays["x"], seed, training)
    finally:
        undo()


def record_first_convolution(images: np.ndarray, seed: int, training: bool) -> tuple[dict, dict]:
    seen: list[tuple[bool, np.ndarray]] = []
    holder: list[nn.Module] = []

    class Watched(nn.Conv2d):
        def forward(self, x):
            if self.in_channels == 3:
                seen.append((holder[0].training, to_numpy(x, "the input of the first convolution").copy()))
            return super().forward(x)

    seed_everything(seed)
    old_form = not hasattr(student, "AdvSimpleNet") and hasattr(student, "SimpleNet")  # 2024: SimpleNet itself attacks
    model = student_class("SimpleNet" if old_form else "AdvSimpleNet")(conv_op=Watched, num_classes=5)
    holder.append(model)
    model.train(training)
    x, modes = to_tensor(images), [module.training for module in model.modules()]
    logits = model(x)
    facts = {"modes_restored": modes == [module.training for module in model.modules()],
             "training_modes": [mode for mode, _ in seen], "class": type(model).__name__,
             "input_changed": not np.array_equal(images, to_numpy(x, "x"))}
    if training:
        facts["stale_gradients"] = any(parameter.grad is not None for parameter in model.parameters())
        nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 5).backward()
        facts["has_gradient"] = [parameter.grad is not None for parameter in model.parameters()]
    return facts, {"logits": to_numpy(logits, "the output"),
                   **({"last": seen[-1][1]} if seen else {})}


TASKS = {task.__name__: task for task in (load, run_convolution, run_attention, run_block, build_vit, run_vit,
                                          train_vit, run_attack, run_adversarial_training)}
