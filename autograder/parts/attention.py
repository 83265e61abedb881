"""3.2.1: multi-head self-attention. Weights have std 0.3: with 0.02 a missing scale would be below the tolerance."""

from itertools import permutations, product

import numpy as np

from autograder import oracle, rounding
from autograder.checks import check
from autograder.compare import CheckFailed, expect_close, is_close
from autograder.parts.invariants import (
    Unused,
    expect_gradients,
    expect_no_chance,
    expect_no_memory,
    expect_reload,
    expect_speed,
)

LAYOUTS = ("3hd", "h3d", "3dh", "hd3", "dh3", "d3h")
WHAT = "Attention"


class Case:
    """Input and weights of one Attention layer: float32 numbers, kept in float64 for the oracle."""

    def __init__(self, rng, heads=3, bias=True, B=2, H=3, W=4, width=4, scale=0.3):
        dim = heads * width
        self.heads, self.bias, self.rng = heads, bias, rng
        self.x = rounding.rounded(rng.normal(size=(B, H, W, dim)))
        shapes = {"qkv.weight": (3 * dim, dim), "qkv.bias": (3 * dim,), "proj.weight": (dim, dim), "proj.bias": (dim,)}
        self.weights = {name: rounding.rounded(rng.normal(size=size) * scale) for name, size in shapes.items()}
        if not bias:
            del self.weights["qkv.bias"]

    def __str__(self) -> str:
        B, H, W, C = self.x.shape
        return f"B={B}, H={H}, W={W}, dim={C}, {self.heads} heads, qkv_bias={self.bias}"

    def run(self, ask, defaults: bool = False) -> np.ndarray:
        """The student's output. `defaults`: num_heads and qkv_bias are left out."""
        build = {"dim": self.x.shape[-1], **({} if defaults else {"num_heads": self.heads, "qkv_bias": self.bias})}
        facts, results = ask("run_attention", rounding.single({"x": self.x, **self.weights}), build=build)
        if facts["bias"] and not self.bias:
            raise CheckFailed("with qkv_bias=False the layer of q, k and v has a bias")
        return results["y"]

    def expected(self, **keywords) -> np.ndarray:
        return oracle.attention(self.x, self.weights, self.heads, **keywords)

    def tolerance(self, **keywords) -> float:
        return rounding.of_composite(lambda data: oracle.attention(
            data["x"], data, self.heads, **keywords), {"x": self.x, **self.weights}, self.x.shape[-1],
            self.rng)

    def layout(self, got: np.ndarray) -> dict | None:
        """The channel order of heads, q, k and v for which `got` is right, as oracle.attention's keywords, if any is.

        Any order is accepted.
        """
        within = self.tolerance()
        for layout, order, merge in product(LAYOUTS, permutations("qkv"), ("hd", "dh")):
            keywords = {"layout": layout, "order": "".join(order), "merge": merge}
            if is_close(got, self.expected(**keywords), within=within):
                return keywords
        return None

    def mistakes(self):
        """(sentence, keywords of oracle.attention) of known mistakes that do not depend on the sizes."""
        width = self.x.shape[-1] // self.heads
        for layout in LAYOUTS:
            yield "Q K^T is not divided by the square root of D_q", {"layout": layout, "scale": 1.0}
            yield "Q K^T is multiplied by the square root of D_q, not divided", {"layout": layout, "scale": width**0.5}
            yield "Q K^T is divided by D_q, not by its square root", {"layout": layout, "scale": 1 / width}
            yield ("Q K^T is divided by the square root of all channels, not of those of one head",
                   {"layout": layout, "scale": self.x.shape[-1] ** -0.5})
            yield ("The softmax is over the queries: it must be over the keys, the last dimension",
                   {"layout": layout, "axis": -2})
            yield "The softmax is over the heads: it must be over the keys, the last dimension", \
                {"layout": layout, "axis": 1}
            yield "The output projection is missing", {"layout": layout, "proj": False}
            yield "The heads are merged without moving the token axis first: permute before the reshape", \
                {"layout": layout, "merge": "none"}
        for merge in ("hd", "none"):
            yield ("q, k and v come from a reshape to 3, B, heads, T, d: reshape to B, T, 3, heads, d first, then "
                   "permute", {"layout": "scrambled", "merge": merge})

    def sentences(self):
        """(sentence, output) of known mistakes, for expect_close."""
        for sentence, keywords in self.mistakes():
            yield sentence, self.expected(**keywords)
        yield ("It is single-head attention: the channels are not split into heads",
               oracle.attention(self.x, self.weights, 1))
        without = {name: array for name, array in self.weights.items() if name != "proj.bias"}
        yield "The bias of the projection is missing", oracle.attention(self.x, without, self.heads)


def compare(ask, case: Case, excused: frozenset[str] = frozenset(), defaults: bool = False) -> None:
    """Raise CheckFailed unless the output is right, or wrong by a mistake whose sentence is `excused`."""
    got = case.run(ask, defaults)
    if case.layout(got) is not None:
        return
    for sentence, keywords in case.mistakes():
        if sentence in excused and is_close(got, case.expected(**keywords), 3e-5):
            return
    expect_close("the output of Attention", got, case.expected(), str(case), case.sentences(), within=case.tolerance())


