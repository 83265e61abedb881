"""Tasks for adversarial training: AdvSimpleNet, watched at its first convolution."""

import contextlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograder.worker import common, graft
from autograder.worker.attacks import array_of, unwrapped
from autograder.worker.common import Missing, process_state, seed_everything, student_class, to_numpy, to_tensor

CLASSES = 5
MAX_NESTED = 3  # attacks inside attacks; more are an endless recursion


class Watch:
    """What the first convolutions are shown, and which attacks are asked for, since the last clear()."""

    def __init__(self):
        self.nested, self.learning = 0, False
        self.clear()

    def clear(self) -> None:
        self.passes: list[dict] = []
        self.attacks: list[dict] = []

    def conv_op(self) -> type[nn.Conv2d]:
        """An nn.Conv2d to build a network from. Copies of the network are watched, too."""
        watch = self

        class Conv2d(nn.Conv2d):
            def forward(self, x):
                y = super().forward(x)
                return watch.note(self, x, y) if self.in_channels == 3 else y
        return Conv2d

    def note(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Record a forward pass; it is `used` if the gradient of the training loss comes back to it."""
        images, is_wrapped = unwrapped(x)
        one = {"images": array_of(images), "training": layer.training, "used": False}
        self.passes.append(one)
        if y.requires_grad and not is_wrapped:
            y.register_hook(lambda _: one.update(used=one["used"] or self.learning))
        return y

    def images(self, used: bool) -> np.ndarray | None:
        """The images of the passes that were used, or of the last pass; None if there are none."""
        chosen = (
            [one["images"] for one in self.passes if one["used"]]
            if used
            else [one["images"] for one in self.passes][-1:]
        )
        return np.concatenate(chosen) if chosen and len({one.shape[1:] for one in chosen}) == 1 else None


@contextlib.contextmanager
def known_good_attack(watch: Watch):
    """Patch the known-good perturb into the student's PGDAttack, whose own __init__ runs, too."""
    good = graft.REPLACEMENTS["GoodPGD"]
    if not isinstance(getattr(common.student, "PGDAttack", None), type):
        common.student.PGDAttack = good
    theirs, prepare, attack = common.student.PGDAttack, common.student.PGDAttack.__init__, good.perturb
    good.switches_mode = switches_mode(theirs)
    before, assign = {name: vars(theirs).get(name) for name in ("__init__", "perturb")}, good.__init__

    def __init__(self, *arguments, **settings):
        prepare(self, *arguments, **settings)
        assign(self, *arguments, **settings)

    def perturb(self, model, input, *_, **__):
        watch.attacks.append({"epsilon": float(self.epsilon), "num_steps": int(self.num_steps)})
        if watch.nested == MAX_NESTED:
            raise Missing("forward attacks, the attack calls the network, and its forward attacks again, without end: "
                          "attack only if self.training, and in evaluation mode")
        watch.nested += 1
        try:
            return attack(self, model, input)
        finally:
            watch.nested -= 1

    for name, method in (("__init__", __init__), ("perturb", perturb)):
        method.__qualname__ = f"PGDAttack.{name}"
        setattr(theirs, name, method)
    try:
        yield
    finally:
        for name, old in before.items():
            setattr(theirs, name, old) if old is not None else delattr(theirs, name)


def switches_mode(attack: type) -> bool:
    """Whether the student's own attack calls the network in evaluation mode; True if it does not run."""
    modes: list[bool] = []

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, CLASSES)

        def forward(self, x):
            modes.append(self.training)
            return self.fc(x.flatten(1))
    try:
        attack(nn.CrossEntropyLoss(), num_steps=1).perturb(Network().train(), torch.rand(1, 3, 2, 2))
    except Exception:
        return True
    finally:
        torch.set_grad_enabled(True)
    return bool(modes) and not any(modes)


def train_networks(arrays, calls: list, seed: int, name: str) -> tuple[dict, dict]:
    """Forward passes of networks of the class `name`; `calls` are [network, first image, last image, mode].

    Modes: "train", with the loss's backward pass; "eval"; "validate", which is eval under no_grad. Returns for call m
    facts["calls"][m], the logits, the images that the loss used, `m.used`, or of the last pass, `m.last`, and logits in
    evaluation mode for the clean images and for those used, `m.clean` and `m.plain`.
    """
    watch = Watch()
    with known_good_attack(watch):
        seed_everything(seed)
        networks = [student_class(name)(conv_op=watch.conv_op(), num_classes=CLASSES)
                    for _ in range(1 + max(call[0] for call in calls))]
        facts, results = [], {}
        for m, (n, first, last, mode) in enumerate(calls):
            told, found = call_network(networks[n], to_tensor(arrays["x"][first:last]), mode, watch)
            facts.append(told)
            results |= {f"{m}.{key}": array for key, array in found.items()}
        for m, (n, first, last, mode) in enumerate(calls):
            if mode == "train" and (used := results.get(f"{m}.used", results.get(f"{m}.last"))) is not None:
                for key, images in (("clean", arrays["x"][first:last]), ("plain", used)):
                    logits = plain_logits(networks[n], to_tensor(images), watch)
                    results |= {} if logits is None else {f"{m}.{key}": to_numpy(logits, "the output")}
    return {"calls": facts}, results


