"""Inputs and known mistakes of the convolution."""

import copy

import numpy as np

from autograder import oracle, rounding

TENSORS = {"dx": "input", "dw": "weight", "db": "bias"}


class Case:
    """One random convolution of float32 numbers, kept in float64 for the oracle.

    Ci and Co differ, and so do H and W unless `square`, so that mix-ups show.
    """

    def __init__(self, rng, K=3, stride=1, padding=0, bias=True, square=False, N=2):
        self.K, self.stride, self.padding = K, stride, padding
        Ci, Co = (int(side) for side in rng.choice([2, 3, 4, 5], 2, replace=False))
        H, W = (max(K, 4) + int(extra) for extra in rng.choice(range(1, 8), 2, replace=False))
        self.x = rounding.rounded(rng.normal(size=(N, Ci, H, H if square else W)))
        self.w = rounding.rounded(rng.normal(size=(Co, Ci, K, K)))
        self.b = rounding.rounded(rng.normal(size=Co)) if bias else None
        self.y = oracle.convolve(self.x, self.w, self.b, stride, padding)
        self.dy = rounding.rounded(rng.normal(size=self.y.shape))

    def other_values(self) -> "Case":
        """Another case of the same shapes."""
        other = copy.copy(self)
        for name in ("x", "w", "b", "dy"):
            array = getattr(self, name)
            setattr(other, name, None if array is None else rounding.rounded(array[::-1] - 0.5))
        other.y = oracle.convolve(other.x, other.w, other.b, self.stride, self.padding)
        return other

    def __str__(self) -> str:
        N, Ci, H, W = self.x.shape
        return (f"N={N}, Ci={Ci}, H={H}, W={W}, Co={len(self.w)}, K={self.K}, stride={self.stride}, "
                f"padding={self.padding}, {'no bias' if self.b is None else 'bias'}")

    def arrays(self, backward: bool = False) -> dict[str, np.ndarray]:
        """What the worker gets, in float32."""
        return rounding.single({"x": self.x, "w": self.w, **({} if self.b is None else {"b": self.b}),
                                **({"dy": self.dy} if backward else {})})

    def run(self, ask, backward=False, **settings) -> tuple[dict, dict]:
        return ask("run_convolution", self.arrays(backward), stride=self.stride, padding=self.padding, **settings)

    def gradients(self) -> dict[str, np.ndarray]:
        return oracle.convolve_backward(self.x, self.w, self.dy, self.stride, self.padding)

    def tolerance(self) -> np.ndarray:
        """Of the output: each value is a sum of Ci * K * K products and the bias."""
        sums = oracle.convolve(
            abs(self.x), abs(self.w), None if self.b is None else abs(self.b), self.stride, self.padding
        )
        return rounding.of_sums(sums, self.w[0].size + 1)

    def gradient_tolerances(self) -> dict[str, np.ndarray]:
        """dx is a sum of at most Co * K * K products, dw and db of one for each output position and image."""
        sums = oracle.convolve_backward(abs(self.x), abs(self.w), abs(self.dy), self.stride, self.padding)
        terms = {"dx": self.w[:, 0].size, "dw": self.dy[:, 0].size, "db": self.dy[:, 0].size}
        return {name: rounding.of_sums(sums[name], terms[name]) for name in sums}

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


def misordered(w: np.ndarray) -> list[np.ndarray]:
    """A weight Co,Ci,K,K with channels and kernel positions in the wrong order when flattened, both ways."""
    Co, Ci, K, _ = w.shape
    return [w.reshape(Co, *sides).swapaxes(1, 2).reshape(w.shape) for sides in ((K * K, Ci), (Ci, K * K))]
