"""3.2.1: multi-head self-attention. Weights have a spread of 0.3: with 0.02 a missing scale changes nothing visible."""

from functools import partial
from itertools import permutations, product

import numpy as np

from autograder import oracle
from autograder.checks import check
from autograder.compare import Wrong, expect, same, shape

LAYOUTS = ("3hd", "h3d", "3dh", "hd3", "dh3", "d3h")


class Case:
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

    def ask(self, ask) -> dict:
        return ask("attend", {"x": self.x, "dy": self.dy, **self.weights}, num_heads=self.heads, qkv_bias=self.bias)[1]

    def right(self, got: np.ndarray):
        """The right attention as this student lays out heads, q, k and v in memory: which order is theirs to choose."""
        for layout, order, merge in product(LAYOUTS, permutations("qkv"), ("hd", "dh")):
            form = {"layout": layout, "order": "".join(order), "merge": merge}
            if same(got, oracle.attention(self.x, self.weights, self.heads, **form)):
                return form
        return {}

    def mistakes(self):
        """Sentences and what a mistake would give."""
        width = self.x.shape[-1] // self.heads
        scales = {"Q K^T is not divided by the square root of D_q": 1.0,
                  "Q K^T is multiplied by the square root of D_q, not divided": width ** 0.5,
                  "Q K^T is divided by D_q, not by its square root": 1 / width,
                  "Q K^T is divided by the square root of all channels, not of those of one head":
                      self.x.shape[-1] ** -0.5,
                  "Q K^T is scaled twice": 1 / width}
        rows = "The softmax is over the queries: it has to be over the keys, the last dimension"
        for layout in LAYOUTS:
            make = partial(oracle.attention, self.x, self.weights, self.heads, layout=layout)
            for sentence, scale in scales.items():
                yield sentence, make(scale=scale)
            yield rows, make(axis=-2)
            yield rows.replace("queries", "heads"), make(axis=1)
            yield "The output projection is missing", make(proj=False)
            yield ("The heads are put side by side without moving the tokens before them: permute before the reshape",
                   make(merge="none"))
        for merge in ("hd", "none"):
            yield ("q, k and v are cut out of the tokens by a reshape to 3, B, heads, T, d: reshape to B, T, 3, "
                   "heads, d "
                   "first, then permute", oracle.attention(self.x, self.weights, self.heads, "scrambled", merge=merge))
        yield ("It is the attention of a single head: the channels are not split into heads",
               oracle.attention(self.x, self.weights, 1))
        without = {name: array for name, array in self.weights.items() if name != "proj.bias"}
        yield "The bias of the projection is missing", oracle.attention(self.x, without, self.heads)


def compare(ask, case: Case) -> None:
    results = case.ask(ask)
    form = case.right(results["y"])
    right = oracle.attention(case.x, case.weights, case.heads, **form)
    expect("the output of Attention", results.get("y"), right, str(case), [] if form else case.mistakes())


def alike(rng, **settings) -> Case:
    """A case whose tokens are all the same: whatever the scores, each gets its own value back. Scale and softmax are
    another check's matter."""
    case = Case(rng, **settings)
    case.x[:] = case.x[:, :1, :1]
    return case


@check("attention", "values, heads and projection, where all tokens are alike", weight=2)
def values(ask, rng):
    compare(ask, alike(rng, heads=1, width=6))
    compare(ask, alike(rng, heads=3))


@check("attention", "one head: scores, scale, softmax", weight=2)
def single(ask, rng):
    compare(ask, Case(rng, heads=1, width=5))


@check("attention", "several heads: scores, scale, softmax", weight=3)
def several(ask, rng):
    compare(ask, Case(rng, heads=3))
    compare(ask, Case(rng, heads=2, width=8, H=4, W=2))


@check("attention", "with and without the bias of q, k, v", weight=1)
def no_bias(ask, rng):
    compare(ask, alike(rng, heads=2, bias=False))
    compare(ask, alike(rng, heads=2, bias=True))


@check("attention", "any height and width, a single token included", weight=1)
def sizes(ask, rng):
    for H, W in ((1, 1), (1, 6), (5, 2)):
        compare(ask, alike(rng, heads=2, H=H, W=W, B=3))


@check("attention", "gradients flow through it", weight=1)
def gradient(ask, rng):
    """The gradient that autograd gives against differences of the student's own outputs."""
    case = Case(rng, heads=2, H=2, W=3, B=1)
    direction, step, outputs = rng.normal(size=case.x.shape), 1e-5, []
    got = float((case.ask(ask)["dx"] * direction).sum())
    for sign in (1, -1):
        case.x = case.x + (step if sign == 1 else -2 * step) * direction
        outputs.append(case.ask(ask)["y"])
    if outputs[0].shape != case.dy.shape:
        raise Wrong(f"the output has the shape {shape(outputs[0])}, expected {shape(case.dy)} ({case})")
    if not np.ptp(outputs[0] - outputs[1]) > 0:  # NaN, too
        raise Wrong(f"the output does not react to the input ({case})")
    right = float((case.dy * (outputs[0] - outputs[1])).sum()) / (2 * step)
    if not abs(got - right) <= 1e-4 * max(1, abs(right)):
        raise Wrong(f"the gradient of the input is wrong ({case}): along a random direction it is {got:.4g}, but the "
                    f"output changes by {right:.4g}. A detach(), a no_grad(), or a copy through .data or numpy cuts it")
