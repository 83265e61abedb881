"""Inputs, weights and known mistakes of the transformer block."""

from itertools import permutations, product
from typing import NamedTuple

import numpy as np

from autograder import oracle, rounding
from autograder.compare import CheckFailed, is_close
from autograder.process import StudentError

PARTS = {"Attention": 1, "LayerNorm": 2, "MLP layer up": 1, "MLP layer down": 1}
ORDERS = [{"layout": layout, "order": "".join(order), "merge": merge} for layout, order, merge in product(
    ("3hd", "h3d", "3dh", "hd3", "dh3", "d3h"), permutations("qkv"), ("hd", "dh"))]


class Try(NamedTuple):
    """One run: the output or the error, whether it is right, the facts, and whether the attention was the student's."""

    got: np.ndarray | None
    error: Exception | None
    right: bool
    facts: dict
    own: bool


class Case:
    """Input and weights of one TransformerBlock: float32 numbers, kept in float64 for the oracle.

    After run, `facts` are those of the worker, `own` tells whether the student's own attention ran, and `with_own`
    whether it had to: the known-good one did not fit.
    """

    def __init__(self, rng, window=0, B=2, H=4, W=6, heads=2, dim=6, hidden=15, bias=True, eps=1e-5,
                 activation="GELU"):
        self.heads, self.window, self.hidden, self.bias, self.rng = heads, window, hidden, bias, rng
        self.settings = {"eps": eps, "activation": activation}
        shapes = {"qkv.weight": (3 * dim, dim), "qkv.bias": (3 * dim,), "proj.weight": (dim, dim), "proj.bias": (dim,),
                  "norm1.weight": (dim,), "norm1.bias": (dim,), "norm2.weight": (dim,), "norm2.bias": (dim,),
                  "fc1.weight": (hidden, dim), "fc1.bias": (hidden,), "fc2.weight": (dim, hidden), "fc2.bias": (dim,)}
        self.weights = {name: rounding.rounded(rng.normal(size=size) * 0.4) for name, size in shapes.items()
                        if bias or name != "qkv.bias"}
        self.x = rounding.rounded(rng.normal(size=(B, H, W, dim)))
        self.facts, self.own, self.with_own = {}, False, False

    def __str__(self) -> str:
        B, H, W, C = self.x.shape
        return f"B={B}, H={H}, W={W}, dim={C}, window_size={self.window}"

    def run(self, ask, drop_path=0.0, training=False) -> np.ndarray:
        """The student's output, around the known-good attention. Raises CheckFailed for missing layers, and
        StudentError.

        Where that fails or the result is wrong, and the student's own attention gives the right one, that counts, also
        for later calls in training mode.
        """
        if training:
            return self._run(ask, self.with_own, drop_path, training)
        tries = {False: self._try(ask, False, drop_path)}
        if not tries[False].right:
            tries[True] = self._try(ask, True, drop_path)
        self.with_own = True in tries and tries[True].right
        kept = tries[self.with_own]
        self.facts, self.own = kept.facts, kept.own
        if kept.error is not None:
            raise kept.error
        return kept.got

    def _try(self, ask, own: bool, drop_path: float) -> "Try":
        try:
            got = self._run(ask, own, drop_path, False)
        except (CheckFailed, StudentError) as error:
            return Try(None, error, False, {}, own)
        return Try(got, None, self.fitting(got) is not None, self.facts, self.own)

    def _run(self, ask, own: bool, drop_path: float, training: bool) -> np.ndarray:
        build = {"dim": self.x.shape[-1], "num_heads": self.heads, "window_size": self.window, "own": own,
                 "drop_path": drop_path, "mlp_ratio": self.hidden / self.x.shape[-1], "qkv_bias": self.bias,
                 "norm_eps": self.settings["eps"], "activation": self.settings["activation"]}
        facts, results = ask("run_block", rounding.single({"x": self.x, **self.weights}), build=build,
                             training=training)
        self.facts, self.own = facts, facts["own_attention"]
        for name, count in PARTS.items():
            if facts["counts"].get(name) != count:
                raise CheckFailed(f"TransformerBlock has {facts['counts'].get(name)} x {name}, expected {count}")
        return results["y"]

    def norm_orders(self) -> list[dict]:
        """The weights as given and with the two norms exchanged: they may be created in either order."""
        exchanged = {name.translate(str.maketrans("12", "21")) if name.startswith("norm") else name: array
                     for name, array in self.weights.items()}
        return [self.weights, exchanged]

    def expected(self, exchanged: bool = False, samples: int | None = None, **keywords) -> np.ndarray:
        """The right output, see oracle.transformer_block, of the first `samples`; `exchanged`: the norms."""
        return oracle.transformer_block(self.x[:samples], self.norm_orders()[exchanged], self.heads, self.window,
                                        **{**self.settings, **keywords})

    def fitting(self, got: np.ndarray, **keywords) -> dict | None:
        """The order of norms, and of the own attention's channels, for which `got` is right: keywords of expected."""
        within = self.tolerance()
        for exchanged, order in product((False, True), ORDERS if self.own else ORDERS[:1]):
            if is_close(got[:4], self.expected(exchanged, 4, **order, **keywords), within=within) and is_close(
                    got, self.expected(exchanged, **order, **keywords), within=within):
                return {"exchanged": exchanged, **order}
        return None

    def tolerance(self, exchanged: bool = False, **order) -> float:
        weights = self.norm_orders()[exchanged]
        return rounding.of_composite(lambda data: oracle.transformer_block(
            data["x"], data, self.heads, self.window, **self.settings, **order), {"x": self.x[:8], **weights},
            self.hidden, np.random.default_rng(0))

    def mistakes(self):
        """(sentence, output) of known mistakes."""
        x, heads, size = self.x, self.heads, self.window
        for w in self.norm_orders():
            attend = lambda v, w=w, size=size: oracle.windowed_attention(v, w, heads, size)  # noqa: E731
            one = lambda v, w=w: oracle.layer_norm(v, w, "norm1")  # noqa: E731
            two = lambda v, w=w: oracle.layer_norm(v, w, "norm2")  # noqa: E731
            mlp = lambda v, w=w: oracle.mlp(v, w)  # noqa: E731
            if size:
                yield "It is global attention: the windows are not used", oracle.transformer_block(x, w, heads, 0)
            else:
                for other in (2, 3, 4):
                    yield "It is windowed attention although window_size is 0", \
                        oracle.transformer_block(x, w, heads, other)
            post = one(x + attend(x))
            yield "It is a post-norm block: the norm belongs before attention and MLP", two(post + mlp(post))
            first = x + attend(one(x))
            yield "The first shortcut is missing: x + attention(norm(x))", attend(one(x)) + mlp(two(attend(one(x))))
            yield "The second shortcut is missing: x + mlp(norm(x))", mlp(two(first))
            yield "The first shortcut starts after the norm: it must add x itself", \
                (lambda y: y + mlp(two(y)))(one(x) + attend(one(x)))
            yield "The second shortcut starts after the norm: it must add x itself", two(first) + mlp(two(first))
            yield "The norm before the MLP is missing", first + mlp(first)
            yield "The norm before the attention is missing", (lambda y: y + mlp(two(y)))(x + attend(x))
            yield "The MLP's shortcut adds the block's input", x + mlp(two(first))
            yield "Attention and MLP both start from the block's input", first + mlp(two(x))
            yield "The same norm is used twice", first + mlp(one(first))
            yield "The MLP is missing", first
