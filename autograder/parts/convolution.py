"""3.1.1: the convolution: forward, backward and module. The seed draws the shapes and values."""

from itertools import product

import numpy as np

from autograder import oracle
from autograder.checks import check
from autograder.compare import CheckFailed, expect_close, format_shape, is_close
from autograder.process import StudentError


class Case:
    """One random convolution. Ci and Co differ, and so do H and W unless `square`, so that mix-ups show."""

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

    def run(self, ask, backward=False, **settings) -> tuple[dict, dict]:
        arrays = {"x": self.x, "w": self.w, **({} if self.b is None else {"b": self.b})}
        return ask("run_convolution", {**arrays, **({"dy": self.dy} if backward else {})}, stride=self.stride,
                   padding=self.padding, **settings)

    def wrong_outputs(self):
        """(sentence, output) of known mistakes in the forward pass."""
        x, w, b, s, p = self.x, self.w, self.b, self.stride, self.padding
        yield "It equals a convolution with the kernel flipped", oracle.convolve(x, w[:, :, ::-1, ::-1], b, s, p)
        yield ("It equals a convolution with the kernel's height and width swapped",
               oracle.convolve(x, w.swapaxes(2, 3), b, s, p))
        yield "It is right except that height and width are swapped", self.y.swapaxes(2, 3)
        for mixed in misordered(w):
            yield "The weight's channels and kernel positions are in the wrong order when it is flattened", \
                oracle.convolve(x, mixed, b, s, p)
        yield "It equals the output for stride 1: is the stride passed on?", oracle.convolve(x, w, b, 1, p)
        if min(x.shape[2:]) >= self.K:
            yield "It equals the output for padding 0: is the padding passed on?", oracle.convolve(x, w, b, s, 0)
        if b is not None:
            plain = oracle.convolve(x, w, None, s, p)
            yield "It equals the output without bias: the bias is not added", plain
            yield "The bias is added twice", self.y + b[:, None, None]
            yield "The bias is subtracted, not added", plain - b[:, None, None]
            for axis in ("height", "width"):
                if self.y.shape[2 if axis == "height" else 3] == len(b):
                    spread = b[:, None] if axis == "height" else b
                    yield f"The bias is added along the {axis}, not along the channels", plain + spread
        yield "Only the first image is convolved", np.repeat(self.y[:1], len(x), 0)

    def wrong_gradients(self, name: str, expected: dict):
        """(sentence, gradient) of known mistakes in the gradient `name`: dx, dw or db. `expected`: all gradients."""
        x, w, dy, s, p = self.x, self.w, self.dy, self.stride, self.padding
        if name == "dx":
            yield ("It is the gradient for a flipped kernel",
                   oracle.convolve_backward(x, w[:, :, ::-1, ::-1], dy, s, p)["dx"])
            wide = oracle.convolve_backward(np.pad(x, ((0, 0), (0, 0), (p, p), (p, p))), w, dy, s, 0)["dx"]
            yield "It is the gradient of the padded input: crop the padding", wide
        for share, sentence in ((len(x), "averaged over the images, not summed"),
                                (dy[0, 0].size, "averaged over the positions, not summed"),
                                (len(x) * dy[0, 0].size, "averaged over images and positions, not summed")):
            yield f"It is {sentence}", expected[name] / share
        if name != "dx":
            yield "It is the gradient of the first image only", \
                oracle.convolve_backward(x[:1], w, dy[:1], s, p)[name]
            yield "It is the gradient of the last image only", \
                oracle.convolve_backward(x[-1:], w, dy[-1:], s, p)[name]
        if name == "dw":
            yield "It is flipped", expected["dw"][:, :, ::-1, ::-1]
            yield "Its height and width are swapped", expected["dw"].swapaxes(2, 3)
            for mixed in misordered(expected["dw"]):
                yield "Channels and kernel positions are in the wrong order in the weight's shape", mixed
        if name == "db":
            yield "It has one value for each image: sum over the images, too", dy.sum((2, 3))
            yield "It has one value for each column: sum over the width, too", dy.sum((0, 2))
            yield "It is a sum over the images only", dy.sum(0)


def require_output(case: Case, results: dict) -> None:
    """Raise CheckFailed unless the output, right or wrong, has the right shape and is not constant."""
    if results["y"].shape != case.y.shape or not np.ptp(results["y"]) > 0:
        raise CheckFailed(f"the output is constant or has not the shape {format_shape(case.y)} ({case}), so that this "
                          "cannot be checked")


