"""3.1.1: the convolution, forward, backward and in its module. Cases are drawn anew for each seed."""

from itertools import product

import numpy as np

from autograder import oracle
from autograder.checks import check
from autograder.compare import Wrong, expect, same, shape
from autograder.process import StudentError


class Case:
    """One convolution in float64, or another dtype: small random sides, no two alike where they could be mixed up."""

    def __init__(self, rng, K=3, stride=1, padding=0, bias=True, square=False, N=2, dtype="float64"):
        self.K, self.stride, self.padding = K, stride, padding
        Ci, Co = (int(side) for side in rng.choice([2, 3, 4, 5], 2, replace=False))
        H, W = (max(K, 4) + int(extra) for extra in rng.choice(range(1, 8), 2, replace=False))
        self.x = rng.normal(size=(N, Ci, H, H if square else W)).astype(dtype)
        self.w = rng.normal(size=(Co, Ci, K, K)).astype(dtype)
        self.b = rng.normal(size=Co).astype(dtype) if bias else None
        self.y = oracle.convolve(self.x, self.w, self.b, stride, padding)
        self.dy = rng.normal(size=self.y.shape).astype(dtype)

    def __str__(self) -> str:
        N, Ci, H, W = self.x.shape
        return (f"N={N}, Ci={Ci}, H={H}, W={W}, Co={len(self.w)}, K={self.K}, stride={self.stride}, "
                f"padding={self.padding}, {'no bias' if self.b is None else 'bias'}")

    def ask(self, ask, backward=False, **settings) -> tuple[dict, dict]:
        arrays = {"x": self.x, "w": self.w, **({} if self.b is None else {"b": self.b})}
        return ask("convolve", {**arrays, **({"dy": self.dy} if backward else {})}, stride=self.stride,
                   padding=self.padding, **settings)

    def wrong_outputs(self):
        """Sentences and what a mistake would give in the forward pass."""
        x, w, b, s, p = self.x, self.w, self.b, self.stride, self.padding
        yield "It equals a convolution with the kernel flipped", oracle.convolve(x, w[:, :, ::-1, ::-1], b, s, p)
        yield ("It equals a convolution with the kernel's height and width swapped",
               oracle.convolve(x, w.swapaxes(2, 3), b, s, p))
        yield "It is right but for height and width, which are swapped", self.y.swapaxes(2, 3)
        for mixed in reordered(w):
            yield "The weight's channels and kernel positions are in the wrong order when it is flattened", \
                oracle.convolve(x, mixed, b, s, p)
        yield "It is right when stride 1 is taken: is the stride passed on?", oracle.convolve(x, w, b, 1, p)
        if min(x.shape[2:]) >= self.K:
            yield "It is right when padding 0 is taken: is the padding passed on?", oracle.convolve(x, w, b, s, 0)
        if b is not None:
            plain = oracle.convolve(x, w, None, s, p)
            yield "It is right without the bias: the bias is not added", plain
            yield "The bias is added twice", self.y + b[:, None, None]
            yield "The bias is taken away, not added", plain - b[:, None, None]
            for axis in ("height", "width"):
                if self.y.shape[2 if axis == "height" else 3] == len(b):
                    spread = b[:, None] if axis == "height" else b
                    yield f"The bias lies along the {axis}, not the channels", plain + spread
        yield "Only the first image is convolved", np.repeat(self.y[:1], len(x), 0)

    def wrong_gradients(self, name: str, right: dict):
        """Sentences and what a mistake would give for the gradient `name`."""
        x, w, dy, s, p = self.x, self.w, self.dy, self.stride, self.padding
        if name == "dx":
            yield ("It is the gradient for a flipped kernel",
                   oracle.convolve_backward(x, w[:, :, ::-1, ::-1], dy, s, p)["dx"])
            wide = oracle.convolve_backward(np.pad(x, ((0, 0), (0, 0), (p, p), (p, p))), w, dy, s, 0)["dx"]
            yield "It is the gradient of the padded input: the padding has to be cut off again", wide
        for share, sentence in ((len(x), "averaged over the images, not summed"),
                                (dy[0, 0].size, "averaged over the positions, not summed"),
                                (len(x) * dy[0, 0].size, "averaged over images and positions, not summed")):
            yield f"It is {sentence}", right[name] / share
        if name != "dx":
            yield "It is the gradient of the first image alone", \
                oracle.convolve_backward(x[:1], w, dy[:1], s, p)[name]
            yield "It is the gradient of the last image alone", \
                oracle.convolve_backward(x[-1:], w, dy[-1:], s, p)[name]
        if name == "dw":
            yield "It is flipped", right["dw"][:, :, ::-1, ::-1]
            yield "Its height and width are swapped", right["dw"].swapaxes(2, 3)
            for mixed in reordered(right["dw"]):
                yield "Channels and kernel positions are in the wrong order in the weight's shape", mixed
        if name == "db":
            yield "It has one value for each image: sum over the images as well", dy.sum((2, 3))
            yield "It has one value for each column: sum over the width as well", dy.sum((0, 2))
            yield "It is a sum over the images only", dy.sum(0)


