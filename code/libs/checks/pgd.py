"""3.3: PGDAttack on networks whose gradient has a closed form. A random start and a label chosen once are accepted."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libs.checks.registry import Check, expect, expect_shape

CLASSES, SHAPE = 5, (3, 4, 5)
PIXELS = 3 * 4 * 5
# A sum of k steps in float32 is off by k roundings of a pixel, here below 8: 12 steps are off by 6e-6 at worst.
ROUNDING = 1e-5


class LinearNet(nn.Module):
    """logits = W x + b. Remembers the images that it is shown, and how deep the graph behind them is."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        self.fc = nn.Linear(PIXELS, classes)
        nn.init.normal_(self.fc.weight, std=0.3)
        self.seen: list[Tensor] = []
        self.graph: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        self.graph.append(graph_depth(x.grad_fn))
        return self.fc(x.flatten(1))


class Valley(LinearNet):
    """Two classes; the logit of the less confident one is -0.5 ||x - target||^2 - 1000.

    The sign of its loss's gradient is the sign of x - target, at every x.
    """

    def __init__(self, target: Tensor):
        super().__init__(classes=1)
        self.target = nn.Parameter(target)

    def forward(self, x: Tensor) -> Tensor:
        constant = 0 * super().forward(x)
        return torch.cat([constant, -0.5 * (x - self.target).flatten(1).square().sum(1, keepdim=True) - 1000], dim=1)


class BatchNormNet(nn.Module):
    """A network with all that an attack may leave behind: modes, statistics, gradients, frozen parameters."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1))
        self.fc = nn.Linear(4 * 2 * 3, CLASSES)
        self.body[1].bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).flatten(1))


def graph_depth(node) -> int:
    """The longest path behind a node of the autograd graph, along its first inputs."""
    depth = 0
    while node is not None:
        depth += 1
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return depth


def attack(student: ModuleType, model: nn.Module, x: Tensor, **settings) -> Tensor:
    """Run the student's attack; the seed makes a random start the same in every call."""
    torch.manual_seed(3)
    got = student.PGDAttack(nn.CrossEntropyLoss(), **settings).perturb(model, x)
    expect_shape("the result", got, x.shape)
    return got.detach()


def clamped(got: Tensor) -> str:
    """The end of a sentence about a result, if it was clamped to 0..1."""
    inside = got.min() >= 0 and got.max() <= 1
    return ", and no pixel outside 0..1: normalised images are not pixels between 0 and 1" if inside else ""


def start(student: ModuleType, model: nn.Module, x: Tensor, epsilon: float, num_steps: int = 1) -> Tensor:
    """Where the attack begins: its result for steps of size 0. The images themselves, or a random start in the box."""
    got = attack(student, model, x, num_steps=num_steps, step_size=0.0, epsilon=epsilon)
    far = (got - x).abs().max().item()
    expect(far <= epsilon + ROUNDING, f"steps of size 0 to stay within epsilon={epsilon} of the images",
           f"{far:.4g}{clamped(got)}")
    return got


def clear_images(model: nn.Module, epsilon: float, N: int = 6) -> Tensor:
    """Images whose least and most confident labels stay the same all over the epsilon box, for a LinearNet.

    Within the box a difference of two logits changes by epsilon times the L1 norm of the difference of their weights.
    """
    x = 1.5 * torch.randn(400, *SHAPE)
    logits = model(x).detach().sort(dim=1).values
    weight = model.fc.weight.detach()
    reach = epsilon * (weight[:, None] - weight).abs().sum(-1).max()
    gap = torch.minimum(logits[:, 1] - logits[:, 0], logits[:, -1] - logits[:, -2])
    clear = x[gap > 1.1 * reach]
    model.seen.clear()
    assert len(clear) >= N
    return clear[:N]


def loss_gradient(model: LinearNet, x: Tensor, labels: Tensor) -> Tensor:
    """d CE(W x + b, y) / dx = W^T (softmax - onehot)."""
    weight, bias = model.fc.weight.detach(), model.fc.bias.detach()
    surplus = F.softmax(x.flatten(1) @ weight.T + bias, dim=1) - F.one_hot(labels, len(weight))
    return (surplus @ weight).view_as(x)


# ----------------------------------------------------------------------------------------- where it goes to

CLIMBS = ("the attack climbs the loss of the least confident label, the commonest mistake: PGD minimises the loss of "
          "an incorrect label, so each step goes against the gradient")


