"""Watch a student's attack while `main.py -a` runs it: what it must leave alone, and whether it descends."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import ASSIGNMENT_ATTACK, BadInput

INPUT = "it changes its input images in place. Work on a copy: input.clone()"
GRADIENTS = "it leaves gradients on the model's parameters, which the next update would add to its own"
MODES = "it leaves the model in another mode, train() or eval(), than it was given"
FROZEN = "it leaves parameters of the model frozen or unfrozen (requires_grad)"


class AttackMonitor:
    """Calls `attack.perturb(model, images)` with a copy of the images, and collects `notes`: what is wrong with it.

    The model's modes, gradients and requires_grad are restored after each call, so that figures stay right.
    """

    def __init__(self, attack, model: nn.Module):
        self.attack, self.model = attack, model
        self.notes: dict[str, None] = {}  # an ordered set
        self.largest_change, self.first = 0.0, True
        self.epsilon = getattr(attack, "epsilon", ASSIGNMENT_ATTACK["epsilon"])

    def perturb(self, images: Tensor) -> Tensor:
        """Adversarial images of the shape of `images`. Raises BadInput if the attack returns anything else."""
        given, before = images.clone(), self._state()
        adversarial = self.attack.perturb(self.model, given)
        self._restore(before)
        if not isinstance(adversarial, Tensor) or adversarial.shape != images.shape:
            shape = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial).__name__
            raise BadInput(f"{type(self.attack).__name__}.perturb returns {shape}; it has to return images of its "
                           f"input's shape, {tuple(images.shape)}")
        if not torch.equal(given, images):
            self.notes[INPUT] = None
        self.largest_change = max(self.largest_change, (adversarial.detach() - images).abs().max().item())
        if self.first:
            self._check_descent(images, adversarial.detach())
        self.first = False
        return adversarial

    def report(self) -> list[str]:
        """All notes, as sentences."""
        if isinstance(self.epsilon, float) and self.largest_change > self.epsilon * 1.0001 + 1e-6:
            self.notes[f"it leaves the epsilon box: the largest change is {self.largest_change:.4g}, epsilon is "
                       f"{self.epsilon:g}. Clip to the input +- epsilon after each step"] = None
        return [f"note: {type(self.attack).__name__}: {text}" for text in self.notes]

    @torch.no_grad()
    def _check_descent(self, images: Tensor, adversarial: Tensor) -> None:
        """The loss of the least confident label has to fall, whether the label is chosen once or at each step."""
        clean, attacked = self.model(images).float(), self.model(adversarial).float()
        first = clean.argmin(1)
        once = [F.cross_entropy(logits, first).item() for logits in (clean, attacked)]
        each = [F.cross_entropy(logits, logits.argmin(1)).item() for logits in (clean, attacked)]
        if once[1] > once[0] and each[1] > each[0]:
            self.notes[f"the loss of the least confident label rises, from {each[0]:.2f} to {each[1]:.2f}: the attack "
                       "climbs. To make that label more likely, step against the gradient's sign"] = None

    def _state(self) -> tuple[list, list]:
        return ([(module, module.training) for module in self.model.modules()],
                [(p, p.grad, p.requires_grad) for p in self.model.parameters()])

    def _restore(self, before: tuple[list, list]) -> None:
        modes, parameters = before
        if any(module.training != mode for module, mode in modes):
            self.notes[MODES] = None
        if any(p.requires_grad != flag for p, _, flag in parameters):
            self.notes[FROZEN] = None
        if any(p.grad is not grad for p, grad, _ in parameters):
            self.notes[GRADIENTS] = None
        for module, mode in modes:
            module.training = mode
        for p, grad, flag in parameters:
            p.grad = grad
            p.requires_grad_(flag)
