"""Reference formulas in float64 NumPy. They share no code with code/ and need no torch in the grading process.

tests/test_autograder_oracle.py compares them with torch.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

erf = np.vectorize(math.erf, otypes=[np.float64])

# ------------------------------------------------------------------------------------------- convolution


def patches(x: np.ndarray, K: int, stride: int, padding: int) -> np.ndarray:
    """N,Ci,H,W -> N,Ci,Ho,Wo,K,K."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return sliding_window_view(x, (K, K), axis=(2, 3))[:, :, ::stride, ::stride]


def convolve(x, w, b=None, stride=1, padding=0) -> np.ndarray:
    """N,Ci,H,W * Co,Ci,K,K -> N,Co,Ho,Wo (sheet 3.1.1, equation 1)."""
    y = np.einsum("nihwkl,oikl->nohw", patches(x, w.shape[2], stride, padding), w)
    return y if b is None else y + b[:, None, None]


def convolve_backward(x, w, dy, stride=1, padding=0) -> dict[str, np.ndarray]:
    """The gradients dx, dw, db of convolve(x, w, b) for the gradient dy of its output."""
    K, (Ho, Wo) = w.shape[2], dy.shape[2:]
    dx = np.zeros((*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding))
    for k in range(K):
        for m in range(K):
            window = np.s_[:, :, k:k + stride * Ho:stride, m:m + stride * Wo:stride]
            dx[window] += np.einsum("nohw,oi->nihw", dy, w[:, :, k, m])
    inner = np.s_[:, :, padding:padding + x.shape[2], padding:padding + x.shape[3]]
    return {"dx": dx[inner], "dw": np.einsum("nihwkl,nohw->oikl", patches(x, K, stride, padding), dy),
            "db": dy.sum((0, 2, 3))}


# ------------------------------------------------------------------------------------------ transformers


def softmax(x, axis=-1) -> np.ndarray:
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def linear(x, weights: dict, name: str) -> np.ndarray:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def split_heads(x, weights, heads: int, layout: str = "3hd", order: str = "qkv") -> list[np.ndarray]:
    """q, k, v of x (B,H,W,C), each B,heads,T,d. `layout`: how the 3C channels split into 3, heads, d (usual: 3hd)."""
    B, H, W, C = x.shape
    sizes = {"3": 3, "h": heads, "d": C // heads}
    qkv = linear(x, weights, "qkv").reshape(B, H * W, *[sizes[axis] for axis in layout])
    qkv = qkv.transpose(2 + layout.index("3"), 0, 2 + layout.index("h"), 1, 2 + layout.index("d"))
    return [qkv[order.index(name)] for name in "qkv"]


def reshaped_without_permute(x, weights, heads: int) -> np.ndarray:
    """A known mistake: q, k, v by a direct reshape to 3,B,heads,T,d, which mixes tokens and channels."""
    B, H, W, C = x.shape
    return linear(x, weights, "qkv").reshape(3, B, heads, H * W, C // heads)


def attention(x, weights, heads: int, layout="3hd", order="qkv", merge="hd", scale=None, axis=-1, proj=True):
    """Multi-head self-attention over B,H,W,C (sheet, equations 2 and 3).

    `layout` and `order` are those of split_heads, `merge` the channel order of the merged heads. Known mistakes:
    layout "scrambled", merge "none", another `scale` or softmax `axis`, proj=False.
    """
    B, H, W, C = x.shape
    scrambled = layout == "scrambled"
    q, k, v = (reshaped_without_permute(x, weights, heads) if scrambled else
               split_heads(x, weights, heads, layout, order))
    scores = q @ k.swapaxes(-1, -2) * ((C // heads) ** -0.5 if scale is None else scale)
    mixed = softmax(scores, axis) @ v  # (B, nh, T, d)
    order_of_axes = {"hd": (0, 2, 1, 3), "dh": (0, 2, 3, 1), "none": (0, 1, 2, 3)}[merge]
    mixed = mixed.transpose(order_of_axes).reshape(B, H, W, C)
    return linear(mixed, weights, "proj") if proj else mixed


def windowed_attention(x, weights, heads: int, size: int, **layout) -> np.ndarray:
    """Attention in size x size windows, zero-padded at the right and the bottom; size 0: global attention."""
    if size == 0:
        return attention(x, weights, heads, **layout)
    H, W = x.shape[1:3]
    x = np.pad(x, ((0, 0), (0, -H % size), (0, -W % size), (0, 0)))
    y = np.empty_like(x)
    for i in range(0, x.shape[1], size):
        for j in range(0, x.shape[2], size):
            y[:, i:i + size, j:j + size] = attention(x[:, i:i + size, j:j + size], weights, heads, **layout)
    return y[:, :H, :W]


def layer_norm(x, weights, name: str, eps: float = 1e-5) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


ACTIVATIONS = {"GELU": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))), "Tanh": np.tanh}  # by their names in torch.nn


def mlp(x, weights, activation: str = "GELU") -> np.ndarray:
    return linear(ACTIVATIONS[activation](linear(x, weights, "fc1")), weights, "fc2")


def transformer_block(x, weights, heads: int, size: int, factors=(1.0, 1.0), eps: float = 1e-5,
                      activation: str = "GELU", **layout) -> np.ndarray:
    """Pre-norm block: y = x + f0 * attention(norm1(x)), y + f1 * mlp(norm2(y)). Drop path makes f 0 or 1/keep.

    `layout`: the attention's, see split_heads.
    """
    attended = windowed_attention(layer_norm(x, weights, "norm1", eps), weights, heads, size, **layout)
    y = x + factors[0] * attended
    return y + factors[1] * mlp(layer_norm(y, weights, "norm2", eps), weights, activation)


# ----------------------------------------------------------------------------------------------- attacks


class QuadraticNet:
    """The QuadraticNet of worker/attacks.py in NumPy, with its gradient."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.params = {name: array.astype(np.float64) for name, array in arrays.items()}

    def standardize(self, x) -> np.ndarray:
        """BatchNorm in evaluation mode, flattened: N,C,H,W -> N,C*H*W."""
        mean, std = self.params["mean"][:, None, None], np.sqrt(self.params["var"][:, None, None] + 1e-5)
        return ((x - mean) / std).reshape(len(x), -1)

    def logits(self, x) -> np.ndarray:
        z, p = self.standardize(x), self.params
        return z @ p["w"].T - p["c"] * np.square(z[:, None] - p["t"]).sum(2) + p["b"]

    def gradient(self, x, labels, smoothing: float = 0.0) -> np.ndarray:
        """Gradient of each image's cross-entropy, with label smoothing, with respect to the image, N,C,H,W."""
        z, p = self.standardize(x), self.params
        targets = (1 - smoothing) * np.eye(len(p["b"]))[labels] + smoothing / len(p["b"])
        dlogits = softmax(self.logits(x)) - targets  # (N, classes)
        slopes = p["w"] - 2 * p["c"][:, None] * (z[:, None] - p["t"])  # (N, classes, pixels)
        std = np.sqrt(p["var"] + 1e-5)[:, None, None]
        return np.einsum("nk,nkp->np", dlogits, slopes).reshape(x.shape) / std