def direction(student: ModuleType) -> None:
    """One step on five classes, from the start, against the sign of the least confident label's gradient."""
    model, size, epsilon = LinearNet(), 0.01, 0.02
    x = clear_images(model, epsilon)
    logits = model(x).detach()
    moved = attack(student, model, x, num_steps=1, step_size=size, epsilon=epsilon) - start(student, model, x, epsilon)
    expect(moved.abs().max() > 0.1 * size, f"a step of {size}", "the images themselves: nothing was attacked")
    agreement = {}
    for name, labels in (("least", logits.argmin(1)), ("most", logits.argmax(1))):
        gradient = loss_gradient(model, x, labels)
        agrees = (moved.sign() * gradient.sign())[(gradient.abs() > 1e-3 * gradient.abs().max()) & (moved != 0)]
        agreement[name] = (agrees.mean().item() + 1) / 2  # the share of the pixels that climb
    expect(agreement["least"] < 0.95, "descent", CLIMBS)
    expect(agreement["most"] < 0.95 or agreement["least"] < 0.05, "descent on the least confident label's loss",
           "an attack that climbs the most confident label's loss")
    expect(agreement["most"] > 0.05, "descent on the least confident label's loss",
           "an attack that descends on the most confident label's, which makes the network more confident")
    expect(agreement["least"] < 0.02, "all pixels to go against the gradient of the least confident label's loss",
           f"{1 - agreement['least']:.0%} of them")


def loss_falls(student: ModuleType) -> None:
    """Over several steps, for every image."""
    model, epsilon = LinearNet(), 0.02
    x = clear_images(model, epsilon)
    labels = model(x).argmin(1)
    end = attack(student, model, x, num_steps=8, step_size=0.004, epsilon=epsilon)
    begin = start(student, model, x, epsilon)
    before, after = (F.cross_entropy(model(images), labels, reduction="none").detach() for images in (begin, end))
    expect((after > before).sum() < len(x), f"the loss of the least confident label to fall from {before.mean():.4g}",
           f"{after.mean():.4g}: {CLIMBS}")
    expect((after < before).all(), "the loss of the least confident label to fall for every image",
           f"{(after < before).sum()} of {len(x)}")


def two_classes(b: float = 40.0) -> LinearNet:
    """The second label is far less confident, everywhere: the gradient's sign is constant, that of w1 - w2."""
    model = LinearNet(classes=2)
    with torch.no_grad():
        model.fc.bias.copy_(torch.tensor([b, -b]))
    return model


def after_steps(model: LinearNet, begin: Tensor, x: Tensor, distance: float, epsilon: float) -> Tensor:
    """Where steps of a constant sign lead in the box around x, for `two_classes`."""
    sign = (model.fc.weight[0] - model.fc.weight[1]).detach().sign().view(SHAPE)
    return torch.clamp(begin - distance * sign, x - epsilon, x + epsilon)


def steps(student: ModuleType) -> None:
    """x - k * step_size * sign, clipped to the box: below epsilon, at its edge and beyond."""
    for N, num_steps, size, epsilon in ((4, 1, 0.05, 0.5), (4, 4, 0.05, 0.5), (1, 12, 0.01, 0.5), (4, 5, 0.05, 0.12),
                                        (4, 3, 0.2, 0.1)):
        model, x = two_classes(), 1.5 * torch.randn(N, *SHAPE)
        begin = start(student, model, x, epsilon, num_steps)
        got = attack(student, model, x, num_steps=num_steps, step_size=size, epsilon=epsilon)
        expected = after_steps(model, begin, x, num_steps * size, epsilon)
        worst = (got - expected).abs().max()
        if worst > ROUNDING:
            index = tuple(int(i) for i in torch.unravel_index((got - expected).abs().argmax(), got.shape))
            far = (got - begin)[index].item()
            expect(False, f"a pixel of {begin[index]:.4g} to move by {(expected - begin)[index]:.4g}, num_steps="
                   f"{num_steps}, step_size={size}, epsilon={epsilon}", f"{far:.4g}{clamped(got)}")


def bends(student: ModuleType) -> None:
    """In a valley each pixel goes to the target and then to and fro around it: d_k has a closed form.

    From the signed distance d, n = floor(|d| / step) steps lead to r = |d| - n * step; then r and r - step alternate.
    """
    num_steps, size, epsilon = 9, 0.05, 1.0
    x = 1.5 * torch.randn(3, *SHAPE)
    target = x[0] + 0.05 * (torch.randint(-5, 5, SHAPE) + 0.4)
    model = Valley(target)
    begin = start(student, model, x, epsilon, num_steps)
    got = attack(student, model, x, num_steps=num_steps, step_size=size, epsilon=epsilon)
    d = begin - target
    n = (d.abs() / size).floor().clamp(max=num_steps)
    r = d.abs() - n * size
    end = torch.where((num_steps - n) % 2 == 0, r, r - size) * d.sign()
    clear = ((r > 0.02 * size) & (r < 0.98 * size)) | (n == num_steps)
    clear &= (target + end - x).abs() < epsilon - size
    off = ((got - target - end).abs() > 2 * ROUNDING) & clear
    expect(not off.any(), f"{num_steps} steps, each along the sign of the gradient where the images are now",
           f"{off.sum()} of {clear.sum()} pixels elsewhere")


# -------------------------------------------------------------------------------------------------- the box


