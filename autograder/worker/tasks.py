"""The tasks: each calls a student's code once and returns what came out, as facts (JSON) and arrays. No verdicts.

A task takes its arrays first, then its settings by name. float32 and float64 arrays become tensors of the same type.
"""

import random
import types

import numpy as np
import torch
from torch import Tensor, nn

from autograder.worker import graft, kernels

student: types.ModuleType
models: dict[str, nn.Module] = {}


def tensor(array: np.ndarray, gradient: bool = False) -> Tensor:
    return torch.from_numpy(array.copy()).requires_grad_(gradient)


def numpy(value, name: str) -> np.ndarray:
    """A tensor as an array; anything else is the student's mistake, said as such."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, not a tensor")
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()


def settle_chance(seed: int) -> None:
    """The same random numbers for the same seed, whichever of the three generators student code asks."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class Missing(Exception):
    """Something that the sheet names is not there."""


def graded(name: str):
    """A class of the student's file. Raises Missing."""
    if not hasattr(student, name):
        raise Missing(f"student_code.py has no {name}")
    return getattr(student, name)


def load(_, seed: int) -> tuple[dict, dict]:
    """Import student_code."""
    global student
    settle_chance(seed)
    import student_code
    student = student_code
    return {}, {}


# ------------------------------------------------------------------------------------------- convolution


def convolve(arrays, stride: int, padding: int, through: str = "function", needs: list[str] = ("x", "w", "b"),
             in_place: bool = False, strided: bool = False) -> tuple[dict, dict]:
    """Forward and, given `dy`, backward, through the Function, its "defaults" (stride 1, padding 0) or the "module".

    `needs` names the tensors that want a gradient. `in_place` puts a ReLU(inplace=True) behind; `strided` hands over
    a gradient that is not contiguous, as the layer behind it may.
    """
    x, w = tensor(arrays["x"], "x" in needs), tensor(arrays["w"], "w" in needs)
    b = tensor(arrays["b"], "b" in needs) if "b" in arrays else None
    if through == "module":
        layer = graded("CustomConv2d")(w.shape[1], w.shape[0], kernel_size=w.shape[2], stride=stride, padding=padding,
                                       bias=b is not None).to(w.dtype)
        with torch.no_grad():
            layer.weight.copy_(w)
            if b is not None:
                layer.bias.copy_(b)
        w, b = layer.weight, layer.bias
        call = lambda: layer(x)  # noqa: E731
    else:
        function = graded("CustomConv2DFunction")
        given = () if through == "defaults" else (stride, padding)
        call = lambda: function.apply(x, w, b, *given)  # noqa: E731
    y = call()
    results = {"y": numpy(y, "the output").copy()}
    if in_place:
        y = torch.relu_(y)
        results["relu"] = numpy(y, "the output")
    if "dy" in arrays:
        dy = tensor(arrays["dy"]).to(y.dtype)
        if strided:
            dy = dy.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
        y.backward(dy)
        for name, given in (("dx", x), ("dw", w), ("db", b)):
            if given is not None and given.grad is not None:
                results[name] = numpy(given.grad, f"the gradient of {name[1]}")
    return {"dtype": str(y.dtype).removeprefix("torch."), "convolution_taken_away": kernels.still_away()}, results


# ----------------------------------------------------------------------------------- attention and blocks


def attend(arrays, num_heads: int, qkv_bias: bool) -> tuple[dict, dict]:
    """Attention with the weights given. The gradient of sum(y * dy) by x comes back as well."""
    x = tensor(arrays["x"], True)
    layer = graded("Attention")(x.shape[-1], num_heads=num_heads, qkv_bias=qkv_bias).to(x.dtype).eval()
    for name, parameters in projections(layer, x.shape[-1]).items():
        for parameter, piece in zip(parameters, np.split(arrays[name], len(parameters)) if name in arrays else ()):
            parameter.data = tensor(piece)
    y = layer(x)
    numpy(y, "the output")
    (y * tensor(arrays["dy"])).sum().backward()
    gradient = numpy(x.grad, "the gradient of x") if x.grad is not None else np.zeros_like(arrays["x"])
    return {}, {"y": numpy(y, "the output"), "dx": gradient}


