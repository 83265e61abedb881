"""The attack keeps its box and leaves no trace; adversarial training attacks only while training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from student_code import AdvSimpleNet, GradAttention, PGDAttack, SimpleNet, vis_grad_attention, vis_grid

LOSS = nn.CrossEntropyLoss()


class Small(nn.Module):
    """A network with everything that an attack could leave traces on."""

    def __init__(self, fail_at: int | None = None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(8, 5)
        self.calls, self.fail_at = 0, fail_at

    def forward(self, x):
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("out of memory")
        return self.fc(self.drop(F.relu(self.norm(self.conv(x))).mean((2, 3))))


def prepared(fail_at=None) -> Small:
    """Mixed modes, a frozen parameter, gradients on some: a state that is easily spoilt."""
    model = Small(fail_at).train()
    model.norm.eval()
    model.conv.bias.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    return model


def state_of(model: nn.Module):
    return ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()],
            [None if p.grad is None else p.grad.clone().tolist() for p in model.parameters()],
            {name: value.clone().tolist() for name, value in model.state_dict().items()})


@pytest.mark.parametrize("job", [lambda m, x: PGDAttack(LOSS, 3).perturb(m, x), GradAttention(LOSS).explain])
def test_no_trace_on_the_model_or_the_input(job):
    model, images = prepared(), torch.randn(4, 3, 8, 8)
    before, kept = state_of(model), images.clone()
    result = job(model, images)
    assert state_of(model) == before
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert not result.requires_grad


@pytest.mark.parametrize("job", [lambda m, x: PGDAttack(LOSS, 5).perturb(m, x),
                                 lambda m, x: [GradAttention(LOSS).explain(m, x) for _ in range(3)]])
def test_no_trace_when_the_model_raises(job):
    model = prepared(fail_at=3)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        job(model, torch.randn(2, 3, 8, 8))
    assert state_of(model) == before


def test_the_box():
    model, images = Small().eval(), torch.randn(4, 3, 8, 8)
    adversarial = PGDAttack(LOSS, num_steps=20, step_size=0.02, epsilon=0.1).perturb(model, images)
    assert (adversarial - images).abs().max() <= 0.1 + 1e-6
    assert (adversarial - images).abs().max() > 0.09
    assert torch.equal(PGDAttack(LOSS, 5, epsilon=0).perturb(model, images), images)


def test_one_step_is_the_sign_of_the_gradient_towards_the_least_confident_label():
    model, images = Small().eval(), torch.randn(4, 3, 8, 8)
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    gradient, = torch.autograd.grad(F.cross_entropy(logits, logits.argmin(1), reduction="sum"), leaf)
    expected = images - 0.01 * gradient.sign()
    torch.testing.assert_close(PGDAttack(LOSS, 1, 0.01, 0.1).perturb(model, images), expected)


def test_a_linear_model_has_a_known_worst_case():
    """Two logits w.x: whichever is smaller is pulled up by the whole box, in the sign of the weights' difference."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
    images = torch.randn(6, 3, 2, 2)
    least = model(images).argmin(1)
    weight = model[1].weight.detach()
    direction = (weight[least] - weight[1 - least]).sign().view_as(images)
    small = PGDAttack(LOSS, num_steps=4, step_size=0.002, epsilon=0.004).perturb(model, images)
    stays = model(small).argmin(1) == least  # else the label was picked anew, as it should be
    assert stays.any()
    torch.testing.assert_close(small[stays], (images + 0.004 * direction)[stays])


def test_the_loss_of_the_least_confident_label_falls():
    model, images = Small().eval(), torch.randn(8, 3, 8, 8)
    least = model(images).argmin(1)
    adversarial = PGDAttack(LOSS).perturb(model, images)
    assert LOSS(model(adversarial), least) < LOSS(model(images), least)


def test_it_works_without_gradients_around_it_and_needs_none():
    model, images = Small().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        inside = PGDAttack(LOSS, 3).perturb(model, images)
    torch.testing.assert_close(inside, PGDAttack(LOSS, 3).perturb(model, images))


def test_the_batch_does_not_matter():
    """A mean loss shrinks the gradient with the batch; its sign, and so the attack, has to stay."""
    model, images = Small().eval(), torch.randn(6, 3, 8, 8)
    together = PGDAttack(LOSS, 3).perturb(model, images)
    alone = torch.cat([PGDAttack(LOSS, 3).perturb(model, images[i : i + 1]) for i in range(6)])
    assert (together - alone).abs().mean() < 1e-4


# --------------------------------------------------------------------------------- adversarial training


def test_advsimplenet_evaluates_as_simplenet():
    robust, plain = AdvSimpleNet(num_classes=5).eval(), SimpleNet(num_classes=5).eval()
    plain.load_state_dict(robust.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(robust(images), plain(images))


def test_advsimplenet_attacks_while_training_and_does_not_recurse():
    network = AdvSimpleNet(num_classes=5).train()
    passes = []
    network.features.register_forward_hook(
        lambda module, given, out: passes.append((network.training, given[0].clone())))
    images = torch.randn(2, 3, 32, 32)
    network(images).sum().backward()
    assert [training for training, _ in passes] == [False] * 5 + [True]
    assert 0 < (passes[-1][1] - images).abs().max() <= 0.1 + 1e-6
    assert network.training
    assert all(p.grad is not None for p in network.parameters())


# --------------------------------------------------------------------------------------------- saliency


def test_saliency_is_the_gradient_of_the_predicted_label():
    model, images = Small().eval(), torch.randn(3, 3, 8, 8)
    saliency = GradAttention(LOSS).explain(model, images)
    assert saliency.shape == (3, 1, 8, 8)
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    F.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
    torch.testing.assert_close(saliency[:, 0], leaf.grad.abs().amax(1))


def test_saliency_points_at_what_matters():
    class Corner(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, :2, :2].sum((1, 2)), -x[:, 0, :2, :2].sum((1, 2))], dim=1)

    saliency = GradAttention(LOSS).explain(Corner(), torch.randn(2, 3, 6, 6) * 0.1)
    assert (saliency[:, :, :2, :2] > 0).all()
    assert (saliency[:, :, 2:] == 0).all()


def test_grids_share_one_scale():
    """Fault 7 of the stock scaffold: original and adversarial image were stretched each to its own range."""
    images = torch.zeros(3, 3, 8, 8)
    grey = vis_grid(images)[:, 4, 4]
    images[0] = 5
    assert torch.equal(vis_grid(images)[:, 4, 14], grey)
    assert vis_grid(images, n_rows=2).shape == (3, 2 * 8 + 3 * 2, 2 * 8 + 3 * 2)


def test_overlay_is_red_where_it_matters_and_the_image_elsewhere():
    images, saliency = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    saliency[..., :8, :8] = 1
    picture = vis_grad_attention(images, vis_output=saliency)
    plain = vis_grid(images)
    assert picture.shape == plain.shape
    assert picture[0, 4, 4] > plain[0, 4, 4] + 0.2
    assert torch.equal(picture[:, 20:, 20:], plain[:, 20:, 20:])
    assert torch.equal(vis_grad_attention(images), plain)
