"""Convolution functions by name: the libraries' are found, names that only contain the word are not."""

import ast

import pytest
from autograder.syntax import forbidden_convolutions, suspicious_lines


def found(body: str, before: str = "") -> list[tuple[int, str]]:
    return forbidden_convolutions(ast.parse(f"{before}\nclass CustomConv2DFunction:\n    def forward(ctx, x, w):\n"
                                            f"        {body}\n"))


@pytest.mark.parametrize("body", [
    "F.conv2d(x, w)", "torch.conv1d(x, w)", "torch.nn.functional.conv_transpose2d(x, w)", "torch.conv_tbc(x, w, b)",
    "torch.ops.aten.convolution(x)", "torch._convolution(x)", "torch.ops.aten.mkldnn_convolution(x)",
    "torch.ops.aten.convolution_backward(x)", "torch.nn.grad.conv2d_input(x)", "torch.ops.aten.slow_conv3d_forward(x)",
    "nn.Conv2d(3, 4, 5)(x)", "nn.LazyConv2d(3, 4)(x)", "nn.ConvTranspose3d(1, 1, 1)(x)", "cv2.filter2D(x, -1, w)",
    "scipy.signal.fftconvolve(x, w)", "np.convolve(x, w)", "torch.ops.quantized.conv2d_relu(x)",
    "torch.cudnn_convolution(x)", "helper(x)"])
def test_convolution_functions_are_found(body):
    assert len(found(body, "def helper(x):\n    return F.conv2d(x, x)\n")) == 1


@pytest.mark.parametrize("body", [
    "conv2d_out = 1; return conv2d_out", "self.conv2d_shape(x)", "x.convert(w)", "ctx.conv2d_args", "my_conv2d(x)",
    "convolved(x)", "custom_conv2d(x)", "unfold_for_conv2d(x)", "converter(x)", "conv_output_size(x)"])
def test_names_that_only_contain_the_word_are_not(body):
    assert found(body, "from helpers import my_conv2d, unfold_for_conv2d\n") == []


@pytest.mark.parametrize("line", [
    "o.write(3, b'')", "o.fstat(3)", "from os import pread", "json.dumps = print", "setattr(nn, 'Linear', print)",
    "for nn.Linear in [print]: pass", "del json.loads", "'{0.__code__.co_code}'.format(print)", "name.format(print)",
    "getattr(print, '__co' + 'de__')", "cv2.dnn.readNet('x')", "import operator",
    "match print:\n    case object(__code__=c): pass"])
def test_lines_for_staff(line):
    assert len(suspicious_lines(ast.parse(f"import json, cv2\nimport os as o\nfrom torch import nn\n{line}\n"))) >= 1


@pytest.mark.parametrize("line", [
    "o.path.join('a', 'b')", "o.makedirs('logs')", "self.json = 1", "'{:.2f}'.format(1)", "x[0] = json.loads('1')",
    "getattr(nn, 'GELU')", "setattr(self, 'layer', 1)", "print('__main__')"])
def test_lines_that_are_not(line):
    assert suspicious_lines(ast.parse(f"import json\nimport os as o\nfrom torch import nn\n{line}\n")) == []
