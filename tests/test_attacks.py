"""The attack toolkit against known answers: the box, linear models, PGDAttack, statistics, the model's state."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from extras.attacks import Threat, attack, box, checkpoints, strong
from student_code import PGDAttack, SimpleNet, SimpleViT
from utils import IMAGENET_MEAN, IMAGENET_STD

MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
PIXEL_RANGE = tuple(((end - MEAN) / STD).flatten().tolist() for end in (0.0, 1.0))  # of normalised images


def linear(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


def random_batch(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, 3, 2, 2), torch.arange(count) % 3


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SimpleNet(num_classes=4).eval(), torch.randn(8, 3, 32, 32)


# -------------------------------------------------------------------------------------- the assignment's setting


@pytest.mark.parametrize("sizes", [(10, 0.01, 0.1), (5, 0.1, 0.1), (3, 0.01, 10.0), (1, 0.2, 0.1)])
def test_the_assignments_attack_is_one_setting(network, sizes):
    model, images = network
    steps, step_size, epsilon = sizes
    expected = PGDAttack(nn.CrossEntropyLoss(), *sizes).perturb(model, images)
    outcome = attack(Threat(epsilon, steps=steps, step_size=step_size), model, images, torch.zeros(8).long())
    # Gradients near zero may differ in sign; the box may differ in the last bit.
    assert ((outcome.images - expected).abs() < 1e-5).float().mean() > 0.999


def test_the_assignments_defaults():
    theirs, ours = PGDAttack(nn.CrossEntropyLoss()), Threat(0.1)
    assert (ours.steps, ours.resolved_step_size, ours.epsilon) == (theirs.num_steps, theirs.step_size, theirs.epsilon)


def test_the_default_step_size():
    assert Threat(0.5, step_size=None, steps=5).resolved_step_size == 0.25


# --------------------------------------------------------------------------------------------------- the box


def test_no_value_leaves_the_box():
    """Exactly, in float64: float32 arithmetic alone overshoots for many values."""
    images = torch.randn(64, 3, 16, 16)
    for epsilon in (0.1, 8 / 255, 0.3, 1e-3):
        low, high = box(images, epsilon)
        assert (images.double() - low.double()).max() <= epsilon
        assert (high.double() - images.double()).max() <= epsilon
        assert (images.double() - low.double()).min() > epsilon * (1 - 1e-3)
        assert ((images + epsilon).double() - images.double() > epsilon).float().mean() > 0.02, "float32 overshoots"


@pytest.mark.parametrize("threat", [Threat(0.1, step_size=1), strong(0.1, 6), Threat(0.1, restarts=3)])
def test_adversarial_images_are_inside_the_box(network, threat):
    model, images = network
    outcome = attack(threat, model, images, torch.zeros(8).long())
    assert (outcome.images.double() - images.double()).abs().max() <= 0.1


def test_epsilon_zero_is_the_identity(network):
    model, images = network
    for threat in (Threat(0.0), strong(0.0, 4), Threat(0.0, restarts=2, valid=PIXEL_RANGE)):
        assert torch.equal(attack(threat, model, images, torch.zeros(8).long()).images, images)


def test_valid_pixels_stay_valid():
    images = torch.rand(4, 3, 8, 8)
    low, high = box((images - MEAN) / STD, 1.0, PIXEL_RANGE)
    assert (low * STD + MEAN).min() > -1e-6
    assert (high * STD + MEAN).max() < 1 + 1e-6
    outside = torch.full((1, 3, 2, 2), 9.0)
    assert torch.equal(box(outside, 0.0, PIXEL_RANGE)[0], outside), "its own values are allowed"


# ---------------------------------------------------------------------------------------------- known answers


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("rule", ["sign", "momentum"])
def test_a_linear_model_has_a_known_worst_case(loss, rule):
    """Of two logits: the corner of the box along the difference of the weights."""
    model, (images, _) = linear(2), random_batch()
    labels = model(images).argmax(1)
    difference = (model[1].weight[1 - labels] - model[1].weight[labels]).sign().view_as(images)
    threat = Threat(0.1, "untargeted", loss, rule=rule, step_size=0.05)
    assert torch.allclose(attack(threat, model, images, labels).images, images + 0.1 * difference)


def test_one_step_is_fgsm():
    model, (images, labels) = linear(), random_batch()
    leaf = images.clone().requires_grad_()
    gradient, = torch.autograd.grad(F.cross_entropy(model(leaf), labels), leaf)
    outcome = attack(Threat(0.1, "untargeted", steps=1, step_size=0.1), model, images, labels)
    assert torch.allclose(outcome.images, images + 0.1 * gradient.sign())


def test_each_objective_changes_its_label():
    model, (images, labels) = linear(5), random_batch(32)
    before = model(images).softmax(1)
    truth, least, most = labels, before.argmin(1), before.argmax(1)
    targets = (most + 1) % 5

    def change(label, *words, **given):
        after = model(attack(Threat(0.05, *words, relabel=False), model, images, truth, **given).images).softmax(1)
        return (after - before).gather(1, label[:, None])

    assert (change(least, "least-likely") > 0).all()
    assert (change(most, "most-likely") < 0).all()
    assert (change(truth, "untargeted") < 0).all()
    assert (change(targets, "targeted", targets=targets) > 0).all()
    reached = attack(Threat(0.05, "targeted", "margin"), model, images, truth, targets).images

    def margin(logits):
        own = F.one_hot(targets, 5).bool()
        return logits[own] - logits.masked_fill(own, -math.inf).amax(1)

    assert (margin(model(reached)) > margin(model(images))).all()


def test_relabel_each_step_or_once():
    """Three logits whose least likely one changes after a step towards it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3, bias=False))
    model[1].weight.data = torch.eye(3)
    image = torch.tensor([2.0, 0.0, 0.01]).view(1, 3, 1, 1)
    label = torch.tensor([0])
    once = attack(Threat(0.5, step_size=0.1, relabel=False, steps=5), model, image, label).images[0, :, 0, 0]
    each = attack(Threat(0.5, step_size=0.1, relabel=True, steps=5), model, image, label).images[0, :, 0, 0]
    assert once[1] == pytest.approx(0.5)
    assert each[1] < 0.3, "alternates between two labels"