def identical_tokens(rng, **settings) -> Case:
    """A case with identical tokens, where the output does not depend on scores, scale and softmax."""
    case = Case(rng, **settings)
    case.x[:] = case.x[:, :1, :1]
    return case


def known_mistakes(ask, case: Case) -> frozenset[str]:
    """The sentences of the known mistakes that explain the output of `case`, none if it is right."""
    got = case.run(ask)
    if case.layout(got) is not None:
        return frozenset()
    return frozenset(
        sentence for sentence, keywords in case.mistakes() if is_close(got, case.expected(**keywords), 3e-5)
    )


@check("attention", "values, heads and projection, on identical tokens", weight=2)
def values(ask, rng):
    compare(ask, identical_tokens(rng, heads=1, width=6))
    compare(ask, identical_tokens(rng, heads=3))


@check("attention", "one head: scores, scale, softmax", weight=2)
def single(ask, rng):
    compare(ask, Case(rng, heads=1, width=5), known_mistakes(ask, identical_tokens(rng, heads=1, width=5)))


@check("attention", "several heads: scores, scale, softmax", weight=3)
def several(ask, rng):
    """A mistake that the output of one head shows, or that of identical tokens, does not count again."""
    excused = known_mistakes(ask, Case(rng, heads=1, width=5)) | known_mistakes(ask, identical_tokens(rng, heads=3))
    compare(ask, Case(rng, heads=3), excused)
    compare(ask, Case(rng, heads=2, width=8, H=4, W=2), excused)


@check("attention", "with and without the bias of q, k, v; 8 heads by default", weight=1)
def no_bias(ask, rng):
    excused = known_mistakes(ask, identical_tokens(rng, heads=2))
    compare(ask, identical_tokens(rng, heads=2, bias=False), excused)
    case = Case(rng, heads=8, width=2)
    if not wrong(ask, case):  # `several` judges heads
        compare(ask, case, excused, defaults=True)


@check("attention", "other heights and widths, down to a single token", weight=1)
def sizes(ask, rng):
    excused = known_mistakes(ask, identical_tokens(rng, heads=2))
    for H, W in ((1, 1), (1, 6), (5, 2)):
        compare(ask, identical_tokens(rng, heads=2, H=H, W=W, B=3), excused)


@check("attention", "large scores, as after training: no overflow", weight=1, beside=True)
def large_scores(ask, rng):
    """Scores of hundreds: exp overflows in float32 from 88 on, unless the largest of each row is subtracted."""
    usual, case = Case(rng), Case(rng, scale=2.5, width=6)
    layout = usual.layout(usual.run(ask))
    if layout is None:
        return  # judged above
    got = case.run(ask)
    if not np.isfinite(got).all():
        raise CheckFailed(f"the output of Attention is {'NaN' if np.isnan(got).any() else 'infinite'} where scores are "
                          "in the hundreds, as trained weights make them: exp() overflows. Use softmax(), which "
                          "subtracts the largest score of each row first")
    expect_close("the output of Attention for scores in the hundreds", got, case.expected(**layout), str(case),
                 within=case.tolerance(**layout))


def wrong(ask, case: Case) -> bool:
    return case.layout(case.run(ask)) is None


def build(**changes) -> dict:
    return {"kind": "attention", "dim": 12, "num_heads": 3, **changes}


def inputs(rng) -> list[np.ndarray]:
    return [rng.normal(size=(*size, 12)) for size in ((2, 3, 4), (1, 5, 2), (3, 1, 1), (2, 4, 3))]


@check("attention", "every parameter learns: gradients are the slopes of the output", weight=1, beside=True)
def gradients(ask, rng):
    x = rng.normal(size=(2, 2, 3, 12))
    try:
        for training in (True, False):
            expect_gradients(ask, WHAT, x, build(), training)
        expect_gradients(ask, WHAT, x, build(qkv_bias=False), True)
    except Unused as failed:
        raise CheckFailed(str(failed), follows_from=[values, single, several]) from None


@check("attention", "calls leave nothing behind, and nothing is random", weight=0.5, beside=True)
def memory(ask, rng):
    expect_no_chance(ask, WHAT, inputs(rng)[0], build())
    expect_no_memory(ask, WHAT, inputs(rng), [build(), build(num_heads=2, qkv_bias=False)])


@check("attention", "saved and loaded by state_dict, it gives the same output", weight=0.5, beside=True)
def reload(ask, rng):
    expect_reload(ask, WHAT, inputs(rng)[0], build())


@check("attention", "fast enough to train", weight=0.5, beside=True)
def speed(ask, rng):
    expect_speed(ask, WHAT, "time_attention", "torch's MultiheadAttention", dim=96, num_heads=4,
                            sizes=[[1, 2, 2], [2, 4, 4], [8, 8, 8]])
