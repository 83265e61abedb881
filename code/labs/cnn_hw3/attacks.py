"""Evasion attacks within an L-inf distance. CNN Homework 3, deliverable 6, tasks 1 to 3. Needs nothing but torch.

`model` takes images in [0, 1], N,C,H,W; labels and targets are N. Adversarial images are within `epsilon` of the images
and in [0, 1]. A backward pass through the model for a batch is one backward pass for each of its images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNTARGETED_PASSES, TARGETED_PASSES = 20, 100  # the most backward passes that the assignment allows


def project(x: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The nearest point within `epsilon` of `images` and in [0, 1]."""
    # BEGIN SOLUTION
    return torch.clamp(torch.minimum(torch.maximum(x, images - epsilon), images + epsilon), 0, 1)
    # END SOLUTION
    # STARTER: raise NotImplementedError("project: clip to the box around images, then to [0, 1]")


def untargeted(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Adversarial images that are not taken for `labels`, after at most 20 backward passes (task 1)."""
    # BEGIN SOLUTION
    return descend(
        model,
        images,
        epsilon,
        UNTARGETED_PASSES,
        lambda logits: -F.cross_entropy(logits, labels, reduction="sum"),
        lambda logits: logits.argmax(1) != labels,
    )
    # END SOLUTION
    # STARTER: raise NotImplementedError("untargeted: raise the loss of the labels, at most 20 backward passes")


def targeted(model: nn.Module, images: Tensor, targets: Tensor, epsilon: float) -> Tensor:
    """Adversarial images that are taken for `targets`, after at most 100 backward passes (task 2)."""
    # BEGIN SOLUTION
    return descend(
        model,
        images,
        epsilon,
        TARGETED_PASSES,
        lambda logits: F.cross_entropy(logits, targets, reduction="sum"),
        lambda logits: logits.argmax(1) == targets,
    )
    # END SOLUTION
    # STARTER: raise NotImplementedError("targeted: lower the loss of the targets, at most 100 backward passes")


# BEGIN SOLUTION
def gradient(model: nn.Module, x: Tensor, loss) -> tuple[Tensor, Tensor]:
    """Logits at `x`, and the gradient of loss(logits) by x in one backward pass; the model's own stay None."""
    x = x.detach().requires_grad_()
    logits = model(x)
    return logits.detach(), torch.autograd.grad(loss(logits), x)[0]


def descend(model: nn.Module, images: Tensor, epsilon: float, passes: int, loss, reached) -> Tensor:
    """Sign steps down `loss` from `images` (Madry et al. 2018). Each image stays at the first point that `reached`."""
    model.eval()
    x, step_size = images.clone(), 2.5 * epsilon / passes
    for _ in range(passes):
        logits, slope = gradient(model, x, loss)
        going = ~reached(logits).view(-1, 1, 1, 1)
        x = torch.where(going, project(x - step_size * slope.sign(), images, epsilon), x)
    return x.detach()


def margin(logits: Tensor, targets: Tensor) -> Tensor:
    """How far the largest other logit is above the target's, N; negative once the target is predicted."""
    others = logits.masked_fill(F.one_hot(targets, logits.shape[1]).bool(), -torch.inf)
    return others.amax(1) - logits.gather(1, targets[:, None])[:, 0]


# END SOLUTION
def improved(model: nn.Module, images: Tensor, targets: Tensor, epsilon: float, passes: int = TARGETED_PASSES,
             starts: int = 2) -> Tensor:
    """As `targeted`, within the same number of backward passes, but successful more often (task 3)."""
    # BEGIN SOLUTION
    # The margin's gradient does not vanish where the softmax is saturated; momentum goes along valleys in which the
    # sign changes to and fro; large steps at first reach the corners of the box, small ones at last settle there; an
    # image that failed starts again at random.
    model.eval()
    x, velocity = images.clone(), torch.zeros_like(images)
    generator = torch.Generator().manual_seed(0)
    length = passes // starts  # of the steps from each start
    for step in range(passes):
        logits, slope = gradient(model, x, lambda logits: margin(logits, targets).sum())
        going = (logits.argmax(1) != targets).view(-1, 1, 1, 1)
        if step and step % length == 0:
            start = images + epsilon * (2 * torch.rand(images.shape, generator=generator) - 1).to(images.device)
            x, velocity = torch.where(going, project(start, images, epsilon), x), torch.zeros_like(images)
            continue
        velocity = 0.75 * velocity + slope / slope.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
        size = 2 * epsilon * (1 - step % length / length)
        x = torch.where(going, project(x - size * velocity.sign(), images, epsilon), x)
    return x.detach()
    # END SOLUTION
    # STARTER: raise NotImplementedError("improved: another loss, step rule or start, for no more backward passes")
