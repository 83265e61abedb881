"""Scenarios of convolution, attention and block; `make(name, ...)` builds a class of the solution, weights fixed."""

import torch
from torch import Tensor, nn

from autograder.mutation.probe.common import Chance, Observed, passes, prefixed, rand, reloads, train

# N, Ci, H, W, Co, K, stride, padding, bias
GEOMETRIES = [(2, 3, 7, 9, 4, 3, 1, 1, True), (1, 2, 8, 6, 5, 3, 2, 0, True), (3, 4, 5, 5, 2, 1, 1, 0, False),
              (2, 3, 12, 10, 4, 5, 3, 2, True), (1, 1, 4, 7, 1, 4, 1, 3, True), (2, 3, 16, 16, 6, 7, 2, 3, True),
              (5, 2, 3, 3, 3, 3, 1, 0, True), (2, 2, 6, 8, 3, 2, 2, 1, False)]


def conv_geometries(student, make) -> Observed:
    for i, (N, Ci, H, W, Co, K, stride, padding, bias) in enumerate(GEOMETRIES):
        x, w = rand(N, Ci, H, W, seed=i), rand(Co, Ci, K, K, seed=i + 50)
        yield from prefixed(f"{i}", _convolve(student, x, w, rand(Co, seed=i + 90) if bias else None, stride, padding))
    x, w, b = rand(2, 3, 6, 7), rand(4, 3, 3, 3, seed=1), rand(4, seed=2)
    yield "defaults", student.custom_conv2d(x, w, b)
    yield from prefixed("large", _convolve(student, 1e4 * x, 1e3 * w, b, 1, 1))


def _convolve(student, x: Tensor, w: Tensor, b: Tensor | None, *geometry, frozen: str = "") -> Observed:
    given = {name: value.clone().requires_grad_(name not in frozen)
             for name, value in (("x", x), ("w", w), ("b", b)) if value is not None}
    y = student.custom_conv2d(given["x"], given["w"], given.get("b"), *geometry)
    yield "y", y.detach().clone()
    y.backward(rand(*y.shape, seed=7))
    for name, value in given.items():
        yield f"d{name}", value.grad if value.requires_grad else "frozen"
        yield f"{name} unchanged", torch.equal(value.detach(), {"x": x, "w": w, "b": b}[name])


def conv_frozen(student, make) -> Observed:
    x, w, b = rand(2, 3, 6, 8), rand(4, 3, 3, 3, seed=1), rand(4, seed=2)
    for frozen in ("x", "w", "b", "xw", "xb", "wb"):
        yield from prefixed(frozen, _convolve(student, x, w, b, 1, 1, frozen=frozen))
    with torch.no_grad():
        yield "no grad", student.custom_conv2d(x, w, b, 2, 1)


def conv_in_networks(student, make) -> Observed:
    """Two layers of different geometry in one graph, ReLU in place behind each, trained for three steps."""
    torch.manual_seed(0)
    net = nn.Sequential(student.CustomConv2d(3, 4, 5, stride=2, padding=2), nn.ReLU(inplace=True),
                        student.CustomConv2d(4, 3, 3, padding=1, bias=False), nn.ReLU(inplace=True),
                        student.CustomConv2d(3, 2, 1))
    for i, parameter in enumerate(net.parameters()):
        parameter.data = rand(*parameter.shape, seed=i, scale=0.4)
    yield from passes(net, rand(2, 3, 12, 10))
    net[0].weight.requires_grad_(False)
    yield from prefixed("frozen", passes(net, rand(1, 3, 9, 9, seed=4)))
    net[0].weight.requires_grad_(True)
    yield from train(net, [rand(n, 3, 10, 12, seed=n) for n in (4, 4, 1)])
    x, w = rand(2, 3, 8, 8).requires_grad_(True), rand(3, 3, 3, 3, seed=1).requires_grad_(True)
    first = student.custom_conv2d(x, w, None, 1, 1)
    second = student.custom_conv2d(x, w, None, 2, 0)  # before the first one's backward pass
    yield "used twice", torch.autograd.grad(first.square().sum() + second.square().sum(), [x, w])[1]
    yield "after another", torch.autograd.grad(student.custom_conv2d(x, w, None, 1, 1).square().sum(), x)[0]


ATTENTIONS = [(12, 3, True, 2, 3, 4), (8, 8, True, 1, 5, 2), (16, 1, True, 3, 2, 2), (12, 4, False, 2, 1, 3),
              (64, 8, True, 1, 4, 4), (8, 2, True, 2, 1, 1), (24, 3, True, 5, 4, 4)]


def attention_values(student, make) -> Observed:
    for i, (dim, heads, bias, B, H, W) in enumerate(ATTENTIONS):
        layer = make("Attention", dim, num_heads=heads, qkv_bias=bias)
        for mode in (True, False):
            yield from prefixed(f"{i} {mode}", passes(layer.train(mode), rand(B, H, W, dim, seed=i)))
    with torch.no_grad():
        yield "defaults", make("Attention", 16)(rand(2, 3, 2, 16))


