"""`--recipe fast`: Muon, progressive resizing and light augmentation, for short trainings on little hardware."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

import custom_transforms as T
from libs.batch_transforms import BatchTransforms
from libs.loaders import BatchLoader
from utils import BadInput

RECIPES = ("sheet", "fast")
# Flags of main.py that --recipe fast sets, unless the command line does.
FAST = {"batch_size": 128, "lr": 0.01, "warmup": 1.0, "weight_decay": 0.05}


def make_optimizer(args, model: nn.Module) -> torch.optim.Optimizer:
    """Muon for --recipe fast; else the sheet's: AdamW for the ViT, SGD with momentum for all others."""
    if args.recipe == "fast":
        return Muon(model, args.lr, args.weight_decay)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if args.model == "vit":
        return torch.optim.AdamW(model.parameters(), args.lr, weight_decay=args.weight_decay, fused=fused)
    return torch.optim.SGD(model.parameters(), args.lr, args.momentum, weight_decay=args.weight_decay, fused=fused)


def pool_before_relu(model: nn.Module) -> None:
    """Swap each ReLU with the max-pooling behind it, inside every nn.Sequential of `model`.

    ReLU is monotone, so max-pooling commutes with it: outputs and gradients stay the same to the bit, and ReLU works on
    a quarter of the values. On a CPU, where ReLU is limited by memory, this makes SimpleNet's step 8 % shorter.
    Neither layer has parameters, so checkpoints do not change.
    """
    for block in model.modules():
        if isinstance(block, nn.Sequential):
            for i, (first, second) in enumerate(pairwise(list(block))):
                if type(first) is nn.ReLU and type(second) is nn.MaxPool2d:
                    block[i], block[i + 1] = second, first


# ---------------------------------------------------------------------------------- progressive resizing


@dataclass(frozen=True)
class ProgressiveResizing:
    """Image size by epoch: linear from `start` to `end` over the first 80 % of `epochs`, then `end`.

    Cost falls with the area, and small images suffice for coarse features (fast.ai's DAWNBench entry, 2018). `end` is
    below the 128 pixels of validation because random sized crops magnify objects: at 112 they appear as large in
    training as in the validation crop (Touvron et al. 2019, "FixRes").
    """

    loader: BatchLoader
    epochs: int
    start: int = 64
    end: int = 112

    @classmethod
    def of(cls, loader, epochs: int) -> "ProgressiveResizing":
        """Raises BadInput for a per-image loader, whose worker processes cannot be given other transforms."""
        if not isinstance(loader, BatchLoader):
            raise BadInput("--recipe fast needs the decoded cache and transforms of custom_transforms: MiniPlaces' "
                           "layout, without --cache off; take --recipe sheet here")
        return cls(loader, epochs)

    def __call__(self, epoch: int) -> None:
        """Give the loader its transforms of `epoch`."""
        transforms = light_augmentation(self.loader.dataset.transforms, self.size(epoch))
        self.loader.transforms = BatchTransforms.of(transforms)

    def size(self, epoch: int) -> int:
        grown = min(1.0, epoch / max(1.0, 0.8 * self.epochs - 1))
        return round((self.start + (self.end - self.start) * grown) / 8) * 8


def light_augmentation(transforms: T.Compose, size: int) -> T.Compose:
    """`transforms` without scaling, rotation and colour, and with random sized crops of `size` pixels.

    Small networks underfit in a short training, and strong augmentation costs them accuracy.
    """
    kept = []
    for step in transforms.transforms:
        if isinstance(step, T.RandomSizedCrop):
            kept.append(T.RandomSizedCrop(size, step.interpolations, step.area, step.aspect))
        elif not isinstance(step, (T.RandomRotate, T.RandomColor, T.Scale)):
            kept.append(step)
    return T.Compose(kept)


# -------------------------------------------------------------------------------------------------- Muon


class Muon(torch.optim.Optimizer):
    """Muon for filters and hidden matrices, AdamW for everything else (Jordan et al. 2024).

    Muon replaces the momentum of a matrix by the nearest orthogonal matrix, so that all directions are learnt at one
    speed. A filter bank Co,Ci,K,K is taken as a matrix Co x Ci*K*K (torch.optim.Muon accepts 2-D parameters only).
    The last layer, biases and norms get AdamW at `ratio` times the learning rate; biases and norms do not decay.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float, momentum: float = 0.95, ratio: float = 0.15):
        learnt = [p for p in model.parameters() if p.requires_grad]
        *hidden, last = [p for p in learnt if p.ndim >= 2]
        super().__init__([
            {"params": hidden, "muon": True, "lr": lr, "weight_decay": weight_decay, "scale": 1.0},
            {"params": [last], "muon": False, "lr": ratio * lr, "weight_decay": weight_decay, "scale": ratio},
            {"params": [p for p in learnt if p.ndim < 2], "muon": False, "lr": ratio * lr, "weight_decay": 0.0,
             "scale": ratio}], {"momentum": momentum, "betas": (0.9, 0.95), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    (self._muon if group["muon"] else self._adam)(p, group)

    def _muon(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        average = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
        update = orthogonalize(p.grad.lerp(average, group["momentum"]).flatten(1))  # Nesterov; (Co, Ci*K*K)
        scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        p.add_(update.view_as(p), alpha=-group["lr"] * scale)

    def _adam(self, p: Tensor, group: dict) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        state["step"] += 1
        mean = state["exp_avg"].lerp_(p.grad, 1 - beta1)
        square = state["exp_avg_sq"].lerp_(p.grad.square(), 1 - beta2)
        spread = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        p.addcdiv_(mean, spread, value=-group["lr"] / (1 - beta1 ** state["step"]))


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Approximate U V^T of the singular value decomposition U S V^T by Newton-Schulz iterations: matmuls only."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.t() if tall else x
    for _ in range(steps):
        gram = x @ x.t()
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.t() if tall else x
