"""Configurable L-inf attacks: `Threat` is the threat model, `attack()` runs it and records statistics per image.

Images are normalised N,C,H,W, and `epsilon`, the L-inf bound, is in the same units. The assignment's `PGDAttack`
(student_code.py) is one setting, `Threat(epsilon)`. The faster attacks for training are in adversarial_training.py.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OBJECTIVES = ("least-likely", "most-likely", "untargeted", "targeted")
CHOICES = {"objective": OBJECTIVES, "loss": ("cross-entropy", "margin"), "rule": ("sign", "momentum"),
           "keep": ("last", "best", "first")}


@dataclass(frozen=True)
class Threat:
    """Threat model and attack settings. The defaults are the assignment's: `Threat(0.1)` is `PGDAttack(loss_fn)`.

    A step costs one forward and one backward pass per image. Raises ValueError for unknown names or invalid numbers.
    """

    epsilon: float  # L-inf bound
    objective: str = "least-likely"  # towards that label; away from the most likely or the true one; towards `targets`
    loss: str = "cross-entropy"  # or margin: of the label's logit to the largest other one (Carlini and Wagner 2017)
    steps: int = 10  # of each restart
    step_size: float | None = 0.01  # None: 2.5 * epsilon / steps (Madry et al. 2018)
    relabel: bool = True  # choose the least or most likely label again at each step; False: once, on the clean image
    rule: str = "sign"  # or momentum: APGD (Croce and Hein 2020)
    restarts: int = 1  # the first starts at the image, the others at random, for images not yet fooled
    keep: str = "last"  # `last` iterate, `best` (a successful one if there is any), `first` success (early stopping)
    valid: tuple[Sequence[float], Sequence[float]] | None = None  # lowest and highest valid value of each channel
    seed: int = 0  # of the random starts, which leave the global random state alone

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"Threat: {name} is {getattr(self, name)!r}; it has to be one of {', '.join(allowed)}")
        for name, least in (("epsilon", 0), ("steps", 1), ("restarts", 1), ("step_size", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"Threat: {name} is {value}; it has to be a finite number of at least {least}")

    @property
    def resolved_step_size(self) -> float:
        return 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size


def strong(epsilon: float, steps: int = 50, restarts: int = 2, **others) -> Threat:
    """The attack for evaluations: untargeted APGD on the margin loss, with restarts."""
    return Threat(epsilon, **{"objective": "untargeted", "loss": "margin", "rule": "momentum", "keep": "best",
                              "steps": steps, "restarts": restarts, **others})


@dataclass
class Outcome:
    """Result of an attack on N images, on their device.

    An image succeeds if the model predicts its target or, without `targets`, does not predict its true label.
    """

    images: Tensor  # N,C,H,W, within the box
    success: Tensor  # N bool, of `images`
    first_success: Tensor  # N: backward passes before the first success; -1 if none
    passes: Tensor  # N: backward passes
    zero_gradients: Tensor  # N: fraction of input gradients that are exactly zero, mean over passes
    losses: Tensor  # P,N: the minimised loss by pass; NaN for passes that an image did not need

    @property
    def rate(self) -> float:
        """Success rate in percent."""
        return 100 * self.success.float().mean().item()

    def rate_after(self, passes: int) -> float:
        """Percentage of images with a first success within `passes` backward passes."""
        return 100 * ((self.first_success >= 0) & (self.first_success <= passes)).float().mean().item()

    @staticmethod
    def concatenate(parts: Sequence["Outcome"]) -> "Outcome":
        """Concatenate the outcomes of several batches, on the CPU."""
        return Outcome(**{name: torch.cat([getattr(part, name).cpu() for part in parts], dim=int(name == "losses"))
                          for name in vars(parts[0])})

    @staticmethod
    def empty(images: Tensor, passes: int) -> "Outcome":
        zeros = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return Outcome(images.clone(), zeros.bool(), zeros - 1, zeros.clone(), zeros.float(),
                       torch.full((passes, len(images)), math.nan, device=images.device))

    def record_iterate(self, rows: Tensor, iterates: Tensor, success: Tensor, keep: str) -> None:
        """Update images `rows` with their current iterates and success flags."""
        new = success & (self.first_success[rows] < 0)
        self.first_success[rows[new]] = self.passes[rows[new]]
        take = torch.ones_like(success) if keep == "last" else success | ~self.success[rows]
        self.images[rows[take]] = iterates[take].to(self.images.dtype)
        self.success[rows[take]] = success[take]

    def record_pass(self, rows: Tensor, losses: Tensor, gradients: Tensor) -> None:
        """Count one backward pass of images `rows`."""
        self.losses[self.passes[rows], rows] = losses
        self.passes[rows] += 1
        self.zero_gradients[rows] += ((gradients == 0).float().flatten(1).mean(1) - self.zero_gradients[rows]
                                      ) / self.passes[rows]


def attack(threat: Threat, model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor | None = None) -> Outcome:
    """Run `threat`. `labels` N are the true ones; `targets` N are for the objective "targeted" only.

    Leaves `images`, the model and the global random state unchanged, also after an error. Raises ValueError if targets
    are missing, or given for another objective.
    """
    if (threat.objective == "targeted") != (targets is not None):
        need = "with" if targets is None else "without"
        raise ValueError(f"attack: objective {threat.objective!r} goes {need} targets")
    images = images.detach()
    low, high = box(images, threat.epsilon, threat.valid)
    outcome = Outcome.empty(images, threat.steps * threat.restarts)
    rows = torch.arange(len(images), device=images.device)
    generator = torch.Generator().manual_seed(threat.seed)
    with frozen(model), torch.enable_grad():
        objective = _Objective(threat, model, images, labels, targets)
        for restart in range(threat.restarts):
            start = images
            if restart:
                noise = torch.rand(images.shape, generator=generator, dtype=images.dtype).to(images.device)
                start = low + noise * (high - low)
            update = UPDATE_RULES[threat.rule](threat, start.clamp(low, high), low, high)
            remaining = rows[~outcome.success] if restart else rows
            if len(remaining):  # many networks do not accept an empty batch
                _descend(threat, update, objective, model, remaining, outcome)
    return outcome


def _descend(threat: Threat, update: "_SignUpdate", objective: "_Objective", model: nn.Module, rows: Tensor,
             outcome: Outcome) -> None:
    """One restart on images `rows`."""
    for _ in range(threat.steps):
        iterates = update.iterates[rows].requires_grad_(True)
        logits = model(iterates).float()
        success = objective.reached(logits.detach(), rows)
        outcome.record_iterate(rows, iterates.detach(), success, threat.keep)
        active = ~success if threat.keep == "first" else torch.ones_like(success)
        if not active.any():
            return
        losses = objective.loss(logits, rows)[active]  # stopped images are not in the sum, so they cost no pass
        gradients, = torch.autograd.grad(losses.sum(), iterates)
        rows, losses, gradients = rows[active], losses.detach(), gradients[active]
        outcome.record_pass(rows, losses, gradients)
        update.step(rows, losses, gradients)
    iterates = update.iterates[rows]
    with torch.no_grad():
        outcome.record_iterate(rows, iterates, objective.reached(model(iterates).float(), rows), threat.keep)


class _Objective:
    """The minimised loss and the success criterion of a threat model."""

    def __init__(self, threat: Threat, model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor | None):
        self.threat, self.true_labels, self.targets = threat, labels, targets
        self.sign = 1 if threat.objective in ("least-likely", "targeted") else -1  # towards or away from the label
        self.select = {"least-likely": Tensor.argmin, "most-likely": Tensor.argmax}.get(threat.objective)
        self.labels = labels if targets is None else targets  # whose loss is minimised or maximised
        if self.select is not None and not threat.relabel:
            with torch.no_grad():
                self.labels = self.select(model(images), dim=1)

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Losses N of images `rows`, to be minimised."""
        label = self.labels[rows]
        if self.select is not None and self.threat.relabel:
            label = self.select(logits.detach(), dim=1)
        if self.threat.loss == "cross-entropy":
            return self.sign * F.cross_entropy(logits, label, reduction="none")
        own = logits.gather(1, label[:, None])[:, 0]
        others = logits.masked_fill(F.one_hot(label, logits.shape[1]).bool(), -math.inf).amax(1)
        return self.sign * (others - own)

    def reached(self, logits: Tensor, rows: Tensor) -> Tensor:
        predicted = logits.argmax(1)
        return predicted != self.true_labels[rows] if self.targets is None else predicted == self.targets[rows]