def test_apgd_beats_pgd_with_as_many_passes(network):
    model, images = network
    labels = model(images).argmax(1)
    outcomes = [attack(Threat(0.03, "untargeted", rule=rule, step_size=None, steps=20), model, images, labels)
                for rule in ("sign", "momentum")]
    pgd, apgd = (F.cross_entropy(model(outcome.images), labels) for outcome in outcomes)
    assert apgd > pgd
    assert torch.equal(outcomes[0].passes, outcomes[1].passes)


def test_checkpoints_of_apgd():
    """Croce and Hein 2020: 22 of 100 first, then 41, 57, 70, 80, 87, 93, 99."""
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert max(checkpoints(1000)) <= 1000


# ----------------------------------------------------------------------------------------------- statistics


def test_statistics_of_early_stopping(network):
    model, images = network
    labels = model(images).argmax(1)
    threat = Threat(0.05, "untargeted", "margin", steps=8, step_size=None, keep="first")
    outcome = attack(threat, model, images, labels)
    predicted = model(outcome.images).argmax(1)
    assert torch.equal(outcome.success, predicted != labels)
    assert outcome.success.sum() > 0, "precondition of this test"
    for i, (first, passes) in enumerate(zip(outcome.first_success.tolist(), outcome.passes.tolist())):
        assert passes == (first if outcome.success[i] else 8)
        assert outcome.losses[:passes, i].isfinite().all()
        assert outcome.losses[passes:, i].isnan().all()
    assert outcome.rate == outcome.rate_after(8) == 100 * outcome.success.float().mean()
    assert [outcome.rate_after(n) for n in range(9)] == sorted(outcome.rate_after(n) for n in range(9))


def test_backward_passes_are_counted(network, monkeypatch):
    model, images = network
    calls, real = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or real(*a, **k))
    outcome = attack(Threat(0.0, "untargeted", steps=7, restarts=3), model, images, model(images).argmax(1))
    assert len(calls) == 21
    assert outcome.passes.tolist() == [21] * 8
    assert outcome.losses.shape == (21, 8)


def test_early_stopping_also_skips_restarts():
    model, (images, _) = linear(2), random_batch(32)
    predicted = model(images).argmax(1)
    labels = torch.where(torch.arange(32) % 2 == 0, predicted, 1 - predicted)
    outcome = attack(Threat(0.0, "untargeted", keep="first", restarts=3), model, images, labels)
    assert outcome.passes.tolist() == [30, 0] * 16
    assert outcome.first_success.tolist() == [-1, 0] * 16


