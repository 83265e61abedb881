"""The convolution against torch's own, on every configuration of test_conv.py and beyond."""

import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import CODE
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import test_conv
from student_code import CustomConv2d, custom_conv2d

pytestmark = pytest.mark.usefixtures("one_thread")


class Watch(TorchDispatchMode):
    """Lists in `calls` what the dispatcher runs."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


def tensors(config, dtype=torch.float64):
    return [t.detach().to(dtype).requires_grad_() if t is not None else None
            for t in test_conv.draw(config, torch.device("cpu"))]


@pytest.mark.parametrize("config", test_conv.CONFIGS, ids=str)
def test_second_derivatives_are_right(config):
    x, weight, bias = tensors(config)
    given = [t for t in (x, weight, bias) if t is not None]
    tail = [] if config.bias else [None]
    assert torch.autograd.gradgradcheck(lambda *t: custom_conv2d(*t, *tail, config.stride, config.padding), given)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_the_gradients_asked_for_are_made(wanted):
    x, weight, bias = (t.detach() for t in tensors(test_conv.CONFIGS[1]))
    for i, tensor in enumerate((x, weight, bias)):
        tensor.requires_grad_(i in wanted)
    custom_conv2d(x, weight, bias).sum().backward()
    assert [t.grad is not None for t in (x, weight, bias)] == [i in wanted for i in range(3)]


def test_frozen_weights_cost_no_unfold():
    """An attack asks for the input's gradient alone; the weight's would double its price."""
    x, weight, bias = tensors(test_conv.CONFIGS[1])
    output = custom_conv2d(x, weight.detach(), bias.detach())
    with Watch() as watch:
        output.sum().backward()
    assert not any("im2col" in call for call in watch.calls)
    assert any("col2im" in call for call in watch.calls)


def test_no_convolution_op_is_called():
    with Watch() as watch:
        custom_conv2d(*tensors(test_conv.CONFIGS[1]), 1, 1).sum().backward()
    assert watch.calls
    assert not any("conv" in call for call in watch.calls)


def test_the_input_is_saved_and_not_its_columns():
    x, weight, bias = tensors(test_conv.CONFIGS[1])
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        custom_conv2d(x, weight, bias, 1, 1)
    assert set(saved) == {x.data_ptr(), weight.data_ptr()}


@pytest.mark.parametrize("layout", ["transposed", "channels_last", "strided"])
def test_non_contiguous_input_and_gradient(layout):
    x = torch.randn(2, 3, 8, 10, dtype=torch.float64)
    x = {"transposed": x.transpose(2, 3), "channels_last": x.to(memory_format=torch.channels_last),
         "strided": x[:, :, ::2, 1::2]}[layout]
    weight, bias = torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    direction = torch.randn(*F.conv2d(x, weight, bias, 2, 1).shape[:2],
                            *F.conv2d(x, weight, bias, 2, 1).shape[:1:-1], dtype=torch.float64).transpose(2, 3)
    results = []
    for convolve in (custom_conv2d, F.conv2d):
        leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, weight, bias)]
        output = convolve(*leaves, 2, 1)
        results.append([output, *torch.autograd.grad(output, leaves, direction)])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bias", [True, False])
def test_bf16_autocast_like_nn_conv2d(bias):
    ours, theirs = CustomConv2d(8, 16, 3, padding=1, bias=bias), nn.Conv2d(8, 16, 3, padding=1, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        x = torch.linspace(-1, 1, 2 * 8 * 6 * 7).view(2, 8, 6, 7).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        assert x.grad.dtype == layer.weight.grad.dtype == torch.float32
        results.append([output.float(), x.grad, layer.weight.grad])
    for mine, expected in zip(*results):
        torch.testing.assert_close(mine, expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


def test_double_precision_stays_double_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert custom_conv2d(*tensors(test_conv.CONFIGS[1])).dtype == torch.float64


def test_an_in_place_relu_may_follow():
    network = nn.Sequential(CustomConv2d(3, 4, 3), nn.ReLU(inplace=True))
    network(torch.randn(1, 3, 5, 5)).sum().backward()
    assert network[0].weight.grad is not None


@pytest.mark.parametrize(("x", "padding", "message"), [
    ((1, 2, 5, 5), 0, "3 channels"), ((3, 5, 5), 0, "3 channels"), ((1, 3, 2, 9), 0, "larger than the input")])
def test_shapes_that_do_not_go_together(x, padding, message):
    with pytest.raises(ValueError, match=message):
        custom_conv2d(torch.randn(x), torch.randn(4, 3, 3, 3), None, 1, padding)


def test_the_module_starts_from_the_same_weights_as_nn_conv2d():
    torch.manual_seed(5)
    ours = CustomConv2d(3, 4, 3)
    torch.manual_seed(5)
    theirs = nn.Conv2d(3, 4, 3)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("arguments", [{"kernel_size": (3, 3)}, {"kernel_size": 3, "stride": (1, 2)},
                                       {"kernel_size": 3, "groups": 3}, {"kernel_size": 3, "dilation": 2}])
def test_the_module_refuses_what_it_cannot_do(arguments):
    with pytest.raises(ValueError, match="CustomConv2d"):
        CustomConv2d(3, 3, **arguments)


# ------------------------------------------------------------------------------------------- test_conv.py

FIGURE_4 = """Using device: cpu
Check Fprop ...
Fprop testing passed
Check Bprop ...
Bprop testing passed
Check nn.module wrapper ...
All passed! End of testing.
"""


def test_test_conv_prints_the_lines_of_figure_4():
    done = subprocess.run([sys.executable, "test_conv.py"], cwd=CODE, capture_output=True, text=True,
                          env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""})
    assert (done.returncode, done.stdout) == (0, FIGURE_4)


def flipped(x, w, b, s=1, p=0):
    return F.conv2d(x, w.flip(2, 3), b, s, p)


def no_bias(x, w, b, s=1, p=0):
    return F.conv2d(x, w, None, s, p)


def bias_needed(x, w, b, s=1, p=0):
    return F.conv2d(x, w, None, s, p) + b.view(-1, 1, 1)


def stride_ignored(x, w, b, s=1, p=0):
    return F.conv2d(x, w, b, 1, p)


def square(x, w, b, s=1, p=0):
    return F.conv2d(x, w, b, s, p).reshape(len(x), len(w), -1, (x.shape[2] + 2 * p - w.shape[2]) // s + 1)


def no_gradient(x, w, b, s=1, p=0):
    return F.conv2d(x.detach(), w, b, s, p)


def half_gradient(x, w, b, s=1, p=0):
    return F.conv2d(x, w, b, s, p) / 2 + F.conv2d(x, w.detach(), b, s, p) / 2


class Textbook(torch.autograd.Function):
    """A right convolution with F.conv2d for its forward pass; the mistakes are in backward."""

    @staticmethod
    def forward(ctx, x, w, b, s=1, p=0):
        ctx.save_for_backward(x, w)
        ctx.geometry = s, p
        return F.conv2d(x, w, b, s, p)

    @staticmethod
    def gradients(ctx, grad):
        (x, w), (s, p) = ctx.saved_tensors, ctx.geometry
        return (torch.nn.grad.conv2d_input(x.shape, w, grad, s, p), torch.nn.grad.conv2d_weight(x, w.shape, grad, s, p),
                grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None)


class InputNeedsWeight(Textbook):
    @staticmethod
    def backward(ctx, grad):
        found = Textbook.gradients(ctx, grad)
        return found if ctx.needs_input_grad[1] else (None, *found[1:])


class WeightNeedsInput(Textbook):
    @staticmethod
    def backward(ctx, grad):
        dx, dw, *rest = Textbook.gradients(ctx, grad)
        return dx, dw if ctx.needs_input_grad[0] else None, *rest


class ContiguousOnly(Textbook):
    @staticmethod
    def backward(ctx, grad):
        return Textbook.gradients(ctx, grad.view(len(grad), grad.shape[1], -1).view(grad.shape))


class LastOnesGeometry(Textbook):
    @staticmethod
    def forward(ctx, x, w, b, s=1, p=0):
        LastOnesGeometry.geometry = s, p
        return Textbook.forward(ctx, x, w, b, s, p)

    @staticmethod
    def backward(ctx, grad):
        ctx.geometry = LastOnesGeometry.geometry
        return Textbook.gradients(ctx, grad)


class CallsConvolution(Textbook):
    @staticmethod
    def backward(ctx, grad):
        return Textbook.gradients(ctx, grad)


class Doubles(Textbook):
    """float64 inside and, by mistake, outside."""

    @staticmethod
    def forward(ctx, x, w, b, s=1, p=0):
        ctx.geometry = s, p
        ctx.save_for_backward(x, w)
        return custom_conv2d(x.double(), w.double(), None if b is None else b.double(), s, p)

    @staticmethod
    def backward(ctx, grad):
        return Textbook.gradients(ctx, grad.to(ctx.saved_tensors[0].dtype))


@pytest.mark.parametrize(("wrong", "reason"), [
    (InputNeedsWeight, "the gradient of the input, with the other gradients not needed, is None"),
    (WeightNeedsInput, "the gradient of the weight, with the other gradients not needed, is None"),
    (ContiguousOnly, "view size is not compatible"), (LastOnesGeometry, "Checked: Two convolutions in one graph"),
    (CallsConvolution, "convolution.* is a convolution function"),
    (Doubles, "output is torch.float64 for an input in float32")])
def test_test_conv_catches_mistakes_of_backward(wrong, reason, monkeypatch, capsys):
    """Frozen tensors, gradients that are not contiguous, two layers in one graph, forbidden functions, dtypes."""
    monkeypatch.setattr(test_conv, "custom_conv2d", wrong.apply)
    with pytest.raises(SystemExit) as stop:
        test_conv.main()
    printed = capsys.readouterr().out
    assert stop.value.code == 1
    assert re.search(reason, printed), printed
    assert "Fprop testing passed" in printed
    assert "Bprop testing passed" not in printed


def test_test_conv_names_the_students_line(monkeypatch, capsys):
    source = "def convolve(x, w, b, s=1, p=0):\n    return x.view(7)\n"
    namespace = {}
    exec(compile(source, "/somewhere/student_code.py", "exec"), namespace)
    monkeypatch.setattr(test_conv, "custom_conv2d", namespace["convolve"])
    with pytest.raises(SystemExit):
        test_conv.main()
    assert "\nat student_code.py:2, in convolve: " in capsys.readouterr().out


def unwritten(x, w, b, s=1, p=0):
    raise NotImplementedError("3.1.1: write the forward pass")


@pytest.mark.parametrize(("wrong", "step"), [
    (flipped, "Fprop"), (no_bias, "Fprop"), (bias_needed, "Fprop"), (stride_ignored, "Fprop"), (square, "Fprop"),
    (no_gradient, "Bprop"), (half_gradient, "Bprop"), (unwritten, "Fprop")])
def test_test_conv_exits_1_and_names_the_configuration(wrong, step, monkeypatch, capsys):
    monkeypatch.setattr(test_conv, "custom_conv2d", wrong)
    with pytest.raises(SystemExit) as stop:
        test_conv.main()
    printed = capsys.readouterr().out
    assert stop.value.code == 1
    assert "FAILED at configuration" in printed
    assert "Config(N=" in printed
    assert f"Check {step} ..." in printed
    assert f"{step} testing passed" not in printed


def test_at_least_ten_configurations_of_every_kind():
    configs = test_conv.CONFIGS
    assert len(configs) >= 10
    assert any(not c.bias for c in configs)
    assert any(c.H != c.W for c in configs)
    assert any(c.K == 1 for c in configs)
    assert any((c.H + 2 * c.padding - c.K) % c.stride for c in configs)
