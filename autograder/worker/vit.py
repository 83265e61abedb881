"""The worker's tasks for 3.2.2: SimpleViT around known-good blocks, or around the student's own."""

import inspect
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from autograder.worker import common, graft
from autograder.worker.common import student_class, to_numpy, to_tensor
from autograder.worker.probes import BUILDERS, call, make, race
from autograder.worker.transformers import attention_layers, encoder, linear_layers, projections, training_pass

BLOCK_ARGUMENTS = ["self", "dim", "num_heads", "mlp_ratio", "qkv_bias", "drop_path", "norm_layer", "act_layer",
                   "window_size"]


class MarkedNorm(nn.LayerNorm):
    """A norm_layer that can be told from others."""


class MarkedActivation(nn.GELU):
    """An act_layer that can be told from others."""


def build_vit(own: bool = False, marked: bool = False, **settings) -> nn.Module:
    """SimpleViT. `own`: with the student's own blocks. `marked`: with MarkedNorm and MarkedActivation."""
    graft.use(common.student, *([] if own else ["Attention", "TransformerBlock"]))
    settings |= {"norm_layer": MarkedNorm, "act_layer": MarkedActivation} if marked else {}
    return student_class("SimpleViT")(**settings)


def run_vit(arrays, build: dict) -> tuple[dict, dict]:
    """The logits, and facts about the known-good blocks in the order of their forward passes."""
    model = make({**build, "kind": "vit"})
    log = graft.REPLACEMENTS["GoodBlock"].log
    log.clear()
    logits = to_numpy(call(model, to_tensor(arrays["x"])), "the output")
    modules = list(model.modules())
    blocks, last = [], None
    for block, given, output in log:
        blocks.append({**block.settings, "registered": any(block is part for part in modules),
                       "follows": last is None or same_tokens(last, given), "tokens": given[0, ..., 0].numel(),
                       "norm_layer": all(isinstance(norm, MarkedNorm) for norm in (block.norm1, block.norm2)),
                       "act_layer": isinstance(block.act, MarkedActivation)})
        last = output
    other_norms = [name for name, part in model.named_modules() if isinstance(part, nn.LayerNorm)
                   and not isinstance(part, MarkedNorm)]
    return {"blocks": blocks, "other_norms": other_norms}, {"logits": logits}


def same_tokens(one: Tensor, other: Tensor) -> bool:
    """Whether B,H,W,C tensors hold the same tokens, in any order: windows may be cut once for all blocks."""
    rows = [np.asarray(to_numpy(x, "tokens")).reshape(-1, x.shape[-1]) for x in (one, other)]
    return rows[0].shape == rows[1].shape and np.array_equal(*[part[np.lexsort(part.T)] for part in rows])


def used_parameters(_, build: dict) -> tuple[dict, dict]:
    """The names of the parameters outside the blocks that a gradient reaches, with and without positions."""
    names = {}
    for use_abs_pos in (True, False):
        model = make({**build, "kind": "vit", "use_abs_pos": use_abs_pos})
        call(model, torch.randn(2, build["in_chans"], build["img_size"], build["img_size"])).square().sum().backward()
        names[str(use_abs_pos)] = [name for name, parameter in model.named_parameters() if parameter.grad is not None
                                   and parameter.grad.abs().max() > 0]
    return names, {}


# ------------------------------------------------------------------------------------------- own blocks


def usual_arguments(_) -> tuple[dict, dict]:
    """Whether the student's TransformerBlock takes the sheet's arguments in the sheet's order."""
    graft.use(common.student)
    theirs = getattr(common.student, "TransformerBlock", None)
    try:
        names = list(inspect.signature(theirs.__init__).parameters)
    except (AttributeError, TypeError, ValueError):
        names = []
    return {"usual": names[:len(BLOCK_ARGUMENTS)] == BLOCK_ARGUMENTS}, {}