def projections(layer: nn.Module, dim: int) -> dict[str, list[Tensor]]:
    """The parameters that make q, k, v and the output, whatever they are called: one layer of 3C or three of C; one.

    Raises Missing if it is none of these.
    """
    own = dict(layer.named_parameters())
    if "qkv.weight" in own and "proj.weight" in own:
        return {name: [own[name]] for name in ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias") if name in own}
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
                      f"makes them; it has the parameters {', '.join(own) or 'none'}")
    first, last = wide or square[:3], square[-1]
    return {"qkv.weight": [module.weight for module in first], "proj.weight": [last.weight],
            "qkv.bias": [module.bias for module in first if module.bias is not None],
            "proj.bias": [last.bias] if last.bias is not None else []}


def transform(arrays, num_heads: int, window_size: int, drop_path: float, training: bool,
              seed: int) -> tuple[dict, dict]:
    """TransformerBlock around a known-good Attention, with the weights given: by kind and order, never by name."""
    graft.graft(student, "Attention", "GoodAttention", "forward")
    x = tensor(arrays["x"])
    dim, hidden = x.shape[-1], arrays["fc1.weight"].shape[0]
    settle_chance(seed)
    block = graded("TransformerBlock")(dim, num_heads, mlp_ratio=hidden / dim, qkv_bias=True, drop_path=drop_path,
                                       norm_layer=nn.LayerNorm, act_layer=nn.GELU, window_size=window_size)
    attention = [module for module in block.modules() if hasattr(module, "qkv") and hasattr(module, "proj")]
    inside = {id(part) for module in attention for part in module.modules()}
    norms = [module for module in block.modules() if isinstance(module, nn.LayerNorm)]
    linear = [module for module in block.modules() if isinstance(module, nn.Linear) and id(module) not in inside]
    first = [module for module in linear if module.weight.shape == (hidden, dim)]
    second = [module for module in linear if module.weight.shape == (dim, hidden)]
    parts = {"Attention": attention, "LayerNorm": norms, "MLP layer up": first, "MLP layer down": second}
    counts = {name: len(found) for name, found in parts.items()}
    if counts == {"Attention": 1, "LayerNorm": 2, "MLP layer up": 1, "MLP layer down": 1}:
        named = {"qkv": attention[0].qkv, "proj": attention[0].proj, "norm1": norms[0], "norm2": norms[1],
                 "fc1": first[0], "fc2": second[0]}
        for name, array in arrays.items():
            module, _, parameter = name.partition(".")
            if parameter:
                getattr(named[module], parameter).data = tensor(array)
    block = block.to(x.dtype).train(training)
    given = x.clone()
    y = block(x)
    return {"counts": counts, "input_changed": not torch.equal(given, x)}, {"y": numpy(y, "the output")}


# --------------------------------------------------------------------------------- the vision transformer


def build_vit(_, seed: int, **keywords) -> tuple[dict, dict]:
    """SimpleViT around known-good blocks, in float64 and eval mode, every parameter shaken so that none is zero."""
    graft.graft(student, "Attention", "GoodAttention", "forward")
    graft.graft(student, "TransformerBlock", "GoodBlock", "forward")
    settle_chance(seed)
    model = graded("SimpleViT")(**keywords).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    models["vit"] = model
    return {}, {}


def run_vit(arrays) -> tuple[dict, dict]:
    """Logits of images, and the blocks in the order in which they ran."""
    log = graft.GOOD["GoodBlock"].log
    log.clear()
    logits = models["vit"](tensor(arrays["x"]))
    return {"blocks": [block.built for block in log]}, {"logits": numpy(logits, "the output")}


def train_vit(arrays) -> tuple[dict, dict]:
    """One backward pass in training mode: the names of parameters that no gradient reaches."""
    model = models["vit"].train()
    model.zero_grad()
    logits = model(tensor(arrays["x"]))
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    dead = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    return {"dead": dead, "parameters": len(list(model.parameters()))}, {}


# ----------------------------------------------------------------------------------------------- attacks


class Bowl(nn.Module):
    """Logits that the grader can differentiate by hand: w_k . z - c_k |z - t_k|^2 + b_k, where z is BatchNorm(x).

    Dropout and BatchNorm give away whoever calls it in training mode. Keeps every input it is asked about.
    """

    def __init__(self, arrays: dict):
        super().__init__()
        self.norm = nn.BatchNorm2d(arrays["mean"].shape[0], affine=False)
        self.norm.running_mean.copy_(tensor(arrays["mean"]))
        self.norm.running_var.copy_(tensor(arrays["var"]))
        self.drop = nn.Dropout(0.5)
        self.w, self.t = nn.Parameter(tensor(arrays["w"])), nn.Parameter(tensor(arrays["t"]))
        self.b, self.c = nn.Parameter(tensor(arrays["b"])), nn.Parameter(tensor(arrays["c"]), requires_grad=False)
        self.queries: list[np.ndarray] = []
        self.depths: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.queries.append(numpy(x, "what the model was given").copy())
        self.depths.append(depth(x.grad_fn))
        z = self.drop(self.norm(x)).flatten(1)
        return z @ self.w.T - self.c * (z[:, None] - self.t).square().sum(2) + self.b


