"""-a --self-check: sanity checks of an attack before its robust accuracy is reported.

The checks are those that the literature recommends (Carlini et al. 2019; Croce and Hein 2020; Pintor et al. 2022). Each
is measured with the attack itself on up to 200 images; some compare it with `strong` of attacks.py.
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
MAX_DIFFERENCE = 2.0  # of success rates that should agree, in percentage points, or one image if that is more
MAX_DECREASE = 0.5  # of success rates that should not decrease, likewise


@dataclass
class Check:
    """Result of one check: the measured `figures`, and `advice` for a failure."""

    name: str
    passed: bool
    figures: str
    advice: str

    def __str__(self) -> str:
        return f"  {'passed' if self.passed else 'FAILED'}  {self.name:36}{self.figures}" + (
            "" if self.passed else f"\n          -> {self.advice}")


def sample(dataset: Dataset, count: int = IMAGES) -> tuple[Tensor, Tensor]:
    """Evenly spaced images and labels of a data set."""
    images, labels = zip(*(dataset[i] for i in spaced(len(dataset), count)))
    return torch.stack(images), torch.tensor(labels)


class SelfCheck:
    """Check the attack `make(num_steps=, step_size=, epsilon=)` at these settings, on these images.

    The attack runs under `autocast()`; its success is measured in fp32.
    """

    def __init__(self, make: Callable, num_steps: int, step_size: float, epsilon: float, model: nn.Module,
                 images: Tensor, labels: Tensor, autocast: Callable[[], AbstractContextManager], batch: int = 64):
        self.make, self.steps, self.step, self.epsilon = make, num_steps, step_size, epsilon
        self.model, self.images, self.labels, self.autocast, self.batch = model, images, labels, autocast, batch
        self.rates: dict[tuple, float] = {}  # by settings
        self.one_image = 100 / len(images) + 1e-3  # in percentage points
        self.fooled = [self.misclassified(images)]  # N bool: clean, then under each attack within epsilon

    def run(self) -> list[Check]:
        return [self.identity(), self.box(), self.state(), self.noise(), self.more_steps(), self.more_epsilon(),
                self.unbounded(), self.doubled_steps(), *self.reference(), self.gradients()]

    # ---------------------------------------------------------------------------------------- measuring

    def attacked(self, num_steps: int, step_size: float, epsilon: float) -> Tensor:
        attack = self.make(num_steps=num_steps, step_size=step_size, epsilon=epsilon)
        with self.autocast():
            return torch.cat([attack.perturb(self.model, x.clone()).detach() for x in self.images.split(self.batch)])

    def misclassified(self, images: Tensor) -> Tensor:
        with attacks.frozen(self.model), torch.no_grad():
            predicted = torch.cat([self.model(x).argmax(1) for x in images.split(self.batch)])
        return predicted != self.labels

    def rate(self, steps: float = 1, epsilon: float = 1, step: float | None = None) -> float:
        """Percentage fooled with each setting multiplied by its factor; `step` is that of `epsilon` by default."""
        step = epsilon if step is None else step
        key = max(1, round(self.steps * steps)), self.step * step, self.epsilon * epsilon
        if key not in self.rates:
            self.rates[key] = self.record(self.misclassified(self.attacked(*key)), epsilon <= 1)
        return self.rates[key]

    def strong_rate(self, restarts: int) -> float:
        """Percentage fooled by `attacks.strong` with five times the steps."""
        threat, adversarial = attacks.strong(self.epsilon, 5 * self.steps, restarts), []  # fp32: it keeps successes
        for images, labels in zip(self.images.split(self.batch), self.labels.split(self.batch)):
            adversarial.append(attacks.attack(threat, self.model, images, labels).images)
        return self.record(self.misclassified(torch.cat(adversarial)), True)

    def non_decreasing(self, rates: list[float]) -> bool:
        return all(after >= before - max(MAX_DECREASE, self.one_image) for before, after in pairwise(rates))

    def record(self, fooled: Tensor, within: bool) -> float:
        """Returns the percentage; only attacks within epsilon count for the worst case."""
        if within:
            self.fooled.append(fooled)
        return percent(fooled)

    # ------------------------------------------------------------------------------------------- checks

    def identity(self) -> Check:
        change = (self.attacked(self.steps, self.step, 0.0) - self.images).abs().max().item()
        return Check("epsilon 0 changes nothing", change == 0, f"largest change {change:.2g}",
                     "project onto the L-inf ball around the original image after each step")

    def box(self) -> Check:
        change = (self.attacked(self.steps, self.step, self.epsilon).cpu().double() - self.images.cpu().double()).abs()
        beyond = percent(change > self.epsilon)
        rounding = torch.finfo(torch.float32).eps * self.images.abs().max().item()
        return Check("perturbations are within epsilon", change.max().item() <= self.epsilon + rounding,
                     f"largest change {change.max():.7f} of {self.epsilon:g}; {beyond:.1f} % of values beyond it by "
                     "rounding", "clip to image +- epsilon after each step")

    def state(self) -> Check:
        images = self.images[:2].clone()
        for number, module in enumerate(self.model.modules()):
            module.training = number % 2 == 0  # an attack has to restore each, whatever it was
        before = copy.deepcopy([*_state(self.model), images])
        self.make().perturb(self.model, images)
        after = [*_state(self.model), images]
        self.model.eval()
        same = all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(before, after))
        return Check("model and images are unchanged", same,
                     "weights, buffers, gradients, modes, random state, input compared", "attack a copy, in evaluation "
                     "mode, with torch.autograd.grad of the input, and restore every module's mode")

    def noise(self) -> Check:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, self.images.shape, generator=generator).to(self.images) * 2 - 1
        noise = self.record(self.misclassified(self.images + self.epsilon * signs), True)
        clean = percent(self.fooled[0])
        return Check("random noise is weaker", noise < self.rate(),
                     f"misclassified: clean {clean:.1f} %, noise {noise:.1f} %, attacked {self.rate():.1f} %",
                     "no stronger than noise: check the sign of the step and the label")

    def more_steps(self) -> Check:
        rates = [self.rate(steps=factor) for factor in (0.2, 0.5, 1, 2)]
        counts = [max(1, round(self.steps * factor)) for factor in (0.2, 0.5, 1, 2)]
        return Check("more steps do not lower success", self.non_decreasing(rates),
                     f"{listed(counts)} steps: {listed(rates)} % fooled",
                     "the step size is too large: take a smaller one")

    def more_epsilon(self) -> Check:
        rates = [self.rate(epsilon=factor) for factor in (0.25, 0.5, 1, 2)]
        sizes = [f"{self.epsilon * factor:g}" for factor in (0.25, 0.5, 1, 2)]
        rises = self.non_decreasing(rates) and (rates[-1] > rates[0] or rates[0] > 99)
        return Check("success rises with epsilon", rises,
                     f"epsilon {listed(sizes)}: {listed(rates)} % fooled", "a larger ball contains the smaller one, "
                     "and the attack does not use it; take more steps")

    def unbounded(self) -> Check:
        rate = self.rate(steps=5, epsilon=100, step=10)
        return Check("unbounded, it fools every image", rate > 99,
                     f"epsilon {100 * self.epsilon:g}: {rate:.1f} % fooled",
                     "gradients are masked, or the attack oscillates")

    def doubled_steps(self) -> Check:
        once, twice = self.rate(), self.rate(steps=2)
        return Check("doubling the steps changes little", abs(twice - once) <= max(MAX_DIFFERENCE, self.one_image),
                     f"{once:.1f} -> {twice:.1f} % fooled", "not converged: report results with more --num-steps")

    def reference(self) -> list[Check]:
        """Comparison with `attacks.strong`, and worst-case robust accuracy over all attacks within epsilon."""
        once, twice = self.strong_rate(restarts=1), self.strong_rate(restarts=2)
        robust = 100 - percent(torch.stack(self.fooled).any(0))
        return [Check("a second restart changes little", abs(twice - once) <= max(MAX_DIFFERENCE, self.one_image),
                      f"strong attack: {once:.1f} -> {twice:.1f} % fooled", "take more restarts"),
                Check("a strong attack fools few more", self.rate() >= twice - max(MAX_DIFFERENCE, self.one_image),
                      f"{self.rate():.1f} % fooled by this attack, {twice:.1f} % by the strong one; {robust:.1f} % "
                      "robust to all attacks",
                      "this attack overstates robustness; report the worst case over all attacks")]

    def gradients(self) -> Check:
        outcome = attacks.attack(attacks.Threat(self.epsilon, "untargeted", steps=1), self.model,
                                 self.images[: self.batch], self.labels[: self.batch])
        zero = 100 * outcome.zero_gradients.mean().item()
        return Check("input gradients are not zero", zero < 5, f"{zero:.2f} % of the input gradient is exactly 0",
                     "the loss is flat: attack the margin of the logits instead")


def _state(model: nn.Module) -> list:
    rng = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    return [*model.state_dict().values(), *rng, [m.training for m in model.modules()],
            [p.requires_grad for p in model.parameters()], [p.grad is None for p in model.parameters()]]


def percent(flags: Tensor) -> float:
    return 100 * flags.float().mean().item()


def listed(values: list) -> str:
    return ", ".join(value if isinstance(value, str) else f"{value:.4g}" for value in values)
