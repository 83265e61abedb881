"""Scenarios of the vision transformer, the attack and adversarial training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from autograder.mutation.probe.common import Observed, gradients, passes, prefixed, rand, reloads, train
from autograder.mutation.probe.layers import ScaledTanh, coarse_norm

SMALL = {"img_size": 16, "num_classes": 5, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3,
         "mlp_ratio": 2.0, "window_size": 2, "window_block_indexes": (0, 2), "drop_path_rate": 0.0}
VITS = [{}, {"in_chans": 1, "num_classes": 1, "depth": 1}, {"use_abs_pos": False, "depth": 2, "num_heads": 4},
        {"img_size": 12, "window_block_indexes": (1,), "qkv_bias": False, "mlp_ratio": 1.5},
        {"norm_layer": coarse_norm, "act_layer": ScaledTanh, "window_block_indexes": ()},
        {"img_size": 32, "patch_size": 8, "embed_dim": 8, "num_heads": 2, "depth": 4, "window_block_indexes": (1, 3)},
        {"img_size": 8, "depth": 5, "window_size": 3, "window_block_indexes": (0, 1, 2, 3, 4)},
        {"img_size": 4, "window_block_indexes": (0,), "depth": 2}]


def _images(settings: dict, N: int, seed: int = 0) -> Tensor:
    return rand(N, settings.get("in_chans", 3), settings["img_size"], settings["img_size"], seed=seed)


def vit_values(student, make) -> Observed:
    for i, changes in enumerate(VITS):
        settings = {**SMALL, **changes}
        model = make("SimpleViT", **settings)
        for mode in (True, False):
            yield from prefixed(f"{i} {mode}", passes(model.train(mode), _images(settings, 1 + i % 3, i)))
    with torch.no_grad():  # the sheet encourages other defaults
        logits = student.SimpleViT().eval()(rand(1, 3, 128, 128))
    yield "defaults", (tuple(logits.shape), bool(torch.isfinite(logits).all()))


def vit_in_use(student, make) -> Observed:
    model, other = make("SimpleViT", **SMALL), make("SimpleViT", **{**SMALL, "img_size": 8, "depth": 2})
    for i, N in enumerate((4, 1, 3, 4)):
        yield from prefixed(f"call {i}", passes(model, _images(SMALL, N, i)))
        yield f"other {i}", other(rand(N, 3, 8, 8, seed=i)).detach()
    yield from train(model, [_images(SMALL, n, n) for n in (4, 4, 1)], rate=0.02)
    yield from reloads(lambda: student.SimpleViT(**SMALL), _images(SMALL, 2))
    yield "all learn", all(parameter.requires_grad for parameter in model.parameters())


def vit_drop_rates(student, make) -> Observed:
    """The probabilities of the stochastic depth layers, in the order in which they run."""
    for depth, rate in ((4, 0.3), (3, 0.5), (1, 0.2), (2, 0.0)):
        model, seen = make("SimpleViT", **{**SMALL, "depth": depth, "drop_path_rate": rate}).train(), []
        for module in model.modules():
            if isinstance(module, StochasticDepth):
                module.register_forward_hook(lambda layer, *_, seen=seen: seen.append(round(float(layer.p), 5)))
        model(_images(SMALL, 2))
        yield f"rates {depth}", tuple(p for p in seen if p)
        yield from prefixed(f"eval {depth}", passes(model.eval(), _images(SMALL, 2)))


# ------------------------------------------------------------------------------------------------ attack


def networks() -> dict[str, nn.Module]:
    """Small networks in evaluation mode, and one in training mode without random layers, all with fixed weights."""
    found = {"linear": nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 5, 7)),
             "convolutional": nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
                                            nn.Flatten(), nn.Dropout(0.5), nn.Linear(6 * 6 * 5, 10)),
             "training": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 4 * 3, 4))}
    for network in found.values():
        for i, parameter in enumerate(network.parameters()):
            parameter.data = rand(*parameter.shape, seed=i, scale=0.3)
        network.train(network is found["training"])
    return found


# steps, step size, epsilon: within the box, out of it, one step, one that reaches a corner at once
BUDGETS = [(4, 0.01, 0.1), (7, 0.05, 0.12), (1, 0.03, 0.1), (3, 0.5, 0.2), (12, 0.02, 0.05)]


def pgd_values(student, make) -> Observed:
    for name, network in networks().items():
        for i, (steps, size, epsilon) in enumerate(BUDGETS):
            attack = student.PGDAttack(nn.CrossEntropyLoss(), num_steps=steps, step_size=size, epsilon=epsilon)
            for N in (4, 1, 3):
                yield from prefixed(f"{name} {i} {N}", _attacked(attack, network, rand(N, 3, 6, 5, seed=i + N)))
        yield from prefixed(f"{name} defaults", _attacked(student.PGDAttack(nn.CrossEntropyLoss()), network,
                                                          rand(3, 3, 6, 5, seed=8)))
        margin = student.PGDAttack(lambda z, t: F.multi_margin_loss(z, t), 5, 0.02, 0.07)
        yield from prefixed(f"{name} another loss", _attacked(margin, network, 3 * rand(2, 3, 6, 5)))


def _attacked(attack, network: nn.Module, x: Tensor) -> Observed:
    """The result, and what must be as before: the input, the network, gradients that wait for the optimiser."""
    for i, parameter in enumerate(network.parameters()):
        parameter.grad = rand(*parameter.shape, seed=i)
    before, given = _state(network), x.clone()
    adversarial = attack.perturb(network, x)
    yield "result", adversarial.detach().clone()
    yield "unchanged", torch.equal(x, given) and not x.requires_grad and _state(network) == before
    yield "detached", not adversarial.requires_grad
    adversarial.add_(1)
    yield "its own memory", torch.equal(x, given)


def _state(network: nn.Module) -> list:
    return [[module.training for module in network.modules()], [p.requires_grad for p in network.parameters()],
            [p.tolist() for p in network.state_dict().values()],
            [None if p.grad is None else p.grad.tolist() for p in network.parameters()]]


def pgd_in_use(student, make) -> Observed:
    """One attack for several networks and batches in turn; frozen layers; the size of the graph that a step records."""
    attack, nets = student.PGDAttack(nn.CrossEntropyLoss(), 6, 0.03, 0.1), networks()
    for i in range(6):
        network = nets[("linear", "convolutional", "linear")[i % 3]]
        yield from prefixed(f"round {i}", _attacked(attack, network, rand((3, 1, 4)[i % 3], 3, 6, 5, seed=i % 4)))
    network, sizes = nets["convolutional"], []
    network[0].weight.requires_grad_(False)
    yield from prefixed("frozen layer", _attacked(attack, network, rand(2, 3, 6, 5)))
    network.register_forward_pre_hook(lambda _, given: sizes.append(_graph_size(given[0].grad_fn)))
    for parameter in network.parameters():
        parameter.grad = None
    attack.perturb(network, rand(2, 3, 6, 5))
    yield "no gradients left", all(parameter.grad is None or not parameter.grad.any()
                                   for parameter in network.parameters())
    yield "graph does not grow", sizes[-1] <= sizes[1] + 2


def _graph_size(node, seen: set | None = None) -> int:
    seen, waiting = set(), [node]
    while waiting and len(seen) < 2000:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [behind for behind, _ in node.next_functions]
    return len(seen)


# ---------------------------------------------------------------------------------- adversarial training


def adversarial_training(student, make) -> Observed:
    """What the sheet asks for, yes or no; how many steps and which step size an attack takes is free.

    Every image of every batch is attacked, within 0.5, downhill for the label that was least likely; logits and
    gradients are those of SimpleNet for the attacked images; modes, gradients and images are as before.
    """
    seen: list[Tensor] = []

    class Recorded(nn.Conv2d):
        def forward(self, x):
            if self.in_channels == 3:
                seen.append(x.detach().clone())
            return super().forward(x)

    model, plain = _net(student.AdvSimpleNet, Recorded), _net(student.SimpleNet, nn.Conv2d)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for i, N in enumerate((4, 1, 3, 4, 5)):
        images, labels = rand(N, 3, 16, 16, seed=i), torch.arange(N) % 4
        given = images.clone()
        plain.load_state_dict(model.state_dict())
        optimizer.zero_grad()
        model.train(), seen.clear()
        logits = model(images)
        yield from prefixed(f"{i}", _learns_from(model, plain, seen[-1], images, given, logits, labels))
        optimizer.step()
        model.eval(), seen.clear()
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            yield f"{i} clean in evaluation", torch.allclose(model(images), plain(images), atol=1e-5)
        yield f"{i} one pass in evaluation", len(seen) == 1 and torch.equal(seen[0], images)
    yield "classes by default", student.AdvSimpleNet().eval()(rand(1, 3, 16, 16)).shape[1]


def _net(of: type, conv_op: type) -> nn.Module:
    torch.manual_seed(0)
    return of(conv_op=conv_op, num_classes=4)


def _learns_from(model, plain, attacked: Tensor, images: Tensor, given: Tensor, logits: Tensor, labels) -> Observed:
    yield "modes", all(module.training for module in model.modules())
    yield "no gradient yet", all(p.grad is None or not p.grad.any() for p in model.parameters())
    yield "all learn", all(p.requires_grad for p in model.parameters())
    yield "images unchanged", torch.equal(images, given) and not images.requires_grad
    distance = (attacked - given).abs().flatten(1).amax(1)
    yield "every image attacked", bool((distance > 1e-3).all() and (distance < 0.5).all())
    with torch.no_grad():
        before, after = plain(given), plain(attacked)
    target = before.argmin(1)
    yield "downhill", bool((F.cross_entropy(after, target, reduction="none")
                            < F.cross_entropy(before, target, reduction="none")).float().mean() > 0.7)
    yield "logits", torch.allclose(logits, after, atol=1e-5)
    F.cross_entropy(logits, labels).backward()
    plain.zero_grad()
    F.cross_entropy(plain(attacked), labels).backward()
    pairs = zip(gradients(model).tensors.values(), gradients(plain).tensors.values())
    yield "gradients", all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


SCENARIOS = {"vit": [vit_values, vit_in_use, vit_drop_rates], "pgd": [pgd_values, pgd_in_use],
             "adversarial": [adversarial_training]}
