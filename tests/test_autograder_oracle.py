"""The grader's NumPy formulas against torch, its comparisons, and its wire format."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from autograder import oracle, wire
from autograder.compare import CheckFailed, expect_close
from torch import nn

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("K", "stride", "padding", "bias"), [(3, 1, 0, True), (3, 2, 1, False), (1, 2, 0, True),
                                                              (7, 2, 3, True), (2, 3, 1, False), (4, 1, 3, True)])
def test_convolution(K, stride, padding, bias):
    x, w, b = RNG.normal(size=(2, 3, 8, 9)), RNG.normal(size=(4, 3, K, K)), RNG.normal(size=4) if bias else None
    tensors = [None if array is None else torch.tensor(array, requires_grad=True) for array in (x, w, b)]
    y = F.conv2d(*tensors, stride, padding)
    np.testing.assert_allclose(oracle.convolve(x, w, b, stride, padding), y.detach(), atol=1e-12)
    dy = RNG.normal(size=y.shape)
    y.backward(torch.tensor(dy))
    ours = oracle.convolve_backward(x, w, dy, stride, padding)
    for name, tensor in zip(("dx", "dw", "db"), tensors):
        if tensor is not None:
            np.testing.assert_allclose(ours[name], tensor.grad, atol=1e-11)


def test_attention_and_block():
    """Against nn.MultiheadAttention and F.layer_norm."""
    B, H, W, C, heads = 2, 3, 4, 6, 2
    shapes = {"qkv.weight": (3 * C, C), "qkv.bias": (3 * C,), "proj.weight": (C, C), "proj.bias": (C,),
              "norm1.weight": (C,), "norm1.bias": (C,), "norm2.weight": (C,), "norm2.bias": (C,),
              "fc1.weight": (10, C), "fc1.bias": (10,), "fc2.weight": (C, 10), "fc2.bias": (C,)}
    weights = {name: RNG.normal(size=shape) * 0.4 for name, shape in shapes.items()}
    theirs = nn.MultiheadAttention(C, heads, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict({ours: torch.tensor(weights[name]) for ours, name in (
        ("in_proj_weight", "qkv.weight"), ("in_proj_bias", "qkv.bias"), ("out_proj.weight", "proj.weight"),
        ("out_proj.bias", "proj.bias"))})
    x = RNG.normal(size=(B, H, W, C))
    given = torch.tensor(x).flatten(1, 2)
    attended = theirs(given, given, given, need_weights=False)[0].view(B, H, W, C).detach()
    np.testing.assert_allclose(oracle.attention(x, weights, heads), attended, atol=1e-12)

    t = {name: torch.tensor(array) for name, array in weights.items()}
    y = torch.tensor(x)
    normed = F.layer_norm(y, (C,), t["norm1.weight"], t["norm1.bias"]).flatten(1, 2)
    y = y + theirs(normed, normed, normed, need_weights=False)[0].view(B, H, W, C)
    hidden = F.gelu(F.linear(F.layer_norm(y, (C,), t["norm2.weight"], t["norm2.bias"]), t["fc1.weight"], t["fc1.bias"]))
    y = y + F.linear(hidden, t["fc2.weight"], t["fc2.bias"])
    np.testing.assert_allclose(oracle.transformer_block(x, weights, heads, 0), y.detach(), atol=1e-10)
    # One window of full size is global attention; in windows of one token each token gets its own value.
    square = x[:, :, :3]
    np.testing.assert_allclose(oracle.windowed_attention(square, weights, heads, 3),
                               oracle.attention(square, weights, heads))
    values = oracle.split_heads(x, weights, heads)[2]
    alone = oracle.linear(values.transpose(0, 2, 1, 3).reshape(x.shape), weights, "proj")
    np.testing.assert_allclose(oracle.windowed_attention(x, weights, heads, 1), alone, atol=1e-12)


def test_quadratic_net_gradient_against_autograd():
    from autograder.attack_path import Case
    from autograder.worker.attacks import QuadraticNet
    case = Case(np.random.default_rng(1), curvature=1.5)
    net = QuadraticNet(case.arrays).eval()
    x = torch.tensor(case.x, requires_grad=True)
    logits = net(x)
    labels = logits.argmin(1)
    gradient, = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), x)
    np.testing.assert_allclose(case.net.logits(case.x), logits.detach(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(case.net.gradient(case.x, labels.numpy()), gradient, rtol=1e-3, atol=1e-4)


def test_expect_close_describes_the_difference():
    right = np.arange(6.0).reshape(2, 3)
    expect_close("y", right.copy(), right)
    for got, words in ((None, "is missing: None"), (right.T, "shape 3x2, expected 2x3"),
                       (right * np.nan, r"NaN.*\(0, 0\)"),
                       (right + [[0, 0, 0], [0, 1, 0]], r"in 1 of 6.*\(1, 1\) is 5, expected 4"),
                       (2 * right, "It is doubled")):
        with pytest.raises(CheckFailed, match=words):
            expect_close("y", got, right, mistakes=[("It is doubled", 2 * right)])


def test_frames_round_trip_and_malformed_ones_are_refused():
    arrays = {"x": RNG.normal(size=(2, 0, 3)), "y": np.array(3, dtype=np.int64), "z": np.ones((2, 2), bool)[:, ::-1]}
    frame = wire.pack({"id": 1}, arrays)
    head, back = wire.unpack(io.BytesIO(frame).read)
    assert head == {"id": 1}
    assert all(np.array_equal(back[name], array) and back[name].dtype == array.dtype for name, array in arrays.items())

    def framed(header: bytes) -> bytes:
        return len(header).to_bytes(8, "little") + header
    array = b'{"head": {}, "arrays": [["x", %s]]}'
    for bad in (b"\xff" * 8, framed(b"[]"), framed(b"nonsense"), framed(array % b'"object", [1]'),
                framed(array % b'"float64", [-1]'), framed(array % b'"float64", [99999, 99999]'),
                framed(b'{"head": {"a": NaN}, "arrays": []}'), framed(b'{"head": 1, "arrays": []}')):
        with pytest.raises(wire.BadFrame):
            wire.unpack(io.BytesIO(bad + b"\0" * 64).read)


def test_a_frame_without_the_right_signature_is_refused():
    key, frame = bytes(range(32)), wire.pack({"id": 1}, {"x": np.arange(3.0)})
    signed = wire.signer(key)(frame)
    assert wire.unpack_signed(io.BytesIO(signed).read, key)[0] == {"id": 1}
    changed = bytearray(signed)
    changed[-40] ^= 1  # a byte of x
    for bad in (frame + bytes(wire.TAG), bytes(changed), wire.signer(bytes(32))(frame)):
        with pytest.raises(wire.BadFrame, match="not signed"):
            wire.unpack_signed(io.BytesIO(bad).read, key)
