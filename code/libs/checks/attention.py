"""3.2.1: Attention against nn.MultiheadAttention with the same weights, equations (2) and (3)."""

from collections.abc import Iterator
from itertools import permutations
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from libs.checks.registry import Check, closest, expect, expect_close, expect_shape, randomize


class Case(NamedTuple):
    """One input B,H,W,C and a number of heads."""

    B: int
    H: int
    W: int
    C: int
    num_heads: int


CASES = [Case(1, 1, 3, 4, num_heads=1),  # the simplest first, so that a later failure points to what it adds
         Case(1, 2, 2, 6, num_heads=2), Case(2, 3, 4, 12, num_heads=3), Case(3, 5, 2, 8, num_heads=8),
         Case(1, 1, 1, 6, num_heads=3), Case(2, 4, 4, 24, num_heads=4)]


def make(student: ModuleType, case: Case, qkv_bias: bool) -> nn.Module:
    """The student's Attention with weights of std 0.3."""
    attention = student.Attention(case.C, num_heads=case.num_heads, qkv_bias=qkv_bias)
    for name in ("qkv", "proj"):
        expect(isinstance(getattr(attention, name, None), nn.Linear), f"the given layer `{name}` in Attention", "none")
    expect(qkv_bias or attention.qkv.bias is None, "no bias in qkv for qkv_bias=False", "a bias")
    randomize(attention)
    return attention


def row_orders(dim: int, num_heads: int) -> Iterator[Tensor]:
    """Orders of qkv's rows that are q, k, v, each head by head, for every layout that a solution may choose."""
    rows = torch.arange(3 * dim)
    for order in map(list, permutations(range(3))):
        yield rows.view(3, dim)[order].flatten()
        yield rows.view(num_heads, 3, -1)[:, order].transpose(0, 1).flatten()


@torch.no_grad()
def oracle(attention: nn.Module, num_heads: int, rows: Tensor) -> nn.MultiheadAttention:
    """torch's module with the student's weights."""
    theirs = nn.MultiheadAttention(attention.proj.in_features, num_heads, batch_first=True)
    theirs.in_proj_weight.copy_(attention.qkv.weight[rows])
    theirs.in_proj_bias.copy_(torch.zeros(len(rows)) if attention.qkv.bias is None else attention.qkv.bias[rows])
    theirs.out_proj.load_state_dict(attention.proj.state_dict())
    return theirs


def attend(theirs: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Self-attention over all tokens of B,H,W,C."""
    tokens = x.flatten(1, 2)
    return theirs(tokens, tokens, tokens, need_weights=False)[0].view(x.shape)


def outputs(student: ModuleType, qkv_bias: bool) -> None:
    for case in CASES:
        attention, x = make(student, case, qkv_bias), torch.randn(case[:4])
        got = attention(x)
        expect_shape("the output", got, x.shape)
        expected = [attend(oracle(attention, case.num_heads, rows), x) for rows in row_orders(case.C, case.num_heads)]
        expect_close("the output", got, closest(got, expected), case)


def with_bias(student: ModuleType) -> None:
    outputs(student, qkv_bias=True)


def without_bias(student: ModuleType) -> None:
    outputs(student, qkv_bias=False)


def default_heads(student: ModuleType) -> None:
    """Attention(dim) has eight heads and a bias."""
    torch.manual_seed(1)
    attention, spelled_out = student.Attention(16), student.Attention(16, num_heads=8, qkv_bias=True)
    spelled_out.load_state_dict(attention.state_dict())
    x = torch.randn(2, 3, 2, 16)
    expect_close("the output of Attention(16)", attention(x), spelled_out(x))


def gradients(student: ModuleType) -> None:
    """The gradients of input and weights, at an input that is not contiguous."""
    case = CASES[2]
    attention = make(student, case, qkv_bias=True)
    x = torch.randn(case.B, case.W, case.H, case.C).transpose(1, 2).requires_grad_(True)
    direction = torch.randn(case[:4])
    output = attention(x)
    expect_shape("the output", output, x.shape)
    got = torch.autograd.grad((output * direction).sum(), [x, attention.proj.weight, attention.qkv.weight])
    candidates = []
    for rows in row_orders(case.C, case.num_heads):
        theirs = oracle(attention, case.num_heads, rows)
        wanted = [x, theirs.out_proj.weight, theirs.in_proj_weight]
        given = torch.autograd.grad((attend(theirs, x) * direction).sum(), wanted)
        candidates.append([*given[:2], torch.empty_like(given[2]).index_copy_(0, rows, given[2])])
    expected = min(candidates, key=lambda one: (one[0] - got[0]).abs().max().item())
    for name, ours, theirs in zip(("input", "weight of proj", "weight of qkv"), got, expected):
        expect_close(f"the gradient of the {name}", ours, theirs, case)


def large_scores(student: ModuleType) -> None:
    """Scores of some hundreds, whose exponentials are infinite in float32. Rounding grows with them: 1e-2."""
    case = CASES[2]
    attention, x = make(student, case, qkv_bias=True), 30 * torch.randn(case[:4])
    got = attention(x)
    expect_shape("the output for large scores", got, x.shape)
    expected = [attend(oracle(attention, case.num_heads, rows), x) for rows in row_orders(case.C, case.num_heads)]
    expect_close("the output for large scores", got, closest(got, expected), case, tolerance=1e-2)


FORMULA = ("(3): S = softmax(Q K^T / sqrt(D_q)) V, softmax row-wise (each query's weights over the keys sum to 1), D_q "
           "the dimension of one head; the heads run in parallel, are put side by side and go through proj")
CHECKS = [
    Check("the output is that of nn.MultiheadAttention", with_bias, FORMULA),
    Check("also without the bias of Q, K and V", without_bias,
          "qkv_bias=False leaves the bias of qkv out; proj keeps its own. " + FORMULA),
    Check("Attention(dim) has 8 heads", default_heads, "num_heads=8 and qkv_bias=True are the defaults"),
    Check("large scores stay finite", large_scores, "PyTorch's softmax does not overflow where exp() does"),
    Check("the gradients are those of nn.MultiheadAttention", gradients,
          "every step has to stay in the graph: no detach(), no .data, no torch.no_grad(); reshape() instead of view() "
          "where a tensor is not contiguous"),
]
