"""A known-good PGDAttack, used instead of the student's in the checks of adversarial training."""

import torch


class GoodPGD:
    switches_mode = False  # whether it attacks in evaluation mode, as the student's own does

    def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1, *_, **__):
        self.loss_fn, self.num_steps, self.step_size, self.epsilon = loss_fn, num_steps, step_size, epsilon

    def perturb(self, model, input):
        """By default it does not change the network's mode, as in the sheet: that is up to the caller."""
        modes = [(part, part.training) for part in model.modules()] if isinstance(model, torch.nn.Module) else []
        if GoodPGD.switches_mode and modes:
            model.eval()
        adversarial = input.detach().clone()
        with torch.enable_grad():
            for _ in range(self.num_steps):
                adversarial = adversarial.detach().requires_grad_(True)
                logits = model(adversarial)
                gradient, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)), adversarial)
                adversarial = adversarial.detach() - self.step_size * gradient.sign()
                adversarial = input.detach() + (adversarial - input.detach()).clamp(-self.epsilon, self.epsilon)
        if GoodPGD.switches_mode:
            for part, training in modes:
                part.training = training
        return adversarial.detach()
