"""L-inf attacks, part by part: what one may do and wants is data (`Threat`); `attack` carries it out and keeps books.

Images are normalised N,C,H,W, and `epsilon`, the largest change of any value, is in the same units. The sheet's attack,
`PGDAttack` of student_code.py, is one setting: `Threat(epsilon)`. Training has attacks of its own, made for speed, in
adversarial_training.py.
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
           "start": ("image", "uniform"), "keep": ("last", "best", "first")}
# Of ImageNet-normalised images: the lowest and the highest value of each channel.
PIXELS = tuple(tuple((end - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225)))
               for end in (0.0, 1.0))


@dataclass(frozen=True)
class Threat:
    """What an attack may do and what it wants. The defaults are the sheet's: `Threat(0.1)` is `PGDAttack(loss_fn)`.

    An attempt is a descent of `steps` steps. Each step costs one forward and one backward pass for each image.
    Raises ValueError for a name or a number that there is not.
    """

    epsilon: float  # the largest change of any value
    objective: str = "least-likely"  # towards that label; away from the most likely or the true one; towards `targets`
    loss: str = "cross-entropy"  # of the label; or its logit's margin to the largest other one
    steps: int = 10
    step_size: float | None = 0.01  # None: 2.5 * epsilon / steps, enough to cross the box
    relabel: bool = True  # choose the least or most likely label anew in each step; False: once, on the clean image
    rule: str = "sign"  # or momentum: with steps that halve where progress stalls (APGD, Croce and Hein 2020)
    start: str = "image"  # or uniform: anywhere in the box
    restarts: int = 1  # attempts; all but the first start anywhere, with the images that withstood so far
    budget: int | None = None  # backward passes for each image, over all attempts
    keep: str = "last"  # the last point; the best: a point that succeeded, if one did; the first: and stop there
    valid: tuple[Sequence[float], Sequence[float]] | None = None  # lowest and highest value by channel, such as PIXELS
    seed: int = 0  # of the random starts; the generator is private

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"Threat: {name} is {getattr(self, name)!r}; it has to be one of {', '.join(allowed)}")
        for name, least in (("epsilon", 0), ("steps", 1), ("restarts", 1), ("step_size", 0), ("budget", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"Threat: {name} is {value}; it has to be a finite number of at least {least}")

    @property
    def step(self) -> float:
        return 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size

    @property
    def attempts(self) -> list[int]:
        """The steps of each attempt: the budget is spent in the order of the attempts."""
        left = math.inf if self.budget is None else self.budget
        return [int(min(self.steps, left - self.steps * i)) for i in range(self.restarts) if left > self.steps * i]


def strong(epsilon: float, steps: int = 50, restarts: int = 2, **others) -> Threat:
    """A setting to judge a network by: away from the true label, by the margin, with momentum, from several starts."""
    return Threat(epsilon, **{"objective": "untargeted", "loss": "margin", "rule": "momentum", "keep": "best",
                              "steps": steps, "restarts": restarts, **others})


@dataclass
class Outcome:
    """What became of N images, on their device.

    Success is that the model says `targets`, or, for the other objectives, that it does not say `labels`.
    """

    images: Tensor  # N,C,H,W, all of them inside the box
    success: Tensor  # N bool, of these images
    first_success: Tensor  # N: the backward passes spent when a point succeeded first; -1 if none did
    passes: Tensor  # N: backward passes spent
    zero_gradients: Tensor  # N: the share of values whose gradient was exactly zero, mean over the passes
    losses: Tensor  # P,N: what was descended, by pass; NaN for passes that an image did not need

    @property
    def rate(self) -> float:
        """Percentage of the images that succeeded."""
        return 100 * self.success.float().mean().item()

    def after(self, passes: int) -> float:
        """Percentage of the images of which a point succeeded within so many passes."""
        return 100 * ((self.first_success >= 0) & (self.first_success <= passes)).float().mean().item()

    @staticmethod
    def joined(parts: Sequence["Outcome"]) -> "Outcome":
        """The outcomes of several batches as one, on the CPU."""
        return Outcome(**{name: torch.cat([getattr(part, name).cpu() for part in parts], dim=int(name == "losses"))
                          for name in vars(parts[0])})

    @staticmethod
    def none_yet(images: Tensor, passes: int) -> "Outcome":
        zeros = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return Outcome(images.clone(), zeros.bool(), zeros - 1, zeros.clone(), zeros.float(),
                       torch.full((passes, len(images)), math.nan, device=images.device))

    def enter(self, rows: Tensor, points: Tensor, hit: Tensor, keep: str) -> None:
        """`points` are where the images `rows` are now, and `hit` says which of them succeed there."""
        new = hit & (self.first_success[rows] < 0)
        self.first_success[rows[new]] = self.passes[rows[new]]
        take = torch.ones_like(hit) if keep == "last" else hit | ~self.success[rows]
        self.images[rows[take]] = points[take].to(self.images.dtype)
        self.success[rows[take]] = hit[take]

    def count(self, rows: Tensor, losses: Tensor, gradients: Tensor) -> None:
        """One more backward pass of the images `rows`."""
        self.losses[self.passes[rows], rows] = losses
        self.passes[rows] += 1
        self.zero_gradients[rows] += ((gradients == 0).float().flatten(1).mean(1) - self.zero_gradients[rows]
                                      ) / self.passes[rows]


def attack(threat: Threat, model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor | None = None) -> Outcome:
    """Carry out `threat`. `labels` N are the true ones; `targets` N those to reach, for the objective "targeted" alone.

    `images` and the model are afterwards bit for bit what they were, also after an error, and so is the global random
    state. Raises ValueError if targets are missing, or given for another objective.
    """
    if (threat.objective == "targeted") != (targets is not None):
        need = "with" if targets is None else "without"
        raise ValueError(f"attack: objective {threat.objective!r} goes {need} targets")
    images = images.detach()
    low, high = box(images, threat.epsilon, threat.valid)
    outcome, rows = Outcome.none_yet(images, sum(threat.attempts)), torch.arange(len(images), device=images.device)
    generator = torch.Generator().manual_seed(threat.seed)
    with frozen(model), torch.enable_grad():
        goal = _Goal(threat, model, images, labels, targets)
        for attempt, steps in enumerate(threat.attempts):
            points = images
            if attempt or threat.start == "uniform":
                chance = torch.rand(images.shape, generator=generator, dtype=images.dtype).to(images.device)
                points = low + chance * (high - low)
            walk = WALKS[threat.rule](threat, points.clamp(low, high), low, high, steps)
            todo = rows if attempt == 0 else rows[~outcome.success]
            if len(todo):  # many networks cannot take a batch of nothing
                _descend(walk, goal, model, todo, outcome, threat.keep)
    return outcome


def _descend(walk: "_Sign", goal: "_Goal", model: nn.Module, rows: Tensor, outcome: Outcome, keep: str) -> None:
    """One attempt at the images `rows`."""
    for _ in range(walk.steps):
        points = walk.points[rows].requires_grad_(True)
        logits = model(points).float()
        hit = goal.reached(logits.detach(), rows)
        outcome.enter(rows, points.detach(), hit, keep)
        going = ~hit if keep == "first" else torch.ones_like(hit)
        if not going.any():
            return
        losses = goal.loss(logits, rows)[going]  # those that stop are not in the sum: no pass is spent on them
        gradients, = torch.autograd.grad(losses.sum(), points)
        rows, losses, gradients = rows[going], losses.detach(), gradients[going]
        outcome.count(rows, losses, gradients)
        walk.step(rows, losses, gradients)
    points = walk.points[rows]
    with torch.no_grad():
        outcome.enter(rows, points, goal.reached(model(points).float(), rows), keep)


class _Goal:
    """The label that an attack is about, what is descended for it, and when it is reached."""

    def __init__(self, threat: Threat, model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor | None):
        self.threat, self.truth, self.targets = threat, labels, targets
        self.sign = 1 if threat.objective in ("least-likely", "targeted") else -1  # towards the label, or away from it
        self.pick = {"least-likely": Tensor.argmin, "most-likely": Tensor.argmax}.get(threat.objective)
        self.label = labels if targets is None else targets
        if self.pick is not None and not threat.relabel:
            with torch.no_grad():
                self.label = self.pick(model(images), dim=1)

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """N: to be made small."""
        label = self.label[rows]
        if self.pick is not None and self.threat.relabel:
            label = self.pick(logits.detach(), dim=1)
        if self.threat.loss == "cross-entropy":
            return self.sign * F.cross_entropy(logits, label, reduction="none")
        own = logits.gather(1, label[:, None])[:, 0]
        others = logits.masked_fill(F.one_hot(label, logits.shape[1]).bool(), -math.inf).amax(1)
        return self.sign * (others - own)

    def reached(self, logits: Tensor, rows: Tensor) -> Tensor:
        said = logits.argmax(1)
        return said != self.truth[rows] if self.targets is None else said == self.targets[rows]


class _Sign:
    """Steps of one size along the gradient's sign, and back into the box: PGD (Madry et al. 2018)."""

    def __init__(self, threat: Threat, points: Tensor, low: Tensor, high: Tensor, steps: int):
        self.points, self.low, self.high, self.steps, self.size = points, low, high, steps, threat.step

    def step(self, rows: Tensor, losses: Tensor, gradients: Tensor) -> None:
        moved = self.points[rows] - self.size * gradients.sign()
        self.points[rows] = moved.clamp(self.low[rows], self.high[rows])


