"""The flat convolution equals torch's and the assignment's, and calls no convolution operation."""

import pytest
import torch
import torch.nn.functional as F
from test_convolution import Watch
from torch import nn

import test_conv
from extras import flat_conv
from extras.flat_conv import FlatConv2d, flat_conv2d
from student_code import SimpleNet, custom_conv2d
from test_conv import Config

# Sizes that are a multiple of Winograd's tiles, or not, or too small for it; other strides and paddings.
MORE = [Config(2, 16, 8, 8, 16, K=3, padding=1), Config(3, 16, 17, 13, 24, K=3, padding=1),
        Config(2, 20, 9, 11, 16, K=3), Config(2, 16, 7, 9, 16, K=3, padding=2, bias=False),
        Config(2, 16, 6, 6, 16, K=3, padding=3), Config(2, 16, 5, 5, 16, K=3, padding=1),
        Config(2, 16, 9, 8, 16, K=3, stride=2, padding=1), Config(2, 4, 8, 9, 3, K=1, padding=1),
        Config(2, 3, 33, 40, 8, K=7, stride=2, padding=3), Config(2, 3, 6, 6, 5, K=5, padding=5),
        Config(9, 16, 12, 12, 16, K=3, padding=1)]


def both(config: Config, dtype: torch.dtype, ours=flat_conv2d, theirs=F.conv2d):
    """[output, gradients] of each side, for the same random tensors."""
    torch.manual_seed(0)
    tensors = [t.detach().to(dtype).requires_grad_() if t is not None else None
               for t in test_conv.draw(config, torch.device("cpu"))]
    wanted = [t for t in tensors if t is not None]
    sides = []
    for convolve in (ours, theirs):
        output = convolve(*tensors, config.stride, config.padding)
        direction = torch.linspace(-1, 1, output.numel(), dtype=dtype).view(output.shape)
        sides.append([output, *torch.autograd.grad(output, wanted, direction)])
    return zip(*sides)


@pytest.mark.parametrize("config", test_conv.CONFIGS + MORE, ids=str)
def test_equals_torchs(config):
    for ours, theirs in both(config, torch.float64):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10 * theirs.abs().max().item() + 1e-12)
    for ours, theirs in both(config, torch.float32):
        assert (ours - theirs).abs().max() <= 5e-5 * theirs.abs().max() + 1e-6


@pytest.mark.parametrize("config", test_conv.CONFIGS[:4], ids=str)
def test_equals_the_assignments(config):
    for ours, theirs in both(config, torch.float64, theirs=custom_conv2d):
        assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("buffer_bytes", [1, 30_000])
def test_the_chunk_size_does_not_change_the_result(monkeypatch, buffer_bytes):
    """One image per chunk; several, with a smaller last chunk."""
    monkeypatch.setitem(flat_conv.BUFFER_BYTES, "cpu", buffer_bytes)
    for config in (MORE[1], MORE[8], MORE[10]):
        for ours, theirs in both(config, torch.float64):
            assert torch.allclose(ours, theirs)


def test_without_onednns_linear_layer(monkeypatch):
    """A private operation, which other versions of torch may not have."""
    monkeypatch.setattr(flat_conv, "ONEDNN_LINEAR", None)
    for config in (MORE[1], test_conv.CONFIGS[4], test_conv.CONFIGS[8]):
        for ours, theirs in both(config, torch.float32):
            assert (ours - theirs).abs().max() <= 5e-5 * theirs.abs().max() + 1e-6


def test_runs_no_convolution_op():
    model = SimpleNet(FlatConv2d, num_classes=5)
    with Watch() as watch:
        model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert not [call for call in watch.calls if "conv" in call and "mkldnn" not in call.replace("_linear", "")]
    assert not [call for call in watch.calls if "convolution" in call or "aten.conv" in call]


def test_where_winograd_is_used(monkeypatch):
    used = []
    monkeypatch.setattr(flat_conv, "_convolve_winograd", lambda *a: used.append(a[0].shape))
    weight = torch.randn(16, 16, 3, 3)
    flat_conv2d(torch.randn(2, 16, 16, 16), weight, None, 1, 1)
    assert len(used) == 1
    flat_conv2d(torch.randn(2, 16, 5, 5), weight, None, 1, 1)  # would compute 8 x 8 pixels for 5 x 5
    flat_conv2d(torch.randn(2, 3, 16, 16), torch.randn(16, 3, 3, 3), None, 1, 1)
    flat_conv2d(torch.randn(2, 16, 16, 16), weight, None, 2, 1)
    flat_conv2d(torch.randn(2, 16, 16, 16).bfloat16(), weight.bfloat16(), None, 1, 1)  # too imprecise
    assert len(used) == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_replaces_nn_conv2d_in_a_network(layout):
    """Between in-place ReLUs and pools, in either layout, with the same initial weights."""
    results = []
    for conv_op in (FlatConv2d, nn.Conv2d):
        torch.manual_seed(3)
        model = SimpleNet(conv_op, num_classes=5).to(memory_format=layout)
        images = torch.randn(2, 3, 64, 64).to(memory_format=layout).requires_grad_(True)
        logits = model(images)
        logits.square().sum().backward()
        results.append([logits.detach(), images.grad, *[p.grad for p in model.parameters()]])
    for ours, theirs in zip(*results):
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()
    assert {*FlatConv2d(1, 1, 1).state_dict()} == {*nn.Conv2d(1, 1, 1).state_dict()}


def test_under_autocast():
    x, layer = torch.randn(2, 16, 8, 8, requires_grad=True), FlatConv2d(16, 16, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32
    reference = torch.autograd.grad(F.conv2d(x, layer.weight, layer.bias, padding=1).sum(), layer.weight)[0]
    assert (layer.weight.grad - reference).abs().max() < 0.03 * reference.abs().max()


def test_errors():
    with pytest.raises(ValueError, match=r"\(2, 4, 8, 8\) does not have the 3 channels"):
        flat_conv2d(torch.randn(2, 4, 8, 8), torch.randn(4, 3, 3, 3), None)
    with pytest.raises(ValueError, match="a kernel of 5 is larger"):
        flat_conv2d(torch.randn(2, 3, 2, 8), torch.randn(4, 3, 5, 5), None, 1, 1)
    with pytest.raises(ValueError, match=r"stride has to be one int for both directions, not \(1, 2\)"):
        FlatConv2d(3, 3, 3, stride=(1, 2))
    with pytest.raises(ValueError, match="groups 3 have to be 1"):
        FlatConv2d(3, 3, 3, groups=3)
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    gradient, = torch.autograd.grad(flat_conv2d(x, torch.randn(2, 2, 3, 3), None).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_an_empty_batch():
    weight, bias = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    for w, stride, padding in ((weight, 1, 1), (weight, 2, 0), (weight[:, :, :1, :1], 1, 0)):
        x = torch.randn(0, 3, 8, 8, requires_grad=True)
        output = flat_conv2d(x, w, bias, stride, padding)
        assert output.shape == F.conv2d(x, w, bias, stride, padding).shape
        gradients = torch.autograd.grad(output.sum(), (x, weight, bias))
        assert [g.shape for g in gradients] == [x.shape, weight.shape, bias.shape]
        assert not gradients[1].any()
    with pytest.raises(ValueError, match=r"input \(3, 8, 8\) does not have"):
        flat_conv2d(torch.randn(3, 8, 8), weight, None)
