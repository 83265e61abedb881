"""Training on attacked images, for any network: the attacks that training can afford, and a guard against collapse.

Nothing is counted or checked here; to evaluate a network, take attacks.py. Images are normalised N,C,H,W, and
`epsilon`, the largest change of any value, is in the same units.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from attacks import frozen

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]  # model, images, labels -> attacked images


def gradient_sign(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The sign of the cross-entropy's gradient by the images: the direction that makes `labels` less likely."""
    images = images.detach().requires_grad_(True)
    with torch.enable_grad():
        # The factor changes no sign. In fp16 the gradient of a confident network would vanish without it.
        loss = 256 * F.cross_entropy(model(images), labels, reduction="sum")
        gradient, = torch.autograd.grad(loss, images)
    return gradient.sign()


def noise_like(images: Tensor, limit: float) -> Tensor:
    """Uniform noise in [-limit, limit], in 256 steps: eight values from each random number, for drawing takes time."""
    noise = torch.empty_like(images)
    drawn = torch.empty(-(-noise.numel() // 8), dtype=torch.int64, device=noise.device).random_(-2**63, None)
    in_memory_order = noise.as_strided((noise.numel(),), (1,))
    in_memory_order.copy_(drawn.view(torch.uint8)[: noise.numel()])
    return noise.sub_(127.5).mul_(limit / 127.5)


def pgd(epsilon: float, num_steps: int, step_size: float | None = None) -> Attack:
    """Projected gradient descent away from the true label (Madry et al. 2018), from a random start.

    `step_size` is 2.5 * epsilon / num_steps by default: enough to cross the box.
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
    """One step of `epsilon` from a start up to `noise` * epsilon away, not clipped: for training, not for evaluation.

    N-FGSM (de Jorge et al. 2022); benchmarks/bench_attack.py --train compares it with PGD. The result may be up to
    (1 + noise) * epsilon away from the images.
    """

    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        start = noise_like(images, noise * epsilon).add_(images)
        with frozen(model):
            return start.add_(gradient_sign(model, start, labels), alpha=epsilon)

    return attack


# ------------------------------------------------------------------------------------ training on attacks


def draw_probe(dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """16 to 64 images and labels of `dataset`: few where an epoch is short, so that a check after each costs little."""
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    images, labels = zip(*(dataset[i] for i in chosen[: min(64, max(16, len(dataset) // 48))].tolist()))
    return torch.stack(images), torch.tensor(labels)


class AdversarialTraining:
    """Attack each batch before the network learns from it: by 5 steps ("pgd") or by one ("fast", N-FGSM).

    One-step training can collapse from one epoch to the next: the network learns to fool the one step, and PGD breaks
    it altogether (Wong et al. 2020). So after each epoch PGD attacks the `probe`, a few training images. If nearly
    none withstands any more, the epoch is taken back, and training goes on with 5 steps.
    """

    def __init__(self, kind: str, model: nn.Module, epsilon: float | None, probe: tuple[Tensor, Tensor]):
        epsilon = 0.1 if epsilon is None else epsilon  # the sheet's
        self.kind, self.model, self.epsilon, self.probe = kind, model, epsilon, probe
        self.attacks = {"pgd": pgd(epsilon, num_steps=5), "fast": n_fgsm(epsilon)}
        self.check = pgd(epsilon, num_steps=3)
        self.best, self.kept = 0, None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.attacks[self.kind](self.model, images, labels)

    def state_dict(self) -> dict:
        return {"kind": self.kind, "best": self.best}

    def load_state_dict(self, state: dict, optimizer: torch.optim.Optimizer) -> None:
        """Go on from a checkpoint: the weights and the momentum that were loaded with it are the ones to keep."""
        self.kind, self.best = state["kind"], state["best"]
        self._keep(optimizer)

    def withstanding(self) -> int:
        """How many images of the probe are still classified rightly under attack."""
        images, labels = self.probe
        attacked = self.check(self.model, images, labels)
        with frozen(self.model), torch.no_grad():
            return int((self.model(attacked).argmax(dim=1) == labels).sum())

    def after_epoch(self, withstanding: int, optimizer: torch.optim.Optimizer) -> str | None:
        """Keep this epoch, or take it back if it collapsed; then the sentence that says so.

        A collapse is a fall from at least 8 images to less than a quarter: smaller falls are chance with so few.
        """
        if self.kind != "fast":
            return None
        if self.kept is None or self.best < 8 or withstanding >= self.best / 4:
            self.best = max(self.best, withstanding)
            self._keep(optimizer)
            return None
        self._take_back(optimizer)
        self.kind = "pgd"
        return (f"collapsed: of {len(self.probe[1])} images {withstanding} withstand PGD, {self.best} did before. This "
                "epoch is taken back; from here on training attacks in 5 steps")

    def _keep(self, optimizer: torch.optim.Optimizer) -> None:
        self.kept = copy.deepcopy((self.model.state_dict(), optimizer.state_dict()))

    def _take_back(self, optimizer: torch.optim.Optimizer) -> None:
        rates = [group["lr"] for group in optimizer.param_groups]  # the schedule goes on
        self.model.load_state_dict(self.kept[0])
        optimizer.load_state_dict(self.kept[1])
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