class _Momentum(_Sign):
    """APGD (Croce and Hein 2020, algorithm 1): steps of 2 epsilon at first, three quarters new and a quarter the last.

    At checkpoints, ever closer ones, an image whose loss fell in less than 3/4 of the steps since the last, or whose
    lowest loss is still the same, goes back to its best point and goes on from there with half the step.
    """

    def __init__(self, threat: Threat, points: Tensor, low: Tensor, high: Tensor, steps: int):
        super().__init__(threat, points, low, high, steps)
        self.checkpoints, self.done = checkpoints(steps), 0
        self.size = torch.full((len(points), 1, 1, 1), 2 * threat.epsilon, dtype=points.dtype, device=points.device)
        self.before, self.best, self.best_gradient = points.clone(), points.clone(), torch.zeros_like(points)
        self.lowest = torch.full((len(points),), math.inf, device=points.device)
        self.last_loss, self.lowest_then = self.lowest.clone(), self.lowest.clone()
        self.falls = torch.zeros_like(self.lowest)
        self.halved = torch.zeros(len(points), dtype=torch.bool, device=points.device)

    def step(self, rows: Tensor, losses: Tensor, gradients: Tensor) -> None:
        self.falls[rows] += (losses < self.last_loss[rows]) & (self.done > 0)
        self.last_loss[rows] = losses
        better = losses < self.lowest[rows]
        self.lowest[rows[better]] = losses[better]
        self.best[rows[better]], self.best_gradient[rows[better]] = self.points[rows[better]], gradients[better]
        if self.done in self.checkpoints:
            gradients = self._look_back(rows, gradients)
        low, high, here = self.low[rows], self.high[rows], self.points[rows]
        there = (here - self.size[rows] * gradients.sign()).clamp(low, high)
        new = 0.75 if self.done else 1.0
        self.points[rows] = (here + new * (there - here) + (1 - new) * (here - self.before[rows])).clamp(low, high)
        self.before[rows] = here
        self.done += 1

    def _look_back(self, rows: Tensor, gradients: Tensor) -> Tensor:
        since = self.done - max((c for c in self.checkpoints if c < self.done), default=0)
        slow = self.falls[rows] < 0.75 * since
        stuck = ~self.halved[rows] & (self.lowest[rows] >= self.lowest_then[rows])
        stalled = slow | stuck
        self.halved[rows], self.lowest_then[rows], self.falls[rows] = stalled, self.lowest[rows], 0
        back = rows[stalled]
        self.size[back] /= 2
        self.points[back] = self.best[back]
        return torch.where(stalled.view(-1, 1, 1, 1), self.best_gradient[rows], gradients)


