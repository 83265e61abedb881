"""CS 5787 Homework 2, problem 0, in numbers: what writeup/batchnorm.md derives."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


def neuron(weight: Tensor, bias: Tensor, inputs: Tensor, epsilon: float = 1e-30) -> Tensor:
    """x hat of a batch M,D."""
    return F.batch_norm((inputs @ weight + bias)[:, None], None, None, training=True, eps=epsilon)[:, 0]


@pytest.fixture
def some():
    torch.manual_seed(0)
    weight, inputs = torch.randn(5).double(), torch.randn(40, 5).double()
    return weight.requires_grad_(), torch.tensor(0.7).double().requires_grad_(), inputs, torch.randn(40).double()


def test_the_formula(some):
    weight, bias, inputs, _ = some
    centred = inputs - inputs.mean(0)
    covariance = centred.t() @ centred / len(inputs)
    for epsilon in (1e-30, 1e-5, 0.3):
        expected = centred @ weight / (weight @ covariance @ weight + epsilon).sqrt()
        torch.testing.assert_close(neuron(weight, bias, inputs, epsilon), expected)


def test_the_bias_has_no_effect_and_no_gradient(some):
    weight, bias, inputs, wanted = some
    out = neuron(weight, bias, inputs, 1e-5)
    torch.testing.assert_close(out, neuron(weight, bias + 100, inputs, 1e-5))
    gradient, = torch.autograd.grad(((out - wanted) ** 2).sum(), bias)
    assert gradient.abs() < 1e-12


def test_the_scale_of_the_weights_cancels(some):
    weight, bias, inputs, _ = some
    out = neuron(weight, bias, inputs)
    for scale in (0.01, 3.0, 1000.0):
        torch.testing.assert_close(neuron(scale * weight, bias, inputs), out)
    torch.testing.assert_close(neuron(-2 * weight, bias, inputs), -out)
    assert not torch.allclose(neuron(0.001 * weight, bias, inputs, epsilon=1e-5), out, rtol=1e-2), "epsilon ends it"


def test_the_gradient_is_perpendicular_to_the_weights_and_shrinks_with_them(some):
    weight, bias, inputs, wanted = some

    def gradient(w: Tensor) -> Tensor:
        w = w.detach().requires_grad_()
        return torch.autograd.grad(((neuron(w, bias, inputs) - wanted) ** 2).sum(), w)[0]

    assert gradient(weight).norm() > 0.1
    assert (gradient(weight) @ weight).abs() < 1e-10
    torch.testing.assert_close(gradient(2 * weight), gradient(weight) / 2)