def run_own_blocks(arrays, build: dict) -> tuple[dict, dict]:
    """What the student's own blocks do inside SimpleViT, by their behaviour.

    Facts for each: the tokens that it gets; how many tokens one token reaches, the least and the most ("reach"); an
    estimate of its drop path rate; its width; whether it follows the last one.
    """
    model = make({**build, "kind": "vit", "own": True})
    passes = watch_blocks(model, to_tensor(arrays["x"]))
    blocks = []
    for i, (block, given, _) in enumerate(passes):
        reach = [reached_tokens(block, given[:1], t) for t in range(given[0, ..., 0].numel())]
        blocks.append({"tokens": len(reach), "reach": [min(reach), max(reach)], "dim": given.shape[-1],
                       "drop_path": drop_rate(block, given[:1]), **layer_settings(block, given.shape[-1]),
                       "follows": i == 0 or same_tokens(passes[i - 1][2], given)})
    return {"blocks": blocks}, {}


def watch_blocks(model: nn.Module, x: Tensor) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """(block, input, output) of the outermost modules with one attention each that keep the shape B,H,W,C."""
    passes, handles = [], []
    candidates = [part for part in model.modules() if part is not model and len(found := attention_layers(part)) == 1
                  and (found[0] is not part or any(isinstance(inner, nn.LayerNorm) for inner in part.modules()))]
    for part in candidates:
        handles.append(part.register_forward_hook(
            lambda module, given, output: passes.append((module, given[0].detach(), output.detach()))))
    call(model, x)
    for handle in handles:
        handle.remove()
    ran = {id(module) for module, given, output in passes if given.ndim == 4 and given.shape == output.shape}
    inner = {id(part) for module, *_ in passes if id(module) in ran for part in module.modules() if part is not module}
    return [one for one in passes if id(one[0]) in ran - inner]


@torch.no_grad()
def reached_tokens(block: nn.Module, given: Tensor, token: int) -> int:
    """The number of output tokens that change with one input token."""
    moved = given.clone()
    moved.view(-1, given.shape[-1])[token] += torch.randn(given.shape[-1])
    return int(((block(moved) - block(given)).abs().amax(-1) > 1e-6).sum())


@torch.no_grad()
def drop_rate(block: nn.Module, given: Tensor, samples: int = 3000) -> float:
    """An estimate of the drop path rate from `samples` copies of one input: both branches are kept in (1 - rate)^2."""
    batch = given[:, :1, :1].expand(samples, -1, -1, -1).contiguous()
    kept = block.eval()(batch[:2])
    changed = call(block.train(), batch, 7) - batch
    block.eval()
    if torch.allclose(changed[:2], kept - batch[:2], atol=1e-5) and (changed - changed[:1]).abs().max() < 1e-5:
        return 0.0
    _, counts = torch.unique((changed.flatten(1) * 1e3).round(), dim=0, return_counts=True)
    return 1 - (counts.max().item() / samples) ** 0.5


def layer_settings(block: nn.Module, dim: int) -> dict:
    """What the block's layers tell of its arguments: hidden widths, biases of q, k and v, norm and activation."""
    attention = attention_layers(block)[0]
    others = [layer for layer in linear_layers(block) if all(layer is not part for part in attention.modules())]
    return {
        "hidden": [layer.weight.shape[0] for layer in others],
        "qkv_bias": bool(projections(attention, dim).get("qkv.bias")),
        "norm_layer": any(isinstance(part, MarkedNorm) for part in block.modules()),
        "act_layer": any(isinstance(part, MarkedActivation) for part in block.modules()),
        "integers": [value for value in vars(attention).values() if type(value) is int],
    }


def time_vit(_, limit: float, sizes: list, dim: int, depth: int, num_heads: int, own: bool) -> tuple[dict, dict]:
    """Seconds of forward and backward over N,3,side,side in patches of 8; the reference is torch's encoder."""
    def student(size):
        N, side = size
        model = build_vit(
            own, img_size=side, patch_size=8, embed_dim=dim, depth=depth, num_heads=num_heads, num_classes=10
        )
        x = torch.randn(N, 3, side, side)
        return lambda: model(x).square().sum().backward()

    reference = partial(training_pass, encoder(depth, dim, num_heads), dim)
    return race(student, lambda size: reference([size[0], size[1] // 8, size[1] // 8]), sizes, limit), {}


BUILDERS["vit"] = build_vit
TASKS = (run_vit, used_parameters, usual_arguments, run_own_blocks, time_vit)
