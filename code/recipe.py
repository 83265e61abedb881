"""`--recipe fast`: what makes the most of a short training on a CPU, against the sheet's recipe at equal time.

Muon for the filters, small images first, and less augmentation. Each part can be replaced by its own flag where there
is one. Measured, with what did not pay: benchmarks/README.md.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import custom_transforms as T

RECIPES = ("sheet", "fast")
# What --recipe fast sets, unless the command line does: flags of main.py.
FAST = {"batch_size": 128, "lr": 0.02, "warmup": 1.0, "weight_decay": 0.1}


@dataclass(frozen=True)
class ProgressiveResizing:
    """Image size of training by epoch: linear from `start` to `end` over the first 80 % of the epochs, then `end`.

    Small images cost less in proportion to their area, and are enough for coarse features (Howard 2018, fast.ai's
    DAWNBench entry). `end` is below the 128 pixels of validation, because random sized crops magnify objects: at 112 they
    look as large in training as in validation (Touvron et al. 2019, "FixRes").
    """

    start: int = 64
    end: int = 112

    def size(self, epoch: int, epochs: int) -> int:
        grown = min(1.0, epoch / max(1.0, 0.8 * epochs - 1))
        return round((self.start + (self.end - self.start) * grown) / 8) * 8


def light_transforms(transforms: T.Compose, size: int) -> T.Compose:
    """The student's list without rotation, colour and scaling, and with random sized crops of `size` pixels.

    Small networks underfit 90,000 images in a short training: strong augmentation costs them accuracy.
    """
    kept = []
    for step in transforms.transforms:
        if isinstance(step, T.RandomSizedCrop):
            kept.append(T.RandomSizedCrop(size, step.interpolations, step.area, step.aspect))
        elif not isinstance(step, (T.RandomRotate, T.RandomColor, T.Scale)):
            kept.append(step)
    return T.Compose(kept)


class Muon(torch.optim.Optimizer):
    """Muon for filters and matrices, AdamW for everything else (Jordan et al. 2024).

    Muon replaces each momentum matrix by the nearest orthogonal one, so that all directions learn equally fast. A
    convolution's weight Co,Ci,K,K is seen as a matrix Co x Ci*K*K; torch.optim.Muon takes 2-D parameters only. The
    last layer, biases and norms get AdamW, at `ratio` of the learning rate; only matrices decay.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float, momentum: float = 0.95, ratio: float = 0.15):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for _, p in named if p.ndim >= 2]
        head = matrices[-1]
        filters = [p for p in matrices if p is not head]
        vectors = [p for _, p in named if p.ndim < 2]
        super().__init__([
            {"params": filters, "muon": True, "lr": lr, "weight_decay": weight_decay, "scale": 1.0},
            {"params": [head], "muon": False, "lr": ratio * lr, "weight_decay": weight_decay, "scale": ratio},
            {"params": vectors, "muon": False, "lr": ratio * lr, "weight_decay": 0.0, "scale": ratio},
        ], {"momentum": momentum, "betas": (0.9, 0.95), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    (self._muon if group["muon"] else self._adam)(p, group)

    def _muon(self, p: Tensor, group: dict) -> None:
        average = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        average.lerp_(p.grad, 1 - group["momentum"])
        update = orthogonalized(p.grad.lerp(average, group["momentum"]).flatten(1))  # Nesterov
        scale = max(1, update.shape[0] / update.shape[1]) ** 0.5
        p.add_(update.view_as(p), alpha=-group["lr"] * scale)

    def _adam(self, p: Tensor, group: dict) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        mean = state.setdefault("exp_avg", torch.zeros_like(p)).lerp_(p.grad, 1 - beta1)
        square = state.setdefault("exp_avg_sq", torch.zeros_like(p)).lerp_(p.grad.square(), 1 - beta2)
        state["step"] = state.get("step", 0) + 1
        corrected = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        p.addcdiv_(mean, corrected, value=-group["lr"] / (1 - beta1 ** state["step"]))


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """Roughly U V^T of the singular value decomposition U S V^T, by Newton-Schulz steps: matrix products only."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.t() if tall else x
    for _ in range(steps):
        gram = x @ x.t()
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.t() if tall else x