def misordered(w: np.ndarray) -> list[np.ndarray]:
    """A weight Co,Ci,K,K with channels and kernel positions in the wrong order when flattened, both ways."""
    Co, Ci, K, _ = w.shape
    return [w.reshape(Co, *sides).swapaxes(1, 2).reshape(w.shape) for sides in ((K * K, Ci), (Ci, K * K))]


def forward(ask, case: Case, **settings) -> dict:
    """Raise CheckFailed unless the output is right. Returns the facts."""
    facts, results = case.run(ask, **settings)
    expect_close("the output", results.get("y"), case.y, str(case), case.wrong_outputs(), 1e-5)
    return facts


def backward(ask, case: Case, names=("dx", "dw", "db"), tolerance=1e-5, **settings) -> None:
    """Raise CheckFailed unless the gradients `names` are right. The output is not checked."""
    _, results = case.run(ask, backward=True, **settings)
    expected = oracle.convolve_backward(case.x, case.w, case.dy, case.stride, case.padding)
    tensors = {"dx": "input", "dw": "weight", "db": "bias"}
    for name in names:
        expect_close(f"the gradient of the {tensors[name]}", results.get(name), expected[name], str(case),
                     case.wrong_gradients(name, expected), tolerance)


def working_settings(ask, rng) -> dict:
    """Settings of Case for which the student's forward pass is right, if there are any; the basis of other checks.

    A mistake in one feature, such as an optional bias, then fails its own check only.
    """
    def is_right(backward: bool, **settings) -> bool:
        case = Case(rng, **settings)
        try:
            return is_close(case.run(ask, backward=backward, requires_grad=["x"])[1]["y"], case.y, 1e-4)
        except StudentError:
            return False

    for dtype, bias in product(("float64", "float32"), (True, False)):
        if is_right(True, dtype=dtype, bias=bias, square=True):
            return {"dtype": dtype, "bias": bias, "square": not is_right(False, dtype=dtype, bias=bias, square=False)}
    return {"bias": True, "square": True}


@check("convolution", "forward: square images, K 3, the defaults stride 1 and padding 0", weight=2)
def plain(ask, rng):
    settings = {**working_settings(ask, rng), "square": True}
    forward(ask, Case(rng, N=1, **settings))
    forward(ask, Case(rng, **settings))
    forward(ask, Case(rng, **settings), via="defaults")


@check("convolution", "forward: with and without bias", weight=1)
def bias(ask, rng):
    settings = {**working_settings(ask, rng), "square": True}
    forward(ask, Case(rng, **{**settings, "bias": True}))
    forward(ask, Case(rng, **{**settings, "bias": False}))


@check("convolution", "forward: images that are not square", weight=1)
def non_square(ask, rng):
    settings = {**working_settings(ask, rng), "square": False}
    forward(ask, Case(rng, **settings))
    forward(ask, Case(rng, K=5, **settings))


@check("convolution", "forward: padding", weight=1)
def padding(ask, rng):
    settings = working_settings(ask, rng)
    for K, p in ((3, 1), (5, 2), (3, 4)):
        forward(ask, Case(rng, K=K, padding=p, **settings))


@check("convolution", "forward: stride, also with a remainder", weight=1)
def stride(ask, rng):
    settings = working_settings(ask, rng)
    for K, s, p in ((3, 2, 0), (3, 3, 1), (7, 2, 3), (3, 4, 0)):
        forward(ask, Case(rng, K=K, stride=s, padding=p, **settings))


@check("convolution", "forward: kernel size 1, even, and as large as the image", weight=1)
def kernels(ask, rng):
    settings = working_settings(ask, rng)
    for K in (1, 2, 4):
        forward(ask, Case(rng, K=K, **settings))
    case = Case(rng, K=5, **settings)
    case.x = case.x[:, :, :5, :5]
    case.y = oracle.convolve(case.x, case.w, case.b)
    forward(ask, case)


GEOMETRIES = ((3, 1, 0), (3, 1, 1), (3, 2, 1), (3, 3, 0), (1, 2, 0), (5, 1, 2), (7, 2, 3))  # K, stride, padding


