"""3.2.1: the transformer block with a known-good attention: pre-norm, two shortcuts, windows, stochastic depth."""

from itertools import product

import numpy as np

from autograder import oracle
from autograder.checks import check
from autograder.compare import CheckFailed, expect_close, format_shape, is_close


class Case:
    """Float64 input and weights of one TransformerBlock."""

    def __init__(self, rng, window=0, B=2, H=4, W=6, heads=2, dim=6, hidden=15):
        self.heads, self.window = heads, window
        shapes = {"qkv.weight": (3 * dim, dim), "qkv.bias": (3 * dim,), "proj.weight": (dim, dim), "proj.bias": (dim,),
                  "norm1.weight": (dim,), "norm1.bias": (dim,), "norm2.weight": (dim,), "norm2.bias": (dim,),
                  "fc1.weight": (hidden, dim), "fc1.bias": (hidden,), "fc2.weight": (dim, hidden), "fc2.bias": (dim,)}
        self.weights = {name: rng.normal(size=size) * 0.4 for name, size in shapes.items()}
        self.x = rng.normal(size=(B, H, W, dim))

    def __str__(self) -> str:
        B, H, W, C = self.x.shape
        return f"B={B}, H={H}, W={W}, dim={C}, window_size={self.window}"

    def run(self, ask, drop_path=0.0, training=False) -> np.ndarray:
        """The output of the student's block. Raises CheckFailed for missing layers or a modified input."""
        facts, results = ask("run_block", {"x": self.x, **self.weights}, num_heads=self.heads, window_size=self.window,
                             drop_path=drop_path, training=training, seed=1)
        expected = {"Attention": 1, "LayerNorm": 2, "MLP layer up": 1, "MLP layer down": 1}
        for name, count in expected.items():
            if facts["counts"].get(name) != count:
                raise CheckFailed(f"TransformerBlock has {facts['counts'].get(name)} x {name}, expected {count}")
        if facts["input_changed"]:
            raise CheckFailed("TransformerBlock modifies its input in place, as x += ... does")
        return results["y"]

    def norm_orders(self) -> list[dict]:
        """The weights as given and with the two norms exchanged: they may be created in either order."""
        exchanged = {name.translate(str.maketrans("12", "21")) if name.startswith("norm") else name: array
                     for name, array in self.weights.items()}
        return [self.weights, exchanged]

    def expected(self, got: np.ndarray) -> np.ndarray:
        """The right output for the order of norms that `got` fits."""
        outputs = [oracle.transformer_block(self.x, weights, self.heads, self.window) for weights in self.norm_orders()]
        return next((output for output in outputs if is_close(got, output)), outputs[0])

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


def compare(ask, case: Case) -> None:
    got = case.run(ask)
    expect_close("the output of TransformerBlock", got, case.expected(got), str(case), case.mistakes())


@check("block", "global attention: pre-norm and both shortcuts", weight=2)
def global_attention(ask, rng):
    compare(ask, Case(rng))
    compare(ask, Case(rng, H=5, W=3))


def in_windows(ask, rng, *sizes: tuple[int, int, int]) -> None:
    """Check windows, given as (window_size, H, W). If global attention is wrong, check only which tokens interact."""
    try:
        compare(ask, Case(rng))
        correct = True
    except CheckFailed:
        correct = False
    for window, H, W in sizes:
        case = Case(rng, window=window, H=H, W=W)
        compare(ask, case) if correct else check_window_reach(ask, case, rng)


def check_window_reach(ask, case: Case, rng) -> None:
    """Raise CheckFailed unless changing one token changes the outputs of its window only."""
    before = case.run(ask)
    i, j = case.x.shape[1] - 1, 0
    case.x[:, i, j] += rng.normal(size=case.x.shape[-1])  # not the same in all channels: LayerNorm would remove it
    after = case.run(ask)
    if before.shape != case.x.shape or after.shape != case.x.shape:
        raise CheckFailed(f"the output of TransformerBlock ({case}) has the shape {format_shape(after)}, expected "
                          f"{format_shape(case.x)}")
    moved = (np.abs(after - before) > 1e-9).any((0, 3))
    rows, columns = np.indices(moved.shape)
    inside = (rows // case.window == i // case.window) & (columns // case.window == j // case.window)
    if not np.array_equal(moved, inside):
        raise CheckFailed(f"one token was changed, and {moved.sum()} outputs of TransformerBlock changed, expected the "
                          f"{inside.sum()} of its window ({case})")


@check("block", "windows that divide height and width", weight=1)
def windows(ask, rng):
    in_windows(ask, rng, (2, 4, 6), (3, 3, 9))


@check("block", "windows that do not: padding, then cropping", weight=1)
def padded_windows(ask, rng):
    in_windows(ask, rng, (3, 4, 5), (4, 6, 3))


@check("block", "stochastic depth drops each branch per sample, in training mode only", weight=1)
def drop_path(ask, rng):
    """Compared with the block's own output without drop path, so that other mistakes do not count here."""
    case = Case(rng, B=64, H=1, W=2)
    own = case.run(ask)
    if not is_close(case.run(ask, drop_path=0.5), own):
        raise CheckFailed("in evaluation mode the outputs with drop_path=0.5 and drop_path=0 differ: nothing may be "
                          "dropped there")
    got = case.run(ask, drop_path=0.5, training=True)
    if is_close(got, own):
        raise CheckFailed("in training mode, with drop_path=0.5, nothing is dropped at all: is drop_path used?")
    if is_close(own, case.expected(own)) and is_close(case.run(ask, training=True), own):
        check_drop_outcomes(case, got)


def check_drop_outcomes(case: Case, got: np.ndarray) -> None:
    """Each sample must be one of four outcomes: attention dropped or doubled, MLP dropped or doubled."""
    seen = {branch_factors(case, got, n) for n in range(len(got))}
    if None in seen:
        n = next(n for n in range(len(got)) if branch_factors(case, got, n) is None)
        raise CheckFailed(f"in training mode, with drop_path=0.5, sample {n} is none of the four: x plus attention "
                          "times 0 or 2, plus MLP times 0 or 2. DropPath goes around each branch, not around the "
                          "shortcut")
    for position, branch in enumerate(("attention", "MLP")):
        if {kind[position] for kind in seen} == {1.0}:
            raise CheckFailed(f"in training mode, with drop_path=0.5, the {branch} branch is never dropped")
    if len(seen) < 4:
        raise CheckFailed(f"in training mode, with drop_path=0.5, 64 samples show only {len(seen)} of the four "
                          "outcomes: drop the two branches independently, and each sample independently")


def branch_factors(case: Case, got: np.ndarray, n: int) -> tuple[float, float] | None:
    """The factors of the two branches in sample n, None if there are none; 1: drop path was not applied."""
    x, y = case.x[n:n + 1], got[n:n + 1]
    for factors in product((0.0, 2.0, 1.0), repeat=2):
        outputs = [oracle.transformer_block(x, weights, case.heads, 0, factors) for weights in case.norm_orders()]
        if any(is_close(y, output) for output in outputs):
            return factors
    return None