def call_network(network: nn.Module, x: Tensor, mode: str, watch: Watch) -> tuple[dict, dict]:
    """One forward pass, and in training mode a backward pass."""
    network.train(mode == "train")
    watch.clear()
    given, modes, wanted = x.clone(), flags(network), [one.requires_grad for one in network.parameters()]
    process = process_state()
    with torch.no_grad() if mode == "validate" else contextlib.nullcontext():
        logits = network(x)
    facts = {"modes_kept": modes == flags(network), "input_changed": not torch.equal(given, x),
             "input_requires_grad": x.requires_grad, "process_changed": differences(process), "attacks": watch.attacks,
             "frozen_kept": wanted == [one.requires_grad for one in network.parameters()],
             "stale": any(one.grad is not None and bool(one.grad.any()) for one in network.parameters())}
    results = {"logits": to_numpy(logits, "the output").copy()}
    if mode == "train":
        facts["attached"] = logits.requires_grad
        if logits.requires_grad and logits.shape == (len(x), CLASSES):
            learn(network, logits, watch)
    facts["passes"] = [[len(one["images"]), one["training"], one["used"]] for one in watch.passes]
    facts["names"], facts["has_gradient"] = zip(
        *((name, one.grad is not None) for name, one in network.named_parameters())
    )
    network.zero_grad(set_to_none=True)
    results |= {key: images for key, images in (("used", watch.images(True)), ("last", watch.images(False)))
                if images is not None}
    return facts, results


def learn(network: nn.Module, logits: Tensor, watch: Watch) -> None:
    """The backward pass of a training step, without the attack's gradients."""
    network.zero_grad(set_to_none=True)
    watch.learning = True
    F.cross_entropy(logits, targets(logits)).backward()
    watch.learning = False


def targets(logits: Tensor) -> Tensor:
    return torch.arange(len(logits)) % CLASSES


def flags(network: nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


def differences(before: dict) -> list[str]:
    """What a call has changed of process_state(); the gradient mode is set back."""
    changed = [name for name, value in process_state().items() if value != before[name]]
    torch.set_grad_enabled(before["the gradient mode"])
    return changed


def plain_logits(network: nn.Module, images: Tensor, watch: Watch) -> Tensor | None:
    """Logits in evaluation mode, unless the network attacks there, too."""
    watch.clear()
    try:
        logits = network.eval()(images)
    except Exception:
        return None
    seen = watch.images(False)
    return logits.detach() if len(watch.passes) == 1 and np.array_equal(seen, to_numpy(images, "the images")) else None


# ---------------------------------------------------------------------------------------------- gradients


def training_slopes(arrays, seed: int, name: str) -> tuple[dict, dict]:
    """A training step's gradients against differences of the loss for the images that it used, in float64.

    Returns the parameters' names and, for two random directions in each, the slopes `analytic` and `numeric`, arrays
    (parameters, 2); nothing if the network does not run in float64, has layers that depend on the mode, or attacks in
    evaluation mode.
    """
    watch = Watch()
    with known_good_attack(watch):
        seed_everything(seed)
        network = student_class(name)(conv_op=watch.conv_op(), num_classes=CLASSES)
        differs = [type(one).__name__ for one in network.modules()
                   if isinstance(one, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd)]
        try:
            network.double().train()
            logits = network(to_tensor(arrays["x"]).double())
            if logits.requires_grad:
                learn(network, logits, watch)
        except Exception:
            return {"why": "does not run in float64"}, {}
        images = watch.images(True)
        if images is None or len(images) != len(arrays["x"]) or differs:
            return {"why": f"layers that depend on the mode: {differs}"}, {}
        plain = plain_logits(network, to_tensor(images), watch)
        if plain is None:
            return {"why": "attacks in evaluation mode"}, {}
        gap = float((plain - logits.detach()).abs().max() / plain.abs().max())
        names, parameters = zip(*network.named_parameters())
        found = np.array([[slopes(network, one, to_tensor(images)) for _ in range(2)] for one in parameters])
    return {"names": names, "gap": gap}, {"analytic": found[..., 0], "numeric": found[..., 1]}


def slopes(network: nn.Module, parameter: Tensor, images: Tensor) -> tuple[float, float]:
    """The slope of the loss along a random direction of one parameter: from its gradient, and by a difference."""
    direction = torch.randn_like(parameter.detach()) * parameter.detach().abs().mean().clamp(min=0.01)
    analytic = 0.0 if parameter.grad is None else float((parameter.grad * direction).sum())
    before, losses = parameter.detach().clone(), []
    with torch.no_grad():
        for h in (1e-7, -1e-7):  # small, so that few differences straddle the kink of a ReLU
            parameter.copy_(before + h * direction)
            logits = network(images)
            losses.append(float(F.cross_entropy(logits, targets(logits))))
        parameter.copy_(before)
    return analytic, (losses[0] - losses[1]) / 2e-7


TASKS = [train_networks, training_slopes]
