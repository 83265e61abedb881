"""3.2.1: the transformer block, around a known-good attention: pre-norm, two shortcuts, windows, stochastic depth."""

from itertools import product

import numpy as np

from autograder import oracle
from autograder.checks import check
from autograder.compare import Wrong, expect, same, shape


class Case:
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

    def ask(self, ask, drop_path=0.0, training=False) -> np.ndarray:
        facts, results = ask("transform", {"x": self.x, **self.weights}, num_heads=self.heads, window_size=self.window,
                             drop_path=drop_path, training=training, seed=1)
        right = {"Attention": 1, "LayerNorm": 2, "MLP layer up": 1, "MLP layer down": 1}
        for name, count in right.items():
            if facts["counts"].get(name) != count:
                raise Wrong(f"TransformerBlock holds {facts['counts'].get(name)} x {name}, expected {count}")
        if facts["input_changed"]:
            raise Wrong("TransformerBlock changes its input: x += ... writes into the tensor that was handed in")
        return results["y"]

    def orders(self) -> list[dict]:
        """The weights, and the same with the two norms exchanged: which was made first is the student's to choose."""
        exchanged = {name.translate(str.maketrans("12", "21")) if name.startswith("norm") else name: array
                     for name, array in self.weights.items()}
        return [self.weights, exchanged]

    def right(self, got: np.ndarray) -> np.ndarray:
        outputs = [oracle.branches(self.x, weights, self.heads, self.window) for weights in self.orders()]
        return next((output for output in outputs if same(got, output)), outputs[0])

    def mistakes(self):
        x, heads, size = self.x, self.heads, self.window
        for w in self.orders():
            attend = lambda v, w=w, size=size: oracle.windowed(v, w, heads, size)  # noqa: E731
            one = lambda v, w=w: oracle.layer_norm(v, w, "norm1")  # noqa: E731
            two = lambda v, w=w: oracle.layer_norm(v, w, "norm2")  # noqa: E731
            mlp = lambda v, w=w: oracle.mlp(v, w)  # noqa: E731
            if size:
                yield "It is global attention: the windows are not used", oracle.branches(x, w, heads, 0)
            else:
                for other in (2, 3, 4):
                    yield "It is attention in windows where window_size is 0", oracle.branches(x, w, heads, other)
            post = one(x + attend(x))
            yield "It is a post-norm block: the norm belongs before attention and MLP", two(post + mlp(post))
            first = x + attend(one(x))
            yield "The first shortcut is missing: x + attention(norm(x))", attend(one(x)) + mlp(two(attend(one(x))))
            yield "The second shortcut is missing: x + mlp(norm(x))", mlp(two(first))
            yield "The first shortcut starts behind the norm: it has to carry x itself", \
                (lambda y: y + mlp(two(y)))(one(x) + attend(one(x)))
            yield "The second shortcut starts behind the norm: it has to carry x itself", two(first) + mlp(two(first))
            yield "The norm before the MLP is missing", first + mlp(first)
            yield "The norm before the attention is missing", (lambda y: y + mlp(two(y)))(x + attend(x))
            yield "The MLP's shortcut carries the block's input", x + mlp(two(first))
            yield "Attention and MLP both start from the block's input", first + mlp(two(x))
            yield "The same norm is used twice", first + mlp(one(first))
            yield "The MLP is missing", first


def compare(ask, case: Case) -> None:
    got = case.ask(ask)
    expect("the output of TransformerBlock", got, case.right(got), str(case), case.mistakes())


@check("block", "global attention: pre-norm and both shortcuts", weight=2)
def global_attention(ask, rng):
    compare(ask, Case(rng))
    compare(ask, Case(rng, H=5, W=3))


def in_windows(ask, rng, *sizes: tuple[int, int, int]) -> None:
    """Blocks with windows; one that is wrong even without windows is asked only which tokens see each other."""
    try:
        compare(ask, Case(rng))
        whole = True
    except Wrong:
        whole = False
    for window, H, W in sizes:
        case = Case(rng, window=window, H=H, W=W)
        compare(ask, case) if whole else sees_its_window(ask, case, rng)


def sees_its_window(ask, case: Case, rng) -> None:
    before = case.ask(ask)
    i, j = case.x.shape[1] - 1, 0
    case.x[:, i, j] += rng.normal(size=case.x.shape[-1])  # the same for all channels would be nothing to a LayerNorm
    after = case.ask(ask)
    if before.shape != case.x.shape or after.shape != case.x.shape:
        raise Wrong(f"the output of TransformerBlock ({case}) has the shape {shape(after)}, expected {shape(case.x)}")
    moved = (np.abs(after - before) > 1e-9).any((0, 3))
    rows, columns = np.indices(moved.shape)
    inside = (rows // case.window == i // case.window) & (columns // case.window == j // case.window)
    if not np.array_equal(moved, inside):
        raise Wrong(f"one token was changed, and {moved.sum()} outputs of TransformerBlock followed, expected the "
                    f"{inside.sum()} of its window ({case})")


@check("block", "windows that divide height and width", weight=1)
def windows(ask, rng):
    in_windows(ask, rng, (2, 4, 6), (3, 3, 9))


@check("block", "windows that do not: padded, and cut again", weight=1)
def padded_windows(ask, rng):
    in_windows(ask, rng, (3, 4, 5), (4, 6, 3))


@check("block", "stochastic depth drops each branch for a whole sample, in training only", weight=1)
def drop_path(ask, rng):
    """Measured against the block's own output without drop path, so that another mistake does not count here."""
    case = Case(rng, B=64, H=1, W=2)
    own = case.ask(ask)
    if not same(case.ask(ask, drop_path=0.5), own):
        raise Wrong("in evaluation mode the output with drop_path=0.5 is not the one with drop_path=0: nothing may be "
                    "dropped there")
    got = case.ask(ask, drop_path=0.5, training=True)
    if same(got, own):
        raise Wrong("in training mode, with drop_path=0.5, nothing is dropped at all: is drop_path used?")
    if same(own, case.right(own)) and same(case.ask(ask, training=True), own):
        which_were_dropped(case, got)


def which_were_dropped(case: Case, got: np.ndarray) -> None:
    """Each sample has to be one of four: attention dropped or doubled, MLP dropped or doubled."""
    seen = {outcome(case, got, n) for n in range(len(got))}
    if None in seen:
        n = next(n for n in range(len(got)) if outcome(case, got, n) is None)
        raise Wrong(f"in training mode, with drop_path=0.5, sample {n} is none of the four: x plus attention times 0 "
                    "or 2, plus MLP times 0 or 2. DropPath goes around each branch, not around the shortcut")
    for position, branch in enumerate(("attention", "MLP")):
        if {kind[position] for kind in seen} == {1.0}:
            raise Wrong(f"in training mode, with drop_path=0.5, the {branch} branch is never dropped")
    if len(seen) < 4:
        raise Wrong(f"in training mode, with drop_path=0.5, of 64 samples only {len(seen)} of the four outcomes came: "
                    "the two branches have to be dropped independently, each sample by itself")


def outcome(case: Case, got: np.ndarray, n: int) -> tuple[float, float] | None:
    """By which factors the two branches of sample n count; 1 is one that is never dropped."""
    x, y = case.x[n:n + 1], got[n:n + 1]
    for factors in product((0.0, 2.0, 1.0), repeat=2):
        if any(same(y, oracle.branches(x, weights, case.heads, 0, factors)) for weights in case.orders()):
            return factors
    return None
