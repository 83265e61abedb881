"""Tasks for PGDAttack: it runs on networks with a closed-form gradient, which record the images they are shown."""

import random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from autograder.worker.common import (
    BASELINE,
    process_state,
    restore_process,
    seed_everything,
    student_class,
    to_numpy,
    to_tensor,
)

wrappers = torch._C._functorch


class Pass(NamedTuple):
    """One forward pass: the images N,C,H,W, the network's mode, and what is behind the images."""

    images: np.ndarray
    training: bool
    needs_gradient: bool  # of the images
    graph_size: int


class Record(list):
    """The forward passes of a network and of all its copies."""

    def __deepcopy__(self, _):
        return self


class QuadraticNet(nn.Module):
    """Logits with a closed-form gradient: w_k . z - c_k |z - t_k|^2 + b_k, where z is BatchNorm(x).

    With `sensitive`, dropout and BatchNorm reveal a call in training mode; otherwise the mode changes nothing.
    """

    def __init__(self, arrays: dict, sensitive: bool = False):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(arrays["mean"].shape[0], affine=False), nn.Dropout(0.5)
        self.norm.running_mean.copy_(to_tensor(arrays["mean"]))
        self.norm.running_var.copy_(to_tensor(arrays["var"]))
        self.w, self.t = nn.Parameter(to_tensor(arrays["w"])), nn.Parameter(to_tensor(arrays["t"]))
        self.b, self.c = nn.Parameter(to_tensor(arrays["b"])), nn.Parameter(to_tensor(arrays["c"]), requires_grad=False)
        self.sensitive, self.record = sensitive, Record()

    def forward(self, x: Tensor) -> Tensor:
        images, is_wrapped = unwrapped(x)
        self.record.append(Pass(array_of(images), self.training,
                                x.requires_grad or is_wrapped, graph_size(x.grad_fn)))
        z = self.drop(self.norm(x)) if self.sensitive else F.batch_norm(x, self.norm.running_mean,
                                                                        self.norm.running_var)
        z = z.flatten(1)
        return z @ self.w.T - self.c * (z[:, None] - self.t).square().sum(2) + self.b


# What students read in the messages of errors
QuadraticNet.__name__ = QuadraticNet.__qualname__ = "model"
QuadraticNet.forward.__qualname__ = "model.forward"


def unwrapped(x: Tensor) -> tuple[Tensor, bool]:
    """The images behind the wrappers of torch.func (grad, vmap), and whether there are any."""
    is_wrapped = False
    while isinstance(x, Tensor) and wrappers.is_functorch_wrapped_tensor(x):
        is_wrapped, axis = True, wrappers.maybe_get_bdim(x) if wrappers.is_batchedtensor(x) else None
        x = wrappers.get_unwrapped(x)
        x = x if axis is None else x.movedim(axis, 0).flatten(0, 1)
    return x, is_wrapped


def array_of(images: Tensor) -> np.ndarray:
    """Images from unwrapped(), also inside torch.func, which would wrap the results of operations on them again."""
    with temporarily_clear_interpreter_stack():
        return to_numpy(images, "the input of the network").copy()


def graph_size(node) -> int:
    """The number of nodes of an autograd graph, at most about 100."""
    seen, waiting = set(), [node]
    while waiting and len(seen) < 100:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [behind for behind, _ in node.next_functions]
    return len(seen)


def network_state(model: nn.Module) -> dict:
    """What an attack must not change."""
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
             for module in model.modules()]
    return {"modes": [module.training for module in model.modules()],
            "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
            "has_gradient": [parameter.grad is not None and bool(parameter.grad.any())
                             for parameter in model.parameters()],
            "parameters": [parameter.tolist() for parameter in model.parameters()],
            "buffers": [buffer.tolist() for buffer in model.buffers()], "hooks": hooks}


def run_attacks(arrays, settings: list, calls: list[list[int]], seed: int, training: bool = False,
                sensitive: bool = False, label_smoothing: float = 0.0, reduction: str = "mean") -> tuple[dict, dict]:
    """PGDAttack on QuadraticNets. Case n has the arrays `n.x`, `n.w`, ..., and settings[n], a list or a dictionary.

    Each of `calls` is [case, first image, last image]; all attacks and networks are made before the first call.
    Returns for call m: facts["calls"][m], the result `m.adversarial` and the images of all forward passes, `m.queries`.
    """
    seed_everything(seed)
    loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing, reduction=reduction)
    cases = [{name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{n}.")}
             for n in range(len(settings))]
    networks = [QuadraticNet(case, sensitive).train(training) for case in cases]
    attack = student_class("PGDAttack")
    attacks = [attack(loss, *given) if isinstance(given, list) else attack(loss, **given) for given in settings]
    facts, results = [], {}
    for m, (n, first, last) in enumerate(calls):
        told, found = run_attack(attacks[n], networks[n], to_tensor(cases[n]["x"][first:last]))
        facts.append(told)
        results |= {f"{m}.{name}": array for name, array in found.items()}
    draws = [torch.rand(1).item(), float(np.random.rand()), random.random()]
    return {"calls": facts, "draws": draws}, results


def run_attack(attack, network: QuadraticNet, x: Tensor) -> tuple[dict, dict]:
    """One call of perturb."""
    network.record.clear()
    given, before = x.clone(), network_state(network)
    try:
        adversarial = attack.perturb(network, x)
        changed = [name for name, value in process_state().items() if value != BASELINE[name]]
    finally:
        restore_process()
    results = {"adversarial": to_numpy(adversarial, "the result of perturb").copy()}
    if network.record:
        results["queries"] = np.concatenate([one.images for one in network.record])
    return {"before": before, "after": network_state(network), "process_changed": changed,
            "passes": [[len(one.images), one.training, one.needs_gradient, one.graph_size] for one in network.record],
            "attached": adversarial.requires_grad, "shares_memory": adversarial.data_ptr() == x.data_ptr(),
            "input_changed": not torch.equal(given, x), "input_requires_grad": x.requires_grad}, results


TASKS = [run_attacks]
