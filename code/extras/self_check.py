"""-a --self-check: is what this attack says about robustness to be believed? A table of passed and failed.

The list is that of honest evaluation (Carlini et al. 2019; Croce and Hein 2020; Pintor et al. 2022). Every line is
measured, on a few hundred images, with the attack in question; where a second opinion is due, with the strong setting
of attacks.py.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from extras import attacks
from utils import spaced

IMAGES = 200
LITTLE, SLIP = 2.0, 0.5  # percentage points: four images of 200, and one; of fewer images at least one


@dataclass
class Check:
    """One line: whether it `passed`, the `figures` that say so, and what to do if not."""

    name: str
    passed: bool
    figures: str
    advice: str

    def __str__(self) -> str:
        return f"  {'passed' if self.passed else 'FAILED'}  {self.name:36}{self.figures}" + (
            "" if self.passed else f"\n          -> {self.advice}")


def sample(dataset: Dataset, count: int = IMAGES) -> tuple[Tensor, Tensor]:
    """Images and labels from all over the data set, at even distances."""
    images, labels = zip(*(dataset[i] for i in spaced(len(dataset), count)))
    return torch.stack(images), torch.tensor(labels)


class SelfCheck:
    """Judge the attack that `make(num_steps=, step_size=, epsilon=)` makes, at these settings, on these images.

    `autocast()` is what the attack looks for its gradients in; what it reached is computed in fp32.
    """

    def __init__(self, make: Callable, num_steps: int, step_size: float, epsilon: float, model: nn.Module,
                 images: Tensor, labels: Tensor, autocast: Callable[[], AbstractContextManager], batch: int = 64):
        self.make, self.steps, self.step, self.epsilon = make, num_steps, step_size, epsilon
        self.model, self.images, self.labels, self.autocast, self.batch = model, images, labels, autocast, batch
        self.rates: dict[tuple, float] = {}  # by settings
        self.image = 100 / len(images) + 1e-3  # what one image is worth, in percentage points
        self.attempts = [self.mistaken(images)]  # which images were fooled, by everything tried within epsilon

    def run(self) -> list[Check]:
        return [self.identity(), self.box(), self.state(), self.noise(), self.more_steps(), self.more_epsilon(),
                self.unbounded(), self.doubled_steps(), *self.reference(), self.gradients()]

    # ---------------------------------------------------------------------------------------- measuring

    def attacked(self, num_steps: int, step_size: float, epsilon: float) -> Tensor:
        attack = self.make(num_steps=num_steps, step_size=step_size, epsilon=epsilon)
        with self.autocast():
            return torch.cat([attack.perturb(self.model, x.clone()).detach() for x in self.images.split(self.batch)])

    def mistaken(self, images: Tensor) -> Tensor:
        with attacks.frozen(self.model), torch.no_grad():
            said = torch.cat([self.model(x).argmax(1) for x in images.split(self.batch)])
        return said != self.labels

    def rate(self, steps: float = 1, epsilon: float = 1, step: float | None = None) -> float:
        """Percentage fooled with so many times the steps and the epsilon; by default the step size follows epsilon."""
        step = epsilon if step is None else step
        key = max(1, round(self.steps * steps)), self.step * step, self.epsilon * epsilon
        if key not in self.rates:
            self.rates[key] = self.enter(self.mistaken(self.attacked(*key)), epsilon <= 1)
        return self.rates[key]

    def strong_rate(self, restarts: int) -> float:
        """The same for the strong setting, with five times the steps."""
        threat, reached = attacks.strong(self.epsilon, 5 * self.steps, restarts), []  # in fp32: it acts on successes
        for images, labels in zip(self.images.split(self.batch), self.labels.split(self.batch)):
            reached.append(attacks.attack(threat, self.model, images, labels).images)
        return self.enter(self.mistaken(torch.cat(reached)), True)

    def rising(self, rates: list[float]) -> bool:
        return all(after >= before - max(SLIP, self.image) for before, after in pairwise(rates))

    def enter(self, fooled: Tensor, within: bool) -> float:
        if within:
            self.attempts.append(fooled)
        return percent(fooled)

    # ----------------------------------------------------------------------------------------- the list

    def identity(self) -> Check:
        change = (self.attacked(self.steps, self.step, 0.0) - self.images).abs().max().item()
        return Check("epsilon 0 changes nothing", change == 0, f"largest change {change:.2g}",
                     "clip to the box around the original image after each step")

    def box(self) -> Check:
        change = (self.attacked(self.steps, self.step, self.epsilon).cpu().double() - self.images.cpu().double()).abs()
        beyond = percent(change > self.epsilon)
        rounding = torch.finfo(torch.float32).eps * self.images.abs().max().item()
        return Check("no value leaves the box", change.max().item() <= self.epsilon + rounding,
                     f"largest change {change.max():.7f} of {self.epsilon:g}; {beyond:.1f} % of values beyond it by "
                     "rounding", "clip to image +- epsilon after each step")

    def state(self) -> Check:
        images = self.images[:2].clone()
        for number, module in enumerate(self.model.modules()):
            module.training = number % 2 == 0  # an attack has to put each back, whatever it was
        before = copy.deepcopy([*_state(self.model), images])
        self.make().perturb(self.model, images)
        after = [*_state(self.model), images]
        self.model.eval()
        same = all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(before, after))
        return Check("model and images are what they were", same,
                     "weights, buffers, gradients, modes, random state, input compared", "attack a copy, in evaluation "
                     "mode, with torch.autograd.grad by the input, and put every module's mode back")

    def noise(self) -> Check:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, self.images.shape, generator=generator).to(self.images) * 2 - 1
        clean, noise = percent(self.attempts[0]), self.enter(self.mistaken(self.images + self.epsilon * signs), True)
        return Check("random noise does worse", noise < self.rate(),
                     f"wrong: clean {clean:.1f} %, noise {noise:.1f} %, attacked {self.rate():.1f} %",
                     "it does no more than noise: look at the sign of the step and at the label")

    def more_steps(self) -> Check:
        rates = [self.rate(steps=factor) for factor in (0.2, 0.5, 1, 2)]
        counts = [max(1, round(self.steps * factor)) for factor in (0.2, 0.5, 1, 2)]
        return Check("more steps are never worse", self.rising(rates), f"{row(counts)} steps: {row(rates)} % fooled",
                     "take smaller steps: these jump over what they look for")

    def more_epsilon(self) -> Check:
        rates = [self.rate(epsilon=factor) for factor in (0.25, 0.5, 1, 2)]
        sizes = [f"{self.epsilon * factor:g}" for factor in (0.25, 0.5, 1, 2)]
        return Check("success rises with epsilon", self.rising(rates) and (rates[-1] > rates[0] or rates[0] > 99),
                     f"epsilon {row(sizes)}: {row(rates)} % fooled", "a larger box holds the smaller one: the attack "
                     "does not use it; take more steps")

    def unbounded(self) -> Check:
        rate = self.rate(steps=5, epsilon=100, step=10)
        return Check("without a bound all are fooled", rate > 99,
                     f"epsilon {100 * self.epsilon:g}: {rate:.1f} % fooled",
                     "gradients are hidden from the attack, or it walks in circles")

    def doubled_steps(self) -> Check:
        once, twice = self.rate(), self.rate(steps=2)
        return Check("doubling the steps changes little", abs(twice - once) <= max(LITTLE, self.image),
                     f"{once:.1f} -> {twice:.1f} % fooled", "not converged: report it with more --num-steps")

    def reference(self) -> list[Check]:
        """Against the strong setting; robust is what every attempt together leaves."""
        once, twice = self.strong_rate(restarts=1), self.strong_rate(restarts=2)
        robust = 100 - percent(torch.stack(self.attempts).any(0))
        return [Check("a second start changes little", abs(twice - once) <= max(LITTLE, self.image),
                      f"strong setting: {once:.1f} -> {twice:.1f} % fooled", "take more restarts"),
                Check("a strong attack finds little more", self.rate() >= twice - max(LITTLE, self.image),
                      f"{self.rate():.1f} % fooled by this one, {twice:.1f} % by the strong setting; {robust:.1f} % "
                      "withstand every attempt", "what this attack leaves is not robustness; what every attempt leaves "
                      "comes closer to it")]

    def gradients(self) -> Check:
        outcome = attacks.attack(attacks.Threat(self.epsilon, "untargeted", steps=1), self.model,
                                 self.images[: self.batch], self.labels[: self.batch])
        zero = 100 * outcome.zero_gradients.mean().item()
        return Check("gradients are there", zero < 5, f"{zero:.2f} % of the loss's gradient by the image is exactly 0",
                     "the loss is flat: attack the margin of the logits instead")


def _state(model: nn.Module) -> list:
    chance = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return [*model.state_dict().values(), *chance, [m.training for m in model.modules()],
            [p.requires_grad for p in model.parameters()], [p.grad is None for p in model.parameters()]]


def percent(flags: Tensor) -> float:
    return 100 * flags.float().mean().item()


def row(values: list) -> str:
    return ", ".join(value if isinstance(value, str) else f"{value:.4g}" for value in values)
