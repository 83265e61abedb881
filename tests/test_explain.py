"""Explanations against known answers: captum's gradient, a CAM's mean, removed hooks, in-place layers."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from extras import explain
from extras.explain import (
    class_activation_maps,
    feature_maps,
    first_filters,
    record_activations,
    saliency,
    token_saliency,
)
from student_code import CustomConv2d, CustomNet, GradAttention, MultiScaleNet, SimpleNet, SimpleViT
from utils import BadInput


def images(count: int = 3, size: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def with_random_biases(model: nn.Module) -> nn.Module:
    """Non-zero biases and running statistics, so that a missing term shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (*(p for n, p in model.named_parameters() if n.endswith("bias")), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def state(model: nn.Module) -> tuple:
    return ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()],
            [p.grad for p in model.parameters()], [len(m._forward_hooks) for m in model.modules()])


# ------------------------------------------------------------------------------------------------ saliency


def test_saliency_is_the_logits_gradient():
    model, x = with_random_biases(SimpleNet(num_classes=4)), images()
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    gradient, = torch.autograd.grad(logits.max(1).values.sum(), leaf)
    torch.testing.assert_close(saliency(model, x), gradient.abs().amax(1, keepdim=True))
    labels = torch.tensor([3, 0, 1])
    assert not torch.allclose(saliency(model, x, labels), saliency(model, x))


def test_saliency_equals_captums():
    attribution = pytest.importorskip("captum.attr")
    model, x = with_random_biases(SimpleNet(num_classes=4)), images()
    labels = model(x).argmax(1)
    theirs = attribution.Saliency(model).attribute(x.clone().requires_grad_(), target=labels, abs=True)
    torch.testing.assert_close(saliency(model, x), theirs.amax(1, keepdim=True))

    def loss(given):
        return F.cross_entropy(model(given), labels, reduction="none")

    theirs = attribution.Saliency(loss).attribute(x.clone().requires_grad_(), abs=True)
    torch.testing.assert_close(GradAttention(nn.CrossEntropyLoss()).explain(model, x), theirs.amax(1, keepdim=True))


# ---------------------------------------------------------------------------------- class activation maps


@pytest.mark.parametrize(("model", "side"), [
    (SimpleNet(num_classes=5), 8), (SimpleNet(CustomConv2d, num_classes=5), 8), (MultiScaleNet(num_classes=5), 32),
    (torchvision.models.resnet18(num_classes=5), 2), (torchvision.models.resnet50(num_classes=5), 2)],
    ids=["SimpleNet", "own convolution", "MultiScaleNet", "resnet18", "resnet50"])
