"""3.2.1: TransformerBlock against nn.TransformerEncoderLayer, windows by what they separate, stochastic depth.

The block is built with torch's attention in place of the student's, so that a mistake there shows only in its own part.
"""

from functools import partial
from itertools import product
from types import ModuleType
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from libs.checks.registry import Check, closest, expect, expect_close, expect_shape, randomize, same

DIM, HEADS, RATIO = 8, 2, 2.5
SIZES = [(2, 4, 6), (1, 5, 3), (3, 2, 2)]  # B, H, W
WINDOWED = [(2, 4, 6), (3, 6, 3), (3, 4, 5), (4, 6, 3), (2, 1, 5)]  # window_size, H, W; the last three need padding


class TorchAttention(nn.Module):
    """nn.MultiheadAttention with the interface of Attention."""

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = True):
        super().__init__()
        self.num_heads = num_heads
        self.torch = nn.MultiheadAttention(dim, num_heads, bias=qkv_bias, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        return self.torch(tokens, tokens, tokens, need_weights=False)[0].view(x.shape)


class Layers(NamedTuple):
    """The layers of a block, whatever their names."""

    attention: TorchAttention
    norms: list[nn.LayerNorm]
    up: nn.Linear
    down: nn.Linear


def make(student: ModuleType, **settings) -> nn.Module:
    """The student's block with torch's attention and weights of std 0.3."""
    with patch.dict(student.TransformerBlock.__init__.__globals__, Attention=TorchAttention):  # also if it is given
        block = student.TransformerBlock(DIM, HEADS, mlp_ratio=RATIO, **settings)
    randomize(block)
    return block


def layers(block: nn.Module) -> Layers:
    """Raises Mismatch unless there are one Attention, two norms and an MLP of two linear layers."""
    attention = [module for module in block.modules() if isinstance(module, TorchAttention)]
    expect(len(attention) == 1, "one Attention in TransformerBlock", len(attention))
    norms = [module for module in block.modules() if isinstance(module, nn.LayerNorm)]
    expect(len(norms) == 2, "two norms in TransformerBlock", len(norms))
    inside = set(attention[0].modules())
    linear = [module for module in block.modules() if isinstance(module, nn.Linear) and module not in inside]
    sizes, hidden = sorted((one.in_features, one.out_features) for one in linear), int(DIM * RATIO)
    expect(sizes == [(DIM, hidden), (hidden, DIM)],
           f"an MLP from {DIM} to {hidden} to {DIM} channels for mlp_ratio={RATIO}", sizes)
    up, down = sorted(linear, key=lambda one: one.in_features)
    return Layers(attention[0], norms, up, down)


@torch.no_grad()
def oracle(block: nn.Module, first_norm: int, activation: str = "gelu", eps: float = 1e-5) -> nn.Module:
    """torch's pre-norm layer with the block's weights; the two norms may have been created in either order."""
    own = layers(block)
    theirs = nn.TransformerEncoderLayer(DIM, HEADS, own.up.out_features, dropout=0.0, activation=activation,
                                        layer_norm_eps=eps, batch_first=True, norm_first=True)
    theirs.self_attn.in_proj_bias.zero_()
    pairs = [(theirs.self_attn, own.attention.torch), (theirs.linear1, own.up), (theirs.linear2, own.down),
             (theirs.norm1, own.norms[first_norm]), (theirs.norm2, own.norms[1 - first_norm])]
    for target, source in pairs:
        target.load_state_dict(source.state_dict(), strict=False)  # in_proj_bias is missing for qkv_bias=False
    return theirs


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, DIM)


def expected_outputs(block: nn.Module, x: Tensor, **settings) -> list[Tensor]:
    return [oracle(block, first, **settings)(x.flatten(1, 2)).view(x.shape) for first in (0, 1)]


def global_attention(student: ModuleType) -> None:
    for size in SIZES:
        block, x = make(student), images(*size)
        before = x.clone()
        got = block(x)
        expect_shape("the output", got, x.shape)
        expect_close("the output", got, closest(got, expected_outputs(block, x)), f"B, H, W = {size}, window_size=0")
        expect(torch.equal(x, before), "the input to stay as it is", "a block that changes it in place")


