"""The worker's tasks for 3.2. Weights in `arrays` are named as in the sheet: qkv, proj, norm1, norm2, fc1, fc2."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from autograder.worker import common, graft
from autograder.worker.common import Missing, student_class, to_numpy, to_tensor
from autograder.worker.probes import BUILDERS, call, make, race

# ---------------------------------------------------------------------------------------------- attention


def build_attention(dim: int, **settings) -> nn.Module:
    graft.use(common.student)
    return student_class("Attention")(dim, **settings)


def run_attention(arrays, build: dict, training: bool = False) -> tuple[dict, dict]:
    """Attention with the given weights. Returns the output y; facts: whether q, k and v have a bias."""
    layer, x = make({**build, "kind": "attention"}), to_tensor(arrays["x"])
    found = projections(layer, x.shape[-1])
    assign(found, arrays)
    y = call(layer.train(training), x)
    return {"bias": bool(found.get("qkv.bias"))}, {"y": to_numpy(y, "the output")}


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
    linear = linear_layers(layer)
    wide = [module for module in linear if module.weight.flatten(1).shape == (3 * dim, dim)]
    square = [module for module in linear if module.weight.flatten(1).shape == (dim, dim)]
    if len(linear) != len(wide) + len(square) or (len(wide), len(square)) not in ((1, 1), (0, 4)):
        raise Missing("Attention has no layers qkv (dim to 3 * dim) and proj (dim to dim), as the sheet's __init__ "
                      f"makes them; it has the parameters {', '.join(parameters) or 'none'}")
    up, last = wide or square[:3], square[-1]
    return {"qkv.weight": [module.weight for module in up], "proj.weight": [last.weight],
            "qkv.bias": [module.bias for module in up if module.bias is not None],
            "proj.bias": [last.bias] if last.bias is not None else []}


def linear_layers(module: nn.Module) -> list[nn.Module]:
    """Linear layers and 1x1 convolutions."""
    return [part for part in module.modules() if isinstance(part, nn.Linear)
            or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1))]


@torch.no_grad()
def assign(targets: dict[str, list[Tensor]], arrays: dict) -> None:
    """Copy the arrays into the parameters of the same names; an array is cut into equal pieces for several."""
    for name in set(targets) & set(arrays):
        for target, piece in zip(targets[name], np.split(arrays[name], max(1, len(targets[name])))):
            target.copy_(to_tensor(piece).view_as(target))


def time_attention(_, sizes: list, limit: float, dim: int, num_heads: int) -> tuple[dict, dict]:
    """Seconds of forward and backward over B,H,W,dim; the reference is torch's MultiheadAttention."""
    layer, theirs = build_attention(dim, num_heads=num_heads), nn.MultiheadAttention(dim, num_heads, batch_first=True)
    return race(partial(training_pass, layer, dim), lambda size: training_pass(
        lambda x: theirs(*[x.flatten(1, 2)] * 3, need_weights=False)[0], dim, size), sizes, limit), {}


def training_pass(module, dim: int, size: list[int]):
    x = torch.randn(*size, dim)
    return lambda: module(x).square().sum().backward()


# -------------------------------------------------------------------------------------------------- block


def build_block(dim: int, num_heads: int, own: bool = False, norm_eps: float = 1e-5, activation: str = "GELU",
                **settings) -> nn.Module:
    """TransformerBlock around a known-good Attention, or the student's own. `activation`: a class of torch.nn."""
    graft.use(common.student, *([] if own else ["Attention"]))
    norm = nn.LayerNorm if norm_eps == 1e-5 else partial(nn.LayerNorm, eps=norm_eps)
    return student_class("TransformerBlock")(dim, num_heads, norm_layer=norm, act_layer=getattr(nn, activation),
                                             **settings)


def run_block(arrays, build: dict, training: bool = False, seed: int = 1) -> tuple[dict, dict]:
    """TransformerBlock with the given weights, assigned by layer type and order. Returns the output y.

    Facts: the number of layers of each type, whether the attention is the student's own, whether it has a bias for q,
    k and v, whether the input was modified.
    """
    block, x = make({**build, "kind": "block"}), to_tensor(arrays["x"])
    parts = block_parts(block, x.shape[-1], arrays["fc1.weight"].shape[0])
    counts, attention = {name: len(found) for name, found in parts.items()}, parts["Attention"]
    facts = {"counts": counts, "own_attention": not graft.is_stand_in(attention[0], "Attention") if attention else True}
    if counts == {"Attention": 1, "LayerNorm": 2, "MLP layer up": 1, "MLP layer down": 1}:
        targets = projections(attention[0], x.shape[-1])
        facts["bias"] = bool(targets.get("qkv.bias"))
        named = {"norm1": parts["LayerNorm"][0], "norm2": parts["LayerNorm"][1], "fc1": parts["MLP layer up"][0],
                 "fc2": parts["MLP layer down"][0]}
        targets |= {f"{name}.{key}": [parameter] for name, module in named.items()
                    for key, parameter in module.named_parameters()}
        assign(targets, arrays)
    y = call(block.train(training), x, seed)
    return {**facts, "input_changed": not torch.equal(x, to_tensor(arrays["x"]))}, {"y": to_numpy(y, "the output")}


def block_parts(block: nn.Module, dim: int, hidden: int) -> dict[str, list[nn.Module]]:
    """The layers of a block by type. An MLP may be a module of any class, or the block's own two layers."""
    attention = attention_layers(block)
    inside = {id(part) for layer in attention for part in (
        (layer.qkv, layer.proj) if layer is block else layer.modules())}
    linear = [layer for layer in linear_layers(block) if id(layer) not in inside]
    return {
        "Attention": attention,
        "LayerNorm": [part for part in block.modules() if isinstance(part, nn.LayerNorm) and id(part) not in inside],
        "MLP layer up": [layer for layer in linear if layer.weight.flatten(1).shape == (hidden, dim)],
        "MLP layer down": [layer for layer in linear if layer.weight.flatten(1).shape == (dim, hidden)],
    }


def attention_layers(block: nn.Module) -> list[nn.Module]:
    """The modules of the class Attention, else those with the layers qkv and proj, else torch's own."""
    theirs = getattr(common.student, "Attention", None)
    kinds = (lambda part: isinstance(theirs, type) and isinstance(part, theirs),
             lambda part: hasattr(part, "qkv") and hasattr(part, "proj"),
             lambda part: isinstance(part, nn.MultiheadAttention))
    return next((found for kind in kinds if (found := [part for part in block.modules() if kind(part)])), [])


def time_block(
    _, sizes: list, limit: float, dim: int, num_heads: int, window_size: int, own: bool
) -> tuple[dict, dict]:
    """Seconds of forward and backward over B,H,W,dim; the reference is torch's TransformerEncoderLayer."""
    block = build_block(dim, num_heads, own, window_size=window_size)
    return race(
        partial(training_pass, block, dim), partial(training_pass, encoder(1, dim, num_heads), dim), sizes, limit
    ), {}


def encoder(depth: int, dim: int, num_heads: int):
    """torch's encoder over B,H,W,dim."""
    layers = nn.Sequential(*[nn.TransformerEncoderLayer(dim, num_heads, 4 * dim, 0.0, "gelu", batch_first=True,
                                                        norm_first=True) for _ in range(depth)])
    return lambda x: layers(x.flatten(1, 2))


BUILDERS.update(attention=build_attention, block=build_block)
TASKS = (run_attention, time_attention, run_block, time_block)