def some_convolution(case: Case, results: dict) -> None:
    """Right or wrong, it has to be an answer: its shape, and numbers that are not all the same."""
    if results["y"].shape != case.y.shape or not np.ptp(results["y"]) > 0:
        raise Wrong(f"no output of the shape {shape(case.y)} came ({case}), so that this cannot be judged")


def reordered(w: np.ndarray) -> list[np.ndarray]:
    """A weight Co,Ci,K,K whose channels and kernel positions are taken for each other: either way round."""
    Co, Ci, K, _ = w.shape
    return [w.reshape(Co, *sides).swapaxes(1, 2).reshape(w.shape) for sides in ((K * K, Ci), (Ci, K * K))]


def forward(ask, case: Case, **settings) -> dict:
    facts, results = case.ask(ask, **settings)
    expect("the output", results.get("y"), case.y, str(case), case.wrong_outputs(), 1e-5)
    return facts


def backward(ask, case: Case, names=("dx", "dw", "db"), tolerance=1e-5, **settings) -> None:
    """The gradients called `names` are right; what the output was is not judged here."""
    _, results = case.ask(ask, backward=True, **settings)
    right = oracle.convolve_backward(case.x, case.w, case.dy, case.stride, case.padding)
    long = {"dx": "the gradient of the input", "dw": "the gradient of the weight", "db": "the gradient of the bias"}
    for name in names:
        expect(long[name], results.get(name), right[name], str(case), case.wrong_gradients(name, right), tolerance)


def base(ask, rng) -> dict:
    """A plain configuration that comes out right, if there is one: what is built on it has one more thing to go wrong.

    So a bias that is not optional, say, costs where it is looked at, and nowhere else.
    """
    def is_right(backward: bool, **settings) -> bool:
        case = Case(rng, **settings)
        try:
            return same(case.ask(ask, backward=backward, needs=["x"])[1]["y"], case.y, 1e-4)
        except StudentError:
            return False

    for dtype, bias in product(("float64", "float32"), (True, False)):
        if is_right(True, dtype=dtype, bias=bias, square=True):
            return {"dtype": dtype, "bias": bias, "square": not is_right(False, dtype=dtype, bias=bias, square=False)}
    return {"bias": True, "square": True}


@check("convolution", "forward: one square image, K 3, the defaults stride 1 and padding 0", weight=2)
def plain(ask, rng):
    settings = {**base(ask, rng), "square": True}
    forward(ask, Case(rng, N=1, **settings))
    forward(ask, Case(rng, **settings))
    forward(ask, Case(rng, **settings), through="defaults")


@check("convolution", "forward: bias or none", weight=1)
def bias(ask, rng):
    settings = {**base(ask, rng), "square": True}
    forward(ask, Case(rng, **{**settings, "bias": True}))
    forward(ask, Case(rng, **{**settings, "bias": False}))


@check("convolution", "forward: height and width differ", weight=1)
def oblong(ask, rng):
    settings = {**base(ask, rng), "square": False}
    forward(ask, Case(rng, **settings))
    forward(ask, Case(rng, K=5, **settings))


@check("convolution", "forward: padding", weight=1)
def padding(ask, rng):
    settings = base(ask, rng)
    for K, p in ((3, 1), (5, 2), (3, 4)):
        forward(ask, Case(rng, K=K, padding=p, **settings))


@check("convolution", "forward: stride, also where a remainder is left", weight=1)
def stride(ask, rng):
    settings = base(ask, rng)
    for K, s, p in ((3, 2, 0), (3, 3, 1), (7, 2, 3), (3, 4, 0)):
        forward(ask, Case(rng, K=K, stride=s, padding=p, **settings))


@check("convolution", "forward: kernels of 1, of even size, of the whole image", weight=1)
def kernels(ask, rng):
    settings = base(ask, rng)
    for K in (1, 2, 4):
        forward(ask, Case(rng, K=K, **settings))
    case = Case(rng, K=5, **settings)
    case.x = case.x[:, :, :5, :5]
    case.y = oracle.convolve(case.x, case.w, case.b)
    forward(ask, case)