@check("convolution", "backward: input", weight=2)
def gradient_of_input(ask, rng):
    settings = working_settings(ask, rng)
    for K, s, p in GEOMETRIES:
        backward(ask, Case(rng, K=K, stride=s, padding=p, **settings), ["dx"])


@check("convolution", "backward: weight", weight=2)
def gradient_of_weight(ask, rng):
    settings = working_settings(ask, rng)
    for K, s, p in GEOMETRIES:
        backward(ask, Case(rng, K=K, stride=s, padding=p, N=3, **settings), ["dw"])


@check("convolution", "backward: bias, and bias=None", weight=1)
def gradient_of_bias(ask, rng):
    settings = working_settings(ask, rng)
    for N, s in ((2, 2), (3, 1)):
        backward(ask, Case(rng, stride=s, N=N, **{**settings, "bias": True}), ["db"])
    case = Case(rng, **{**settings, "bias": False})
    _, results = case.run(ask, backward=True)
    if "dw" not in results:
        raise CheckFailed(f"backward gives no gradient of the weight if bias is None ({case})")


@check("convolution", "backward: frozen weight, and a dY that is not contiguous", weight=1)
def frozen_and_noncontiguous(ask, rng):
    """Gradients must be present and equal to the usual ones; whether those are right is checked elsewhere."""
    case = Case(rng, stride=2, padding=1, **working_settings(ask, rng))
    _, own = case.run(ask, backward=True)
    _, results = case.run(ask, backward=True, noncontiguous_dy=True)
    for name in ("dx", "dw"):
        if name in own:
            expect_close(f"the gradient {name} for a dY that is not "
                         "contiguous", results.get(name), own[name], str(case),
                         tolerance=1e-5)
    _, results = case.run(ask, backward=True, requires_grad=["x"])
    if "dx" not in results:
        raise CheckFailed("backward gives no gradient of the input if the weight is frozen")


@check("convolution", "CustomConv2d: the module, followed by an in-place ReLU", weight=1)
def module(ask, rng):
    case = Case(rng, stride=2, padding=1, **working_settings(ask, rng))
    # An in-place ReLU follows each convolution of SimpleNet; autograd refuses it on a view returned by a Function.
    # Expected here are the output and gradient of the student's Function; other checks judge these.
    _, results = case.run(ask, via="module", inplace_relu=True, backward=True)
    if results["y"].shape != case.y.shape:
        raise CheckFailed(f"CustomConv2d gives {format_shape(results['y'])}, expected {format_shape(case.y)} ({case})")
    expected = np.maximum(results["y"], 0)
    expect_close("the output of CustomConv2d and ReLU(inplace=True)", results.get("relu"), expected, str(case))
    case.dy = case.dy * (results["y"] > 0)
    _, own = case.run(ask, backward=True)
    expect_close("the output of CustomConv2d", results["y"], own["y"], str(case), tolerance=1e-5)
    if "dx" in own:
        expect_close("the gradient of the input through CustomConv2d and ReLU", results.get("dx"), own["dx"], str(case),
                     tolerance=1e-5)


@check("convolution", "float32 stays float32, float64 stays float64", weight=1)
def types(ask, rng):
    settings = working_settings(ask, rng)
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-4)):
        case = Case(rng, K=3, padding=1, **{**settings, "dtype": dtype})
        facts, results = case.run(ask)
        if facts.get("dtype") != dtype:
            raise CheckFailed(f"input, weight and bias of {dtype} give an output of {facts.get('dtype')}: is there a "
                              "buffer of a fixed dtype? Make it with x.new_zeros or torch.zeros_like")
        # Rounding to float32 inside makes errors of 1e-7; larger ones are for other checks.
        if not is_close(results["y"], case.y, tolerance) and is_close(results["y"], case.y, 1e-5):
            raise CheckFailed(f"the output has {dtype} but not its precision ({case}): is it rounded to float32 "
                              "inside?")
        require_output(case, results)


@check("convolution", "no convolution function is used, forward or backward", weight=1)
def no_convolution(ask, rng):
    case = Case(rng, padding=1, **working_settings(ask, rng))
    facts, results = case.run(ask, backward=True)
    if not facts.get("convolutions_disabled"):
        raise CheckFailed("torch's convolutions were re-enabled, which the sheet does not allow: staff will review "
                          "this file")
    require_output(case, results)