def settings(student: ModuleType) -> None:
    """qkv_bias, act_layer and norm_layer reach the layers."""
    block = make(student, qkv_bias=False, act_layer=nn.ReLU, norm_layer=partial(nn.LayerNorm, eps=0.5))
    x = images(2, 3, 4)
    expect(layers(block).attention.torch.in_proj_bias is None, "Attention without bias for qkv_bias=False", "a bias")
    got = block(x)
    expect_close("the output", got, closest(got, expected_outputs(block, x, activation="relu", eps=0.5)),
                 "act_layer=nn.ReLU, norm_layer with eps=0.5, qkv_bias=False")


def gradients(student: ModuleType) -> None:
    block, x = make(student), images(2, 3, 4).requires_grad_(True)
    direction = torch.randn(x.shape)
    got, = torch.autograd.grad((block(x) * direction).sum(), x)
    given = [torch.autograd.grad((output * direction).sum(), x)[0] for output in expected_outputs(block, x)]
    expect_close("the gradient of the input", got, closest(got, given))


# ------------------------------------------------------------------------------------------------- windows


def separation(student: ModuleType) -> None:
    """A change of one token changes all outputs of its window, and no other."""
    for w, H, W in WINDOWED:
        block, x = make(student, window_size=w), images(1, H, W)
        before = block(x)
        expect_shape("the output", before, x.shape)
        for i, j in product({0, H - 1}, {0, W // 2, W - 1}):
            changed = x.clone()
            changed[:, i, j] += torch.randn(DIM)
            moved = ((block(changed) - before).abs().amax((0, 3)) > 1e-5 * before.abs().max())
            rows, columns = torch.meshgrid(torch.arange(H) // w, torch.arange(W) // w, indexing="ij")
            inside = (rows == i // w) & (columns == j // w)
            expect(torch.equal(moved, inside), f"a change of token ({i}, {j}) to reach the {inside.sum()} tokens of "
                   f"its window (window_size={w}, H={H}, W={W})",
                   f"{(moved & inside).sum()} of them and {(moved & ~inside).sum()} others")


def alone(student: ModuleType) -> None:
    """Each window gives what the block gives for that window by itself."""
    for w, H, W in WINDOWED:
        block, x = make(student, window_size=w), images(2, H, W)
        whole = block(x)
        expect_shape("the output", whole, x.shape)
        for i, j in product(range(0, H, w), range(0, W, w)):
            window = x[:, i:i + w, j:j + w]
            expect_close(f"the output of the window at row {i}, column {j}", whole[:, i:i + w, j:j + w], block(window),
                         f"window_size={w}, H={H}, W={W}; expected is the block's output for that window alone")


def one_window(student: ModuleType) -> None:
    """A window as large as the grid is global attention."""
    for w in (1, 2, 3):
        block, unbounded = make(student, window_size=w), make(student)
        unbounded.load_state_dict(block.state_dict())
        x = images(2, w, w)
        expect_close("the output", block(x), unbounded(x), f"window_size={w}, H=W={w}; expected is window_size=0")


@torch.no_grad()
def padding(student: ModuleType) -> None:
    """With equal scores attention is a mean. Padding with zeros makes it the sum over w * w tokens, zeros included.

    So the branch of a window with n tokens is n / (w * w) of the one without padding.
    """
    for w, H, W in ((2, 1, 1), (3, 2, 3), (4, 3, 2)):
        block, unbounded = make(student, window_size=w), make(student)
        own = layers(block)
        for tensor in (own.attention.torch.in_proj_weight[:2 * DIM], own.attention.torch.in_proj_bias,
                       own.attention.torch.out_proj.bias, own.down.weight, own.down.bias):
            tensor.zero_()
        unbounded.load_state_dict(block.state_dict())
        x = images(2, H, W)
        got = block(x)
        expect_shape("the output", got, x.shape)
        expect_close("the attention of a window padded with zeros", got - x, (unbounded(x) - x) * (H * W / w**2),
                     f"window_size={w}, H={H}, W={W}, all scores equal")


# ----------------------------------------------------------------------------------------- stochastic depth

RATE, SAMPLES = 0.25, 256


def same_samples() -> Tensor:
    return images(1, 1, 2).expand(SAMPLES, -1, -1, -1).clone()


@torch.no_grad()
def no_drop_in_evaluation(student: ModuleType) -> None:
    block, plain = make(student, drop_path=RATE).eval(), make(student).eval()
    plain.load_state_dict(block.state_dict())
    x = same_samples()
    expect_close("the output in evaluation mode", block(x), plain(x), f"drop_path={RATE}; expected is drop_path=0")


@torch.no_grad()
def drop_each_branch(student: ModuleType) -> None:
    """With the other branch zeroed, a sample is x (dropped) or x + branch / (1 - p): within five deviations of p."""
    for name in ("attention", "MLP"):
        block, x = make(student, drop_path=RATE), same_samples()
        own = layers(block)
        last = own.down if name == "attention" else own.attention.torch.out_proj
        last.weight.zero_()
        last.bias.zero_()
        branch = block.eval()(x) - x
        got = block.train()(x) - x
        expect_shape("the output in training mode", got, x.shape)
        dropped = (got.abs().amax((1, 2, 3)) < 1e-5)
        kept = (got - branch / (1 - RATE)).abs().amax((1, 2, 3)) < 1e-4 * branch.abs().max()
        expect((dropped | kept).all(), f"each sample's {name} branch to be 0 or 1 / (1 - p) times itself in training, "
               f"p={RATE}", f"{(~(dropped | kept)).sum()} of {SAMPLES} samples that are neither")
        expect(abs(dropped.float().mean().item() - RATE) < 0.135,
               f"about {RATE:.0%} of the samples without the {name} branch in training",
               f"{dropped.float().mean().item():.0%}")


@torch.no_grad()
def drop_independently(student: ModuleType) -> None:
    """Equal samples have four outcomes: each of the two branches is kept or dropped."""
    block, x = make(student, drop_path=0.5).train(), same_samples()
    outcomes: list[Tensor] = []
    for sample in block(x):
        if not any(same(sample, other) for other in outcomes):
            outcomes.append(sample)
        expect(len(outcomes) <= 4, "at most four different outputs for equal samples in training", "more")
    expect(len(outcomes) == 4, "four different outputs for equal samples in training", len(outcomes))
    expect(any(same(x[0], one) for one in outcomes), "the input itself where both branches are dropped",
           "no sample that is its input")


BRANCHES = ("two residual branches, the second one after the first: attention, then the MLP, each with a norm of its "
            "own at its start and drop path at its end; the shortcut around a branch is neither normalised nor dropped")
CHECKS = [
    Check("window_size 0 is nn.TransformerEncoderLayer(norm_first=True)", global_attention, "pre-norm: " + BRANCHES),
    Check("its arguments reach the layers", settings,
          "qkv_bias belongs to Attention, act_layer and mlp_ratio to the MLP, norm_layer makes both norms"),
    Check("the input's gradient, too", gradients, "no detach(), no .data, no torch.no_grad() in the block"),
    Check("tokens see their window only", separation,
          "local window self-attention: window_size > 0 limits the attention within windows of that size; "
          "custom_blocks.py cuts into windows and puts them together again"),
    Check("a window gives what it gives alone", alone,
          "the helpers of custom_blocks.py return the padded size, and need it and the size before padding to go back"),
    Check("a window as large as the grid is global attention", one_window,
          "window_size > 0 changes which tokens attend to each other, and nothing else"),
    Check("padding is zeros after the norm", padding,
          "normalise first, cut into windows second: the padding that custom_blocks.py adds stays zero"),
    Check("evaluation mode drops nothing", no_drop_in_evaluation, "stochastic depth belongs to training: use DropPath"),
    Check("training drops each branch of whole samples", drop_each_branch, "DropPath, in both branches: " + BRANCHES),
    Check("the branches are dropped independently", drop_independently, "DropPath draws anew each time: " + BRANCHES),
]