class _SignUpdate:
    """A step along the sign of the gradient, projected onto the box: PGD (Madry et al. 2018)."""

    def __init__(self, threat: Threat, start: Tensor, low: Tensor, high: Tensor):
        self.iterates, self.low, self.high, self.step_size = start, low, high, threat.resolved_step_size

    def step(self, rows: Tensor, losses: Tensor, gradients: Tensor) -> None:
        moved = self.iterates[rows] - self.step_size * gradients.sign()
        self.iterates[rows] = moved.clamp(self.low[rows], self.high[rows])


class _MomentumUpdate(_SignUpdate):
    """APGD (Croce and Hein 2020, algorithm 1): initial step size 2 epsilon, momentum with alpha 0.75.

    At each checkpoint, an image whose loss decreased in less than 3/4 of the steps since the last one, or whose step
    size and lowest loss did not change since then, restarts from its best iterate with half the step size.
    """

    def __init__(self, threat: Threat, start: Tensor, low: Tensor, high: Tensor):
        super().__init__(threat, start, low, high)
        self.checkpoints, self.iteration = checkpoints(threat.steps), 0
        self.step_size = torch.full((len(start), 1, 1, 1), 2 * threat.epsilon, dtype=start.dtype, device=start.device)
        self.previous, self.best, self.best_gradient = start.clone(), start.clone(), torch.zeros_like(start)
        self.best_loss = torch.full((len(start),), math.inf, device=start.device)
        self.last_loss, self.checkpoint_loss = self.best_loss.clone(), self.best_loss.clone()
        self.decreases = torch.zeros_like(self.best_loss)
        self.halved = torch.zeros(len(start), dtype=torch.bool, device=start.device)

    def step(self, rows: Tensor, losses: Tensor, gradients: Tensor) -> None:
        self.decreases[rows] += (losses < self.last_loss[rows]) & (self.iteration > 0)
        self.last_loss[rows] = losses
        better = losses < self.best_loss[rows]
        self.best_loss[rows[better]] = losses[better]
        self.best[rows[better]], self.best_gradient[rows[better]] = self.iterates[rows[better]], gradients[better]
        if self.iteration in self.checkpoints:
            gradients = self._halve_where_stalled(rows, gradients)
        low, high, x = self.low[rows], self.high[rows], self.iterates[rows]
        z = (x - self.step_size[rows] * gradients.sign()).clamp(low, high)
        alpha = 0.75 if self.iteration else 1.0
        self.iterates[rows] = (x + alpha * (z - x) + (1 - alpha) * (x - self.previous[rows])).clamp(low, high)
        self.previous[rows] = x
        self.iteration += 1

    def _halve_where_stalled(self, rows: Tensor, gradients: Tensor) -> Tensor:
        """Returns the gradients, those of stalled images at their best iterate."""
        since = self.iteration - max((c for c in self.checkpoints if c < self.iteration), default=0)
        slow = self.decreases[rows] < 0.75 * since
        stuck = ~self.halved[rows] & (self.best_loss[rows] >= self.checkpoint_loss[rows])
        stalled = slow | stuck
        self.halved[rows], self.checkpoint_loss[rows], self.decreases[rows] = stalled, self.best_loss[rows], 0
        back = rows[stalled]
        self.step_size[back] /= 2
        self.iterates[back] = self.best[back]
        return torch.where(stalled.view(-1, 1, 1, 1), self.best_gradient[rows], gradients)


