"""Adversarial training of any network: fast attacks, and a guard against catastrophic overfitting.

These attacks record no statistics; evaluate with extras/attacks.py. Images are normalised N,C,H,W, and `epsilon`,
the L-inf bound, is in the same units.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from extras.attacks import frozen

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]  # model, images, labels -> adversarial images


def gradient_sign(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Sign of the input gradient of the cross-entropy: the direction that makes `labels` less likely."""
    images = images.detach().requires_grad_(True)
    with torch.enable_grad():
        # Scaled, or the gradient of a confident network underflows in fp16; the sign is the same.
        loss = 256 * F.cross_entropy(model(images), labels, reduction="sum")
        gradient, = torch.autograd.grad(loss, images)
    return gradient.sign()


def noise_like(images: Tensor, limit: float) -> Tensor:
    """Uniform noise in [-limit, limit] with 256 levels: eight values per random integer, which is faster."""
    noise = torch.empty_like(images)
    drawn = torch.empty(-(-noise.numel() // 8), dtype=torch.int64, device=noise.device).random_(-2**63, None)
    in_memory_order = noise.as_strided((noise.numel(),), (1,))
    in_memory_order.copy_(drawn.view(torch.uint8)[: noise.numel()])
    return noise.sub_(127.5).mul_(limit / 127.5)


def pgd(epsilon: float, num_steps: int, step_size: float | None = None) -> Attack:
    """Untargeted PGD from a random start (Madry et al. 2018).

    The default `step_size` is 2.5 * epsilon / num_steps.
    """
    step_size = 2.5 * epsilon / num_steps if step_size is None else step_size

    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        lower, upper = images - epsilon, images + epsilon
        attacked = noise_like(images, epsilon).add_(images)
        with frozen(model):
            for _ in range(num_steps):
                direction = gradient_sign(model, attacked, labels)
                attacked = attacked.add_(direction, alpha=step_size).clamp_(lower, upper)
        return attacked

    return attack


def n_fgsm(epsilon: float, noise: float = 2.0) -> Attack:
    """N-FGSM (de Jorge et al. 2022): one step of `epsilon` from uniform noise of up to `noise` * epsilon, unclipped.

    For training only: the result is up to (1 + noise) * epsilon away from the images. benchmarks/bench_attack.py
    --train compares it with PGD.
    """

    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        start = noise_like(images, noise * epsilon).add_(images)
        with frozen(model):
            return start.add_(gradient_sign(model, start, labels), alpha=epsilon)

    return attack


# ---------------------------------------------------------------------------------- adversarial training


def draw_probe(dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """The probe set: 16 to 64 random images and labels of `dataset`, fewer where an epoch is short."""
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    items = (dataset[i] for i in chosen[: min(64, max(16, len(dataset) // 48))].tolist())
    images, labels = zip(*(item for item in items if item is not None))  # of bad images that are skipped
    return torch.stack(images), torch.tensor(labels)


class AdversarialTraining:
    """Attack each training batch with 5-step PGD ("pgd") or one-step N-FGSM ("fast").

    One-step training can end in catastrophic overfitting within an epoch: the network becomes robust to that one step
    only, and PGD fools it on every image (Wong et al. 2020). So after each epoch PGD attacks the `probe` set. If robust
    accuracy collapses, the epoch is reverted, and training continues with 5-step PGD.
    """

    def __init__(self, kind: str, model: nn.Module, epsilon: float, probe: tuple[Tensor, Tensor]):
        self.kind, self.model, self.epsilon, self.probe = kind, model, epsilon, probe
        self.attacks = {"pgd": pgd(epsilon, num_steps=5), "fast": n_fgsm(epsilon)}
        self.probe_attack = pgd(epsilon, num_steps=3)
        self.best, self.snapshot = 0, None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.attacks[self.kind](self.model, images, labels)

    def state_dict(self) -> dict:
        """The snapshot, too: inside an epoch the weights have gone on."""
        snapshot = dict(zip(("state_dict", "optimizer"), self.snapshot)) if self.snapshot else None
        return {"kind": self.kind, "best": self.best, "snapshot": snapshot}

    def load_state_dict(self, state: dict, optimizer: torch.optim.Optimizer | None) -> None:
        """Restore from a checkpoint; the current weights and momentum become the snapshot, without `optimizer` none."""
        self.kind, self.best = state["kind"], state["best"]
        if optimizer is not None:
            self._save_snapshot(optimizer)

    def robust_probes(self) -> int:
        """Number of probe images that are classified correctly under attack."""
        images, labels = self.probe
        attacked = self.probe_attack(self.model, images, labels)
        with frozen(self.model), torch.no_grad():
            return int((self.model(attacked).argmax(dim=1) == labels).sum())

    def after_epoch(self, robust: int, optimizer: torch.optim.Optimizer) -> str | None:
        """Snapshot this epoch; on catastrophic overfitting revert to the snapshot and return a warning.

        The criterion is a drop from at least 8 robust images to less than a quarter; smaller drops can be noise in so
        few images.
        """
        if self.kind != "fast":
            return None
        if self.snapshot is None or self.best < 8 or robust >= self.best / 4:
            self.best = max(self.best, robust)
            self._save_snapshot(optimizer)
            return None
        self._restore_snapshot(optimizer)
        self.kind, self.snapshot = "pgd", None  # which has no need of one
        return (f"catastrophic overfitting: {robust} of {len(self.probe[1])} probe images are robust to PGD, "
                f"{self.best} were before. This epoch is reverted; training continues with 5-step PGD")

    def _save_snapshot(self, optimizer: torch.optim.Optimizer) -> None:
        self.snapshot = copy.deepcopy((self.model.state_dict(), optimizer.state_dict()))

    def _restore_snapshot(self, optimizer: torch.optim.Optimizer) -> None:
        rates = [group["lr"] for group in optimizer.param_groups]  # the schedule is not reverted
        self.model.load_state_dict(self.snapshot[0])
        optimizer.load_state_dict(self.snapshot[1])
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