def attention_in_use(student, make) -> Observed:
    """Other batches and sizes in turn, two layers side by side, large scores, training, save and reload."""
    layer, other = make("Attention", 12, num_heads=3), make("Attention", 8, num_heads=2, qkv_bias=False)
    for i, (B, H, W) in enumerate([(4, 3, 3), (1, 3, 3), (3, 2, 5), (4, 3, 3)]):
        yield from prefixed(f"call {i}", passes(layer, rand(B, H, W, 12, seed=i)))
        yield f"other {i}", other(rand(B, H, W, 8, seed=i)).detach()
    large = make("Attention", 12, num_heads=3, gain=12.0)
    yield from prefixed("large", passes(large, rand(2, 3, 4, 12, scale=3.0)))
    yield from train(layer, [rand(n, 3, 3, 12, seed=n) for n in (4, 4, 1)])
    yield from reloads(lambda: student.Attention(12, num_heads=3), rand(2, 3, 4, 12))


class ScaledTanh(nn.Module):
    """An activation that no solution has built in."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(0.5 * x)


def coarse_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=0.3)


# dim, heads, ratio, bias, norm, activation, window, B, H, W
BLOCKS = [(12, 3, 2.0, True, nn.LayerNorm, nn.GELU, 0, 2, 3, 4), (12, 3, 4.0, True, nn.LayerNorm, nn.GELU, 2, 2, 4, 6),
          (8, 2, 1.5, False, nn.LayerNorm, nn.ReLU, 3, 1, 5, 7), (8, 2, 2.0, True, coarse_norm, ScaledTanh, 2, 3, 3, 2),
          (12, 4, 3.0, True, coarse_norm, nn.GELU, 4, 1, 3, 3), (8, 1, 0.5, True, nn.LayerNorm, ScaledTanh, 1, 2, 2, 3),
          (8, 2, 4.0, True, nn.LayerNorm, nn.GELU, 0, 1, 1, 1), (12, 3, 2.0, True, nn.LayerNorm, nn.GELU, 3, 4, 6, 3)]


def block_values(student, make) -> Observed:
    for i, (dim, heads, ratio, bias, norm, act, window, B, H, W) in enumerate(BLOCKS):
        block = make("TransformerBlock", dim, heads, mlp_ratio=ratio, qkv_bias=bias, norm_layer=norm, act_layer=act,
                     window_size=window)
        for mode in (True, False):
            yield from prefixed(f"{i} {mode}", passes(block.train(mode), rand(B, H, W, dim, seed=i)))
    block = make("TransformerBlock", 8, 2, 2.0, True, 0.5, nn.LayerNorm, nn.GELU, 2).eval()
    yield from prefixed("by position", passes(block, rand(3, 4, 4, 8)))
    yield "defaults", make("TransformerBlock", 16, 2)(rand(1, 3, 3, 16)).detach()


def block_in_use(student, make) -> Observed:
    block = make("TransformerBlock", 12, 3, mlp_ratio=2.0, window_size=2)
    other = make("TransformerBlock", 12, 3, mlp_ratio=2.0, window_size=3)
    for i, (B, H, W) in enumerate([(4, 4, 4), (1, 3, 5), (3, 4, 4), (4, 4, 4)]):
        yield from prefixed(f"call {i}", passes(block, rand(B, H, W, 12, seed=i)))
        yield f"other {i}", other(rand(B, H, W, 12, seed=i)).detach()
    yield from train(block, [rand(n, 4, 5, 12, seed=n) for n in (4, 4, 1)])
    yield from prefixed("large", passes(block, rand(2, 4, 4, 12, scale=1e3)))
    yield from reloads(lambda: student.TransformerBlock(12, 3, window_size=2), rand(2, 4, 4, 12))


def block_drop_path(student, make) -> Observed:
    """One sample many times: the different results, and how often each comes. Independent of the random stream."""
    for rate, window in ((0.5, 0), (0.2, 2), (0.8, 2)):
        block = make("TransformerBlock", 8, 2, mlp_ratio=2.0, drop_path=rate, window_size=window).train()
        torch.manual_seed(5)
        with torch.no_grad():
            y = block(rand(1, 4, 4, 8).expand(800, -1, -1, -1).contiguous()).flatten(1)
        yield from prefixed(f"{rate}", outcomes(y))
        yield from prefixed(f"{rate} eval", passes(block.eval(), rand(3, 4, 4, 8)))
        if window:
            yield from prefixed(f"{rate} one", outcomes(torch.cat([block.train()(rand(1, 4, 4, 8)).detach().flatten(1)
                                                                   for _ in range(60)])))


def outcomes(rows: Tensor) -> Observed:
    """The different rows, in the order of a projection, and the share of each."""
    order = (rows @ rand(rows.shape[1], seed=3)).sort()
    cuts = (order.values.diff() > 1e-3 * max(1.0, float(order.values.abs().max()))).nonzero().flatten() + 1
    groups = order.indices.tensor_split(cuts)
    yield "number of outcomes", len(groups) if len(groups) < 20 else "many"
    if len(groups) < 20:
        yield "outcomes", torch.stack([rows[group[0]] for group in groups])
        for i, group in enumerate(groups):
            yield f"share {i}", Chance(len(group) / len(rows), len(rows))


SCENARIOS = {"convolution": [conv_geometries, conv_frozen, conv_in_networks],
             "attention": [attention_values, attention_in_use],
             "block": [block_values, block_in_use, block_drop_path]}
