"""3.2.1: multi-head self-attention. Weights have std 0.3: with 0.02 a missing scale would be below the tolerance."""

from functools import partial
from itertools import permutations, product

import numpy as np

from autograder import oracle
from autograder.checks import check
from autograder.compare import CheckFailed, expect_close, format_shape, is_close

LAYOUTS = ("3hd", "h3d", "3dh", "hd3", "dh3", "d3h")


class Case:
    """Float64 input, output gradient and weights of one Attention layer."""

    def __init__(self, rng, heads=3, bias=True, B=2, H=3, W=4, width=4):
        dim = heads * width
        self.heads, self.bias = heads, bias
        self.x = rng.normal(size=(B, H, W, dim))
        self.dy = rng.normal(size=self.x.shape)
        shapes = {"qkv.weight": (3 * dim, dim), "qkv.bias": (3 * dim,), "proj.weight": (dim, dim), "proj.bias": (dim,)}
        self.weights = {name: rng.normal(size=size) * 0.3 for name, size in shapes.items()}
        if not bias:
            del self.weights["qkv.bias"]

    def __str__(self) -> str:
        B, H, W, C = self.x.shape
        return f"B={B}, H={H}, W={W}, dim={C}, {self.heads} heads, qkv_bias={self.bias}"

    def run(self, ask) -> dict:
        arrays = {"x": self.x, "dy": self.dy, **self.weights}
        return ask("run_attention", arrays, num_heads=self.heads, qkv_bias=self.bias)[1]

    def layout(self, got: np.ndarray) -> dict[str, str]:
        """The channel order of heads, q, k and v for which `got` is right, as oracle.attention's keywords, or {}.

        Any order is accepted.
        """
        for layout, order, merge in product(LAYOUTS, permutations("qkv"), ("hd", "dh")):
            keywords = {"layout": layout, "order": "".join(order), "merge": merge}
            if is_close(got, oracle.attention(self.x, self.weights, self.heads, **keywords)):
                return keywords
        return {}

    def mistakes(self):
        """(sentence, output) of known mistakes."""
        width = self.x.shape[-1] // self.heads
        scales = {"Q K^T is not divided by the square root of D_q": 1.0,
                  "Q K^T is multiplied by the square root of D_q, not divided": width ** 0.5,
                  "Q K^T is divided by D_q, not by its square root": 1 / width,
                  "Q K^T is divided by the square root of all channels, not of those of one head":
                      self.x.shape[-1] ** -0.5,
                  "Q K^T is scaled twice": 1 / width}
        rows = "The softmax is over the queries: it must be over the keys, the last dimension"
        for layout in LAYOUTS:
            make = partial(oracle.attention, self.x, self.weights, self.heads, layout=layout)
            for sentence, scale in scales.items():
                yield sentence, make(scale=scale)
            yield rows, make(axis=-2)
            yield rows.replace("queries", "heads"), make(axis=1)
            yield "The output projection is missing", make(proj=False)
            yield "The heads are merged without moving the token axis first: permute before the reshape", \
                make(merge="none")
        for merge in ("hd", "none"):
            yield ("q, k and v come from a reshape to 3, B, heads, T, d: reshape to B, T, 3, heads, d first, then "
                   "permute", oracle.attention(self.x, self.weights, self.heads, "scrambled", merge=merge))
        yield ("It is single-head attention: the channels are not split into heads",
               oracle.attention(self.x, self.weights, 1))
        without = {name: array for name, array in self.weights.items() if name != "proj.bias"}
        yield "The bias of the projection is missing", oracle.attention(self.x, without, self.heads)


def compare(ask, case: Case) -> None:
    results = case.run(ask)
    layout = case.layout(results["y"])
    expected = oracle.attention(case.x, case.weights, case.heads, **layout)
    expect_close("the output of Attention", results.get("y"), expected, str(case), [] if layout else case.mistakes())


def identical_tokens(rng, **settings) -> Case:
    """A case with identical tokens, where the output does not depend on scores, scale and softmax."""
    case = Case(rng, **settings)
    case.x[:] = case.x[:, :1, :1]
    return case


@check("attention", "values, heads and projection, on identical tokens", weight=2)
def values(ask, rng):
    compare(ask, identical_tokens(rng, heads=1, width=6))
    compare(ask, identical_tokens(rng, heads=3))


@check("attention", "one head: scores, scale, softmax", weight=2)
def single(ask, rng):
    compare(ask, Case(rng, heads=1, width=5))


@check("attention", "several heads: scores, scale, softmax", weight=3)
def several(ask, rng):
    compare(ask, Case(rng, heads=3))
    compare(ask, Case(rng, heads=2, width=8, H=4, W=2))


@check("attention", "with and without the bias of q, k, v", weight=1)
def no_bias(ask, rng):
    compare(ask, identical_tokens(rng, heads=2, bias=False))
    compare(ask, identical_tokens(rng, heads=2, bias=True))


@check("attention", "other heights and widths, down to a single token", weight=1)
def sizes(ask, rng):
    for H, W in ((1, 1), (1, 6), (5, 2)):
        compare(ask, identical_tokens(rng, heads=2, H=H, W=W, B=3))


@check("attention", "gradient of the input", weight=1)
def gradient(ask, rng):
    """Autograd's directional derivative against central differences of the student's own outputs."""
    case = Case(rng, heads=2, H=2, W=3, B=1)
    direction, step, outputs = rng.normal(size=case.x.shape), 1e-5, []
    got = float((case.run(ask)["dx"] * direction).sum())
    for sign in (1, -1):
        case.x = case.x + (step if sign == 1 else -2 * step) * direction
        outputs.append(case.run(ask)["y"])
    if outputs[0].shape != case.dy.shape:
        raise CheckFailed(f"the output has the shape {format_shape(outputs[0])}, expected {format_shape(case.dy)} "
                          f"({case})")
    if not np.ptp(outputs[0] - outputs[1]) > 0:  # NaN, too
        raise CheckFailed(f"the output does not depend on the input ({case})")
    expected = float((case.dy * (outputs[0] - outputs[1])).sum()) / (2 * step)
    if not abs(got - expected) <= 1e-4 * max(1, abs(expected)):
        raise CheckFailed(f"the gradient of the input is wrong ({case}): along a random direction it is {got:.4g}, "
                          f"expected {expected:.4g}. A detach(), a no_grad(), or a copy through .data or numpy cuts "
                          "the graph")