GEOMETRIES = ((3, 1, 0), (3, 1, 1), (3, 2, 1), (3, 3, 0), (1, 2, 0), (5, 1, 2), (7, 2, 3))  # K, stride, padding


@check("convolution", "backward: input", weight=2)
def gradient_of_input(ask, rng):
    settings = base(ask, rng)
    for K, s, p in GEOMETRIES:
        backward(ask, Case(rng, K=K, stride=s, padding=p, **settings), ["dx"])


@check("convolution", "backward: weight", weight=2)
def gradient_of_weight(ask, rng):
    settings = base(ask, rng)
    for K, s, p in GEOMETRIES:
        backward(ask, Case(rng, K=K, stride=s, padding=p, N=3, **settings), ["dw"])


@check("convolution", "backward: bias, and none where there is no bias", weight=1)
def gradient_of_bias(ask, rng):
    settings = base(ask, rng)
    for N, s in ((2, 2), (3, 1)):
        backward(ask, Case(rng, stride=s, N=N, **{**settings, "bias": True}), ["db"])
    case = Case(rng, **{**settings, "bias": False})
    _, results = case.ask(ask, backward=True)
    if "dw" not in results:
        raise Wrong(f"backward gives no gradient of the weight where bias is None ({case})")


@check("convolution", "backward: gradients only where they are wanted, and however dY lies in memory", weight=1)
def wanted_gradients(ask, rng):
    """Whether the gradients are right is judged elsewhere: here they have to be the same, and there."""
    case = Case(rng, stride=2, padding=1, **base(ask, rng))
    _, own = case.ask(ask, backward=True)
    _, results = case.ask(ask, backward=True, strided=True)
    for name in ("dx", "dw"):
        if name in own:
            expect(f"the gradient {name} for a dY that is not contiguous", results.get(name), own[name], str(case),
                   tolerance=1e-5)
    _, results = case.ask(ask, backward=True, needs=["x"])
    if "dx" not in results:
        raise Wrong("backward gives no gradient of the input where the weight is frozen")


@check("convolution", "CustomConv2d: the wrapper, in a network", weight=1)
def module(ask, rng):
    case = Case(rng, stride=2, padding=1, **base(ask, rng))
    # An in-place ReLU follows each convolution of SimpleNet; autograd refuses it on a view made in a Function.
    # What output and gradient should be, other checks have judged: here they are taken as the Function gives them.
    _, results = case.ask(ask, through="module", in_place=True, backward=True)
    if results["y"].shape != case.y.shape:
        raise Wrong(f"CustomConv2d gives {shape(results['y'])}, expected {shape(case.y)} ({case})")
    right = np.maximum(results["y"], 0)
    expect("the output behind CustomConv2d and ReLU(inplace=True)", results.get("relu"), right, str(case))
    case.dy = case.dy * (results["y"] > 0)
    _, own = case.ask(ask, backward=True)
    expect("the output of CustomConv2d", results["y"], own["y"], str(case), tolerance=1e-5)
    if "dx" in own:
        expect("the gradient of the input through CustomConv2d and ReLU", results.get("dx"), own["dx"], str(case),
               tolerance=1e-5)


@check("convolution", "float32 stays float32, float64 stays float64", weight=1)
def types(ask, rng):
    settings = base(ask, rng)
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-4)):
        case = Case(rng, K=3, padding=1, **{**settings, "dtype": dtype})
        facts, results = case.ask(ask)
        if facts.get("dtype") != dtype:
            raise Wrong(f"input, weight and bias of {dtype} give an output of {facts.get('dtype')}: a buffer of a "
                        "fixed type? Make it with x.new_zeros or torch.zeros_like")
        # A kernel rounded to float32 on the way differs by 1e-7 here. What else is wrong is another check's matter.
        if not same(results["y"], case.y, tolerance) and same(results["y"], case.y, 1e-5):
            raise Wrong(f"the output has {dtype} but not its precision ({case}): was it rounded to float32 on the way?")
        some_convolution(case, results)


@check("convolution", "no convolution function is used, forward or backward", weight=1)
def no_convolution(ask, rng):
    case = Case(rng, padding=1, **base(ask, rng))
    facts, results = case.ask(ask, backward=True)
    if not facts.get("convolution_taken_away"):
        raise Wrong("torch's convolutions were put back, which the sheet does not allow: staff will look at this file")
    some_convolution(case, results)
