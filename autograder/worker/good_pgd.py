"""A known-good PGDAttack, for what is built on it."""

import torch


class GoodPGD:
    def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1, *_, **__):
        self.loss_fn, self.num_steps, self.step_size, self.epsilon = loss_fn, num_steps, step_size, epsilon

    def perturb(self, model, input):
        """Leaves the network's mode alone, as the sheet's plain version does: who calls it has to care for that."""
        adversarial = input.detach().clone()
        with torch.enable_grad():
            for _ in range(self.num_steps):
                adversarial = adversarial.detach().requires_grad_(True)
                logits = model(adversarial)
                gradient, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)), adversarial)
                adversarial = adversarial.detach() - self.step_size * gradient.sign()
                adversarial = input.detach() + (adversarial - input.detach()).clamp(-self.epsilon, self.epsilon)
        return adversarial.detach()