def box(student: ModuleType) -> None:
    """Every image that the network is shown, and the result, lie within epsilon, to the rounding of a pixel."""
    for num_steps, size, epsilon in ((10, 0.05, 0.12), (6, 0.3, 0.1), (6, 0.2, 1.0), (3, 0.05, 0.0)):
        for model in (two_classes(), LinearNet(), Valley(0.3 * torch.randn(SHAPE))):
            x = 1.5 * torch.randn(4, *SHAPE)
            got = attack(student, model, x, num_steps=num_steps, step_size=size, epsilon=epsilon)
            told = f"num_steps={num_steps}, step_size={size}, epsilon={epsilon}"
            rounding = torch.finfo(x.dtype).eps * (x.abs().max() + 1)
            far = (got - x).abs().max()
            expect(far <= epsilon + rounding, f"the result within epsilon of the images ({told})", f"{far:.4g}")
            expect(len(model.seen) >= num_steps, f"a forward pass for each of {num_steps} steps", len(model.seen))
            shown = [(one - x).abs().max().item() for one in model.seen if one.shape == x.shape]
            expect(max(shown, default=0) <= epsilon + rounding, "the images within epsilon at each time step, not only "
                   f"at the end ({told})", f"{max(shown, default=0):.4g}")


def defaults(student: ModuleType) -> None:
    """PGDAttack(loss_fn): ten steps of 0.01 reach epsilon 0.1."""
    model, x = two_classes(), 1.5 * torch.randn(2, *SHAPE)
    begin = start(student, model, x, epsilon=0.1, num_steps=10)
    model.seen.clear()
    got = attack(student, model, x)
    expect((got - after_steps(model, begin, x, 0.1, 0.1)).abs().max() < ROUNDING,
           "PGDAttack(loss_fn) to move by 10 * 0.01, within epsilon=0.1", f"up to {(got - begin).abs().max():.3g}")
    expect(len(model.seen) <= 11 * len(x), "ten steps by default", f"{len(model.seen)} forward passes")


# -------------------------------------------------------------------------------------------- left untouched


def input_untouched(student: ModuleType) -> None:
    model, x = LinearNet(), 1.5 * torch.randn(4, *SHAPE)
    before = x.clone()
    torch.manual_seed(3)
    got = student.PGDAttack(nn.CrossEntropyLoss(), num_steps=8).perturb(model, x)
    expect_shape("the result", got, x.shape)
    expect(torch.equal(x, before), "the input to stay as it is", "an attack that changes it in place")
    expect(not x.requires_grad, "the input without requires_grad", "requires_grad=True left on it")
    expect(got.data_ptr() != x.data_ptr(), "a new tensor", "one that shares memory with the input")
    expect(not torch.equal(got, x), "an adversarial sample", "the images themselves")
    expect(not got.requires_grad, "a result without a graph", "one that requires gradients or keeps its graph")
    expect(max(model.graph[2:], default=0) <= max(model.graph[:2]) + 2, "the same graph at every step",
           "a computational graph that grows from step to step")


def state(model: nn.Module) -> dict[str, list]:
    """What an attack has to leave as it is."""
    return {"modes": [module.training for module in model.modules()],
            "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
            "gradients": [parameter.grad is not None for parameter in model.parameters()],
            "parameters": [parameter.tolist() for parameter in model.parameters()],
            "BatchNorm statistics": [buffer.tolist() for buffer in model.buffers()]}


def network_untouched(student: ModuleType) -> None:
    """In evaluation mode all of it; in training mode the statistics may move, as the network is called."""
    for training in (False, True):
        model, x = BatchNormNet().train(training), torch.randn(4, *SHAPE)
        model.body[2].train(False)  # a mode that differs from the network's
        before = state(model)
        attack(student, model, x, num_steps=3)
        after = state(model)
        for name in list(before)[:4 if training else 5]:
            expect(after[name] == before[name], f"the network's {name} as before",
                   f"others after the attack (in {'training' if training else 'evaluation'} mode)")


PGD = ("PGD takes num_steps steps of the fast gradient sign method: step_size times the sign of the gradient of the "
       "loss w.r.t. the input; at each time step it clips the result to the epsilon-neighborhood of the input")
LEAST = "minimise the loss of the least confident label. "
CHECKS = [
    Check("one step goes down the least confident label's loss", direction, LEAST + PGD),
    Check("its loss falls over the steps", loss_falls, LEAST + PGD),
    Check("num_steps steps of step_size times the sign, clipped", steps, PGD),
    Check("each step has its own gradient", bends, "take the gradient anew at each step; nothing of an old one stays"),
    Check("within epsilon of the input, at each step", box, PGD + ", not of the images of the step before"),
    Check("defaults", defaults, "num_steps=10, step_size=0.01, epsilon=0.1"),
    Check("the input is unchanged; the result is detached, the graph does not grow", input_untouched,
          "the gradient operations should not be recorded by PyTorch, or a computational graph grows indefinitely: "
          "work on a detached copy"),
    Check("the network is as before", network_untouched,
          "only the gradient w.r.t. the input is needed. What you switch for the attack (requires_grad, train or eval) "
          "has to be set back, module by module"),
]