@pytest.mark.parametrize(("keep", "success", "passes"), [("last", False, 4), ("best", True, 4), ("first", True, 1)])
def test_which_iterate_is_kept(keep, success, passes):
    """A logit with one peak: an iterate succeeds, and later ones do not."""
    class Hill(nn.Module):
        def forward(self, x):
            x = x.flatten(1)[:, :1]
            return torch.cat([torch.zeros_like(x), 1 - (x - 1).abs().mul(2) + 0.01 * x], dim=1)

    image = torch.full((1, 3, 1, 1), 0.0)
    outcome = attack(Threat(9.0, "targeted", steps=4, step_size=1.0, keep=keep), Hill(), image, torch.tensor([0]),
                     torch.tensor([1]))
    reached = Hill()(outcome.images).argmax(1).item() == 1
    assert (outcome.success.item(), reached, outcome.passes.item()) == (success, success, passes)
    assert outcome.first_success.item() == 1


def test_restarts_attack_images_not_yet_fooled():
    """The gradient is zero at the image, and not at a random start."""
    class Flat(nn.Module):
        def forward(self, x):
            x = x.flatten(1).sum(1, keepdim=True)
            return torch.cat([torch.full_like(x, 0.1), x.abs() * (x != 0)], dim=1)

    images, labels = torch.zeros(4, 3, 1, 1), torch.zeros(4).long()
    plain = attack(Threat(0.2, "untargeted"), Flat(), images, labels)
    again = attack(Threat(0.2, "untargeted", restarts=2, keep="best"), Flat(), images, labels)
    assert (plain.rate, again.rate) == (0, 100)
    assert plain.zero_gradients.tolist() == [1] * 4
    assert (again.zero_gradients < 1).all()
    assert again.passes.tolist() == [20] * 4


def test_the_loss_falls(network):
    model, images = network
    outcome = attack(Threat(0.1, relabel=False), model, images, torch.zeros(8).long())
    assert (outcome.losses[-1] < outcome.losses[0]).all()


# ----------------------------------------------------------------------------------------------------- state


def state(model):
    return ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()],
            [p.grad for p in model.parameters()], [len(m._forward_hooks) for m in model.modules()],
            [t.clone() for t in model.state_dict().values()])


@pytest.mark.parametrize("threat", [Threat(0.1), strong(0.1, 4), Threat(0.1, restarts=2)])
@pytest.mark.parametrize("fails", [False, True])
def test_state_is_restored_also_after_an_error(threat, fails):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(16, 3))
    model[1].eval()
    model[4].bias.requires_grad_(False)
    calls = []
    if fails:
        model[3].register_forward_hook(lambda *_: calls.append(1) or (1 / 0 if len(calls) == 3 else None))
    images, labels = random_batch()
    original, before, rng_state = images.clone(), state(model), torch.get_rng_state()
    try:
        attack(threat, model, images, labels)
        assert not fails
    except ZeroDivisionError:
        assert fails
    after = state(model)
    assert before[:4] == after[:4]
    assert all(map(torch.equal, before[4], after[4]))
    assert torch.equal(images, original)
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), rng_state)


def test_no_empty_batches(network):
    """SimpleViT raises on one: no restart once all images have succeeded."""
    model, images = SimpleViT(32, 4, patch_size=8).eval(), network[1]
    wrong = (model(images).argmax(1) + 1) % 4
    assert attack(strong(0.1, 3, 3), model, images, wrong).rate == 100


def test_random_starts_are_reproducible(network):
    model, images = network
    first, again, other = (attack(Threat(1e-3, "untargeted", steps=2, step_size=1e-4, restarts=2, seed=seed), model,
                                  images, model(images).argmax(1)).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_attack_inside_no_grad(network):
    model, images = network
    with torch.no_grad():
        inside = attack(Threat(0.1), model, images, torch.zeros(8).long()).images
    assert not inside.requires_grad
    assert torch.equal(inside, attack(Threat(0.1), model, images, torch.zeros(8).long()).images)


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: Threat(0.1, "least"), "objective is 'least'; it has to be one of least-likely, most-likely"),
    (lambda: Threat(0.1, rule="adam"), "rule is 'adam'; it has to be one of sign, momentum"),
    (lambda: Threat(-0.1), "epsilon is -0.1; it has to be a finite number of at least 0"),
    (lambda: Threat(math.nan), "epsilon is nan"), (lambda: Threat(0.1, steps=0), "steps is 0"),
    (lambda: attack(Threat(0.1, "targeted"), linear(), *random_batch()), "'targeted' goes with targets"),
    (lambda: attack(Threat(0.1), linear(), *random_batch(), random_batch()[1]), "'least-likely' goes without targets")])
def test_errors(make, sentence):
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        make()