WALKS = {"sign": _Sign, "momentum": _Momentum}


def checkpoints(steps: int) -> set[int]:
    """After 22 % of the steps, then at intervals that shrink by 3 % of them down to 6 % (Croce and Hein 2020)."""
    places, gap = [0.0, 0.22], 0.22
    while places[-1] < 1:
        gap = max(gap - 0.03, 0.06)
        places.append(places[-1] + gap)
    return {math.ceil(round(place * steps, 6)) for place in places[1:-1]}


def box(images: Tensor, epsilon: float, valid: tuple[Sequence[float], Sequence[float]] | None = None
        ) -> tuple[Tensor, Tensor]:
    """Lowest and highest allowed values, in the type of `images`, computed in float64 and rounded inward.

    In float32 `images + epsilon` itself is too far away for many values. `valid` bounds the channels as well; an image
    that lies outside it may stay where it is.
    """
    exact = images.cpu().double() if images.device.type == "mps" else images.double()  # MPS has no float64
    low, high = exact - epsilon, exact + epsilon
    if valid is not None:
        least, most = (torch.tensor(ends, dtype=torch.float64, device=exact.device).view(-1, 1, 1) for ends in valid)
        low, high = low.maximum(least.minimum(exact)), high.minimum(most.maximum(exact))
    return tuple(_rounded(bound, images.dtype, towards).to(images.device)
                 for bound, towards in ((low, math.inf), (high, -math.inf)))


def _rounded(exact: Tensor, dtype: torch.dtype, towards: float) -> Tensor:
    """`exact` in `dtype`: the nearest value that does not lie on the other side of it than `towards`."""
    near = exact.to(dtype)
    beyond = near.double() < exact if towards > 0 else near.double() > exact
    return torch.where(beyond, near.nextafter(torch.full_like(near, towards)), near)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Hold `model` still: evaluation mode, no gradients for parameters; afterwards all is as it was.

    A twin of student_code's, because files of students, of any year, need not have one.
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