def test_the_mean_of_a_cam_and_the_bias_are_the_logit(model, side):
    model, x = with_random_biases(model), images()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        logits = model(x)
    for labels in (None, torch.tensor([4, 2, 0])):
        maps, of = class_activation_maps(model, x, labels)
        assert maps.shape == (3, side, side)
        expected = logits.gather(1, of[:, None])[:, 0]
        torch.testing.assert_close(maps.mean((1, 2)) + linear.bias.detach()[of], expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(class_activation_maps(model, x)[1], logits.argmax(1))


def test_cam_of_images_that_are_not_square():
    model = with_random_biases(SimpleNet(num_classes=5))
    assert class_activation_maps(model, torch.randn(2, 3, 64, 96))[0].shape == (2, 8, 12)


def test_a_cam_points_at_the_evidence():
    """A network of one colour channel per class: the map of red is the red channel."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(2, 2))
    model[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).view(2, 3, 1, 1)
    model[4].weight.data = torch.eye(2)
    x = torch.zeros(1, 3, 8, 8)
    x[0, 0, 2:4, 5:7] = 1
    maps, _ = class_activation_maps(model, x, torch.tensor([0]))
    assert torch.equal(maps[0], x[0, 0])


@pytest.mark.parametrize("model", [CustomNet(num_classes=4), SimpleViT(64, 4), nn.Flatten()])
def test_networks_without_a_cam_say_so(model):
    with pytest.raises(BadInput, match="has no class activation maps: they need global average pooling"):
        class_activation_maps(model.eval(), images())


# ----------------------------------------------------------------------------------- activations and filters


def test_a_following_in_place_layer_does_not_change_feature_maps():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Flatten())
    x = images(2, 4)
    maps = feature_maps(model, x, ["0", "1"])
    assert (maps["0"] < 0).any()
    torch.testing.assert_close(maps["0"], model[0](x))
    torch.testing.assert_close(maps["1"], model[0](x).relu())


def test_feature_maps_of_resnet_and_multiscalenet():
    for model in (torchvision.models.resnet18(num_classes=4), MultiScaleNet(CustomConv2d, num_classes=4)):
        layers = explain.evenly_spaced([*explain.convolutions(model)], 3)
        maps = feature_maps(model, images(), layers)
        assert list(maps) == layers
        sides = [found.shape[-1] for found in maps.values()]
        assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize(("layers", "sentence"), [
    (["features.99"], "has no layer features.99; some of its layers: features"),
    (["fc"], r"layer fc does not output feature maps N,C,h,w, but \(3, 4\)")])
def test_wrong_layers(layers, sentence):
    with pytest.raises(BadInput, match=sentence):
        feature_maps(SimpleNet(num_classes=4), images(), layers)


def test_evenly_spaced():
    assert explain.evenly_spaced(list("abcdefg"), 3) == ["a", "d", "g"]
    assert explain.evenly_spaced(["a", "b"], 3) == ["a", "b"]


def test_diverse_channels_are_uncorrelated_and_deterministic():
    base = images(1, 8)[0]
    maps = torch.stack([3 * base[0], 2.9 * base[0] + 0.01, base[1], torch.zeros(8, 8), base[2]])
    assert explain.diverse_channels(maps, 3) in ([0, 2, 4], [0, 4, 2])
    assert explain.diverse_channels(maps, 5)[3:] == [1, 3]
    assert explain.diverse_channels(maps, 9) == explain.diverse_channels(maps, 9)


def test_each_filter_is_min_max_normalised():
    model = SimpleNet(num_classes=4)
    filters = first_filters(model)
    assert filters.shape == (64, 3, 7, 7)
    weight = model.features[0].weight.detach()
    one = (weight[7] - weight[7].min()) / (weight[7] - weight[7].min()).max()
    torch.testing.assert_close(filters[7], one)
    assert torch.equal(explain.stretched(torch.full((1, 3, 2, 2), 5.0)), torch.zeros(1, 3, 2, 2))
    with pytest.raises(BadInput, match="no convolution with three input channels"):
        first_filters(nn.Sequential(nn.Conv2d(1, 4, 3)))


# ---------------------------------------------------------------------------------------------- tokens


def test_token_saliency_follows_the_patches_gradients():
    model = with_random_biases(SimpleViT(64, 4, drop_path_rate=0.0))
    x = images()
    grid = token_saliency(model, x)
    assert grid.shape == (3, 4, 4)
    leaf = x.clone().requires_grad_()
    gradient, = torch.autograd.grad(model(leaf).max(1).values.sum(), leaf)
    # The embedding is linear: a patch's pixels get the token's gradient through its weights.
    embed = model.patch_embed.proj.weight.detach().flatten(1)
    by_patch = F.unfold(gradient, 16, stride=16).transpose(1, 2)  # (N, 16, 768)
    at_most = grid.flatten(1) * torch.linalg.matrix_norm(embed, 2)
    assert (by_patch.norm(dim=2) <= at_most * 1.001).all()
    order = torch.corrcoef(torch.stack([by_patch.norm(dim=2).flatten(), grid.flatten()]))[0, 1]
    assert order > 0.8, "tokens are in the order of their patches"
    with pytest.raises(BadInput, match="has no PatchEmbed"):
        token_saliency(SimpleNet(num_classes=4), x)


# ----------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("job", [saliency, class_activation_maps, lambda m, x: feature_maps(m, x, ["features.0"])])
def test_state_is_restored(job):
    model, x = SimpleNet(num_classes=4).train(), images()
    model.features[3].eval()
    model.fc.bias.requires_grad_(False)
    before, original = state(model), x.clone()
    with torch.no_grad():
        job(model, x)
    assert state(model) == before
    assert torch.equal(x, original)
    with pytest.raises(RuntimeError):
        job(model, torch.randn(1, 5, 8, 8))
    assert state(model) == before


def test_hooks_are_removed_after_an_error():
    model = SimpleViT(64, 4)
    model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_saliency(model, images())
    assert not any(m._forward_hooks for m in model.modules())


def test_record_activations_keeps_the_graph():
    layer = nn.Linear(2, 2)
    with record_activations([layer]) as outputs:
        layer(torch.ones(1, 2))
    assert outputs[layer].requires_grad
    assert not layer._forward_hooks