def depth(node) -> int:
    """The number of nodes of an autograd graph, up to a hundred."""
    seen, waiting = set(), [node]
    while waiting and len(seen) < 100:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [behind for behind, _ in node.next_functions]
    return len(seen)


def state(model: nn.Module) -> dict:
    return {"modes": [module.training for module in model.modules()],
            "wants_gradient": [parameter.requires_grad for parameter in model.parameters()],
            "has_gradient": [parameter.grad is not None and bool(parameter.grad.any())
                             for parameter in model.parameters()]}


def attack(arrays, num_steps: int, step_size: float, epsilon: float, seed: int, training: bool = False,
           by_default: bool = False) -> tuple[dict, dict]:
    """PGDAttack on a Bowl: every query, the adversarial images, and what has become of model and input."""
    settle_chance(seed)
    model = Bowl(arrays).train(training)
    x = tensor(arrays["x"])
    settings = {} if by_default else {"num_steps": num_steps, "step_size": step_size, "epsilon": epsilon}
    before, parameters = state(model), [parameter.detach().clone() for parameter in model.parameters()]
    adversarial = graded("PGDAttack")(nn.CrossEntropyLoss(), **settings).perturb(model, x)
    results = {"adversarial": numpy(adversarial, "the result of perturb").copy(), "x": numpy(x, "x"),
               "running_mean": numpy(model.norm.running_mean, "a buffer")}
    if len({query.shape for query in model.queries}) == 1:
        results["queries"] = np.stack(model.queries)
    same = all(torch.equal(old, new) for old, new in zip(parameters, model.parameters()))
    return {"before": before, "after": state(model), "depths": model.depths, "parameters_same": same,
            "attached": adversarial.grad_fn is not None or adversarial.requires_grad,
            "input_wants_gradient": x.requires_grad, "shares_memory": adversarial.data_ptr() == x.data_ptr(),
            "count": len(model.queries)}, results


def adversarial_training(arrays, seed: int, training: bool, own_attack: bool) -> tuple[dict, dict]:
    """AdvSimpleNet (or a SimpleNet that attacks by itself) on images: what its first convolution saw, in which mode.

    PGDAttack is the student's own or a known-good one. Which parameters the loss's gradient reaches comes back as well.
    """
    take_back = (lambda: None) if own_attack else graft.graft(student, "PGDAttack", "GoodPGD", "perturb")
    try:
        return watch_training(arrays["x"], seed, training)
    finally:
        take_back()


def watch_training(images: np.ndarray, seed: int, training: bool) -> tuple[dict, dict]:
    seen: list[tuple[bool, np.ndarray]] = []
    holder: list[nn.Module] = []

    class Watched(nn.Conv2d):
        def forward(self, x):
            if self.in_channels == 3:
                seen.append((holder[0].training, numpy(x, "the input of the first convolution").copy()))
            return super().forward(x)

    settle_chance(seed)
    old_form = not hasattr(student, "AdvSimpleNet") and hasattr(student, "SimpleNet")  # 2024: inside SimpleNet itself
    model = graded("SimpleNet" if old_form else "AdvSimpleNet")(conv_op=Watched, num_classes=5)
    holder.append(model)
    model.train(training)
    x, modes = tensor(images), [module.training for module in model.modules()]
    logits = model(x)
    facts = {"modes_same": modes == [module.training for module in model.modules()],
             "passes": [mode for mode, _ in seen], "class": type(model).__name__,
             "input_changed": not np.array_equal(images, numpy(x, "x"))}
    if training:
        facts["left_over"] = any(parameter.grad is not None for parameter in model.parameters())
        nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 5).backward()
        facts["reached"] = [parameter.grad is not None for parameter in model.parameters()]
    return facts, {"logits": numpy(logits, "the output"),
                   **({"last": seen[-1][1]} if seen else {})}


TASKS = {task.__name__: task for task in (load, convolve, attend, transform, build_vit, run_vit, train_vit, attack,
                                          adversarial_training)}
