"""A known-good PGDAttack, used instead of the student's in the checks of adversarial training."""

import torch


class GoodPGD:
    def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1, *_, **__):
        self.loss_fn, self.num_steps, self.step_size, self.epsilon = loss_fn, num_steps, step_size, epsilon

    def perturb(self, model, input):
        """Does not change the network's mode, as in the sheet: that is up to the caller."""
        adversarial = input.detach().clone()
        with torch.enable_grad():
            for _ in range(self.num_steps):
                adversarial = adversarial.detach().requires_grad_(True)
                logits = model(adversarial)
                gradient, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)), adversarial)
                adversarial = adversarial.detach() - self.step_size * gradient.sign()
                adversarial = input.detach() + (adversarial - input.detach()).clamp(-self.epsilon, self.epsilon)
        return adversarial.detach()
