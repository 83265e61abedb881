"""Known-good parts that take the place of a student's own, so that one mistake costs once.

They are put into the student's classes (`graft`), not beside them: names bound before and subclasses have them too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GoodAttention(nn.Module):
    def __init__(self, dim, num_heads=8, qkv_bias=True):
        nn.Module.__init__(self)
        self.dim, self.num_heads, self.scale = dim, num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=qkv_bias), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        q, k, v = self.qkv(x).view(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, nh, H*W, C/nh)
        x = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(B, H, W, C))


class GoodBlock(nn.Module):
    """Keeps how it was built, and in `log` the order in which blocks ran."""

    log: list["GoodBlock"] = []  # noqa: RUF012

    def __init__(self, dim, num_heads, mlp_ratio=4.0, qkv_bias=True, drop_path=0.0, norm_layer=nn.LayerNorm,
                 act_layer=nn.GELU, window_size=0):
        nn.Module.__init__(self)
        self.built = {"dim": dim, "num_heads": num_heads, "mlp_ratio": float(mlp_ratio), "qkv_bias": bool(qkv_bias),
                      "drop_path": float(drop_path), "window_size": int(window_size)}
        self.norm1, self.norm2 = norm_layer(dim), norm_layer(dim)
        self.attn = GoodAttention(dim, num_heads, qkv_bias)
        hidden = int(dim * mlp_ratio)
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), act_layer(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        GoodBlock.log.append(self)
        keep = 1 - self.built["drop_path"] if self.training else 1.0
        x = x + drop(windowed(self.attn, self.norm1(x), self.built["window_size"]), keep)
        return x + drop(self.fc2(self.act(self.fc1(self.norm2(x)))), keep)


def drop(x: Tensor, keep: float) -> Tensor:
    """Each sample of B,H,W,C with probability `keep`, scaled up; else zero."""
    return x if keep == 1 else x * torch.bernoulli(torch.full((len(x), 1, 1, 1), keep, dtype=x.dtype)) / keep


def windowed(attn: nn.Module, x: Tensor, size: int) -> Tensor:
    """Attention inside size x size windows of B,H,W,C, zero-padded at the right and the bottom; size 0: everywhere."""
    if size == 0:
        return attn(x)
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, -W % size, 0, -H % size))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    x = attn(x.view(B, rows, size, columns, size, C).transpose(2, 3).reshape(-1, size, size, C))
    x = x.view(B, rows, columns, size, size, C).transpose(2, 3).reshape(B, rows * size, columns * size, C)
    return x[:, :H, :W]


class GoodPGD:
    def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1):
        self.loss_fn, self.num_steps, self.step_size, self.epsilon = loss_fn, num_steps, step_size, epsilon

    def perturb(self, model, input):
        """Leaves the network's mode alone, as the sheet's plain version does: who calls it has to care for that."""
        adversarial = input.detach().clone()
        with torch.enable_grad():
            for _ in range(self.num_steps):
                adversarial = adversarial.detach().requires_grad_(True)
                logits = model(adversarial)
                gradient, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)), adversarial)
                adversarial = adversarial.detach() - self.step_size * gradient.sign()
                adversarial = input.detach() + (adversarial - input.detach()).clamp(-self.epsilon, self.epsilon)
        return adversarial.detach()


def graft(student, name: str, good: type, *methods: str):
    """Give the class `name` of the student's module the methods of `good`; make it one if there is none.

    Returns a function that takes it back.
    """
    theirs = getattr(student, name, None)
    if not isinstance(theirs, type) or (issubclass(good, nn.Module) and not issubclass(theirs, nn.Module)):
        setattr(student, name, good)
        return lambda: setattr(student, name, theirs)
    before = {method: vars(theirs).get(method) for method in ("__init__", *methods)}
    for method in before:
        setattr(theirs, method, getattr(good, method))

    def take_back() -> None:
        for method, old in before.items():
            setattr(theirs, method, old) if old is not None else delattr(theirs, method)
    return take_back