UPDATE_RULES = {"sign": _SignUpdate, "momentum": _MomentumUpdate}


def checkpoints(steps: int) -> set[int]:
    """APGD's: after 22 % of the steps, then at intervals that shrink by 3 % of them, down to 6 %."""
    places, gap = [0.0, 0.22], 0.22
    while places[-1] < 1:
        gap = max(gap - 0.03, 0.06)
        places.append(places[-1] + gap)
    return {math.ceil(round(place * steps, 6)) for place in places[1:-1]}


def box(images: Tensor, epsilon: float, valid: tuple[Sequence[float], Sequence[float]] | None = None
        ) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the L-inf ball, intersected with `valid`, in the type of `images`.

    Computed in float64 and rounded inward: float32's `images + epsilon` overshoots for many values. Where an image is
    outside `valid`, its own value is allowed.
    """
    exact = images.cpu().double() if images.device.type == "mps" else images.double()  # MPS has no float64
    low, high = exact - epsilon, exact + epsilon
    if valid is not None:
        least, most = (torch.tensor(ends, dtype=torch.float64, device=exact.device).view(-1, 1, 1) for ends in valid)
        low, high = low.maximum(least.minimum(exact)), high.minimum(most.maximum(exact))
    return tuple(_rounded(bound, images.dtype, towards).to(images.device)
                 for bound, towards in ((low, math.inf), (high, -math.inf)))


def _rounded(exact: Tensor, dtype: torch.dtype, towards: float) -> Tensor:
    """`exact` rounded to `dtype`, up if `towards` is inf and down if it is -inf."""
    near = exact.to(dtype)
    beyond = near.double() < exact if towards > 0 else near.double() > exact
    return torch.where(beyond, near.nextafter(torch.full_like(near, towards)), near)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients; restores both afterwards, also after an error.

    Duplicates `frozen` of student_code.py, which a student's file need not have.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
