"""A known-good TransformerBlock, used instead of the student's in the checks of the ViT."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autograder.worker.good_attention import GoodAttention


class GoodBlock(nn.Module):
    """Records its constructor arguments in `settings`, and its forward passes in the class attribute `log`."""

    log: list[tuple[nn.Module, Tensor, Tensor]] = []  # noqa: RUF012  (block, input, output)

    def __init__(self, dim, num_heads, mlp_ratio=4.0, qkv_bias=True, drop_path=0.0, norm_layer=nn.LayerNorm,
                 act_layer=nn.GELU, window_size=0, *_, **__):  # ignores a student's additional arguments
        nn.Module.__init__(self)
        self.settings = {"dim": dim, "num_heads": num_heads, "mlp_ratio": float(mlp_ratio), "qkv_bias": bool(qkv_bias),
                         "drop_path": float(drop_path), "window_size": int(window_size)}
        self.norm1, self.norm2 = norm_layer(dim), norm_layer(dim)
        self.attn = GoodAttention(dim, num_heads, qkv_bias)
        hidden = int(dim * mlp_ratio)
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), act_layer(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        keep = 1 - self.settings["drop_path"] if self.training else 1.0
        y = x + drop(windowed_attention(self.attn, self.norm1(x), self.settings["window_size"]), keep)
        y = y + drop(self.fc2(self.act(self.fc1(self.norm2(y)))), keep)
        GoodBlock.log[:] = [*GoodBlock.log[-15:], (self, x.detach(), y.detach())]
        return y


def drop(x: Tensor, keep: float) -> Tensor:
    """Drop path on B,H,W,C: keep each sample with probability `keep` and scale it by 1/keep, else zero it."""
    return x if keep == 1 else x * torch.bernoulli(torch.full((len(x), 1, 1, 1), keep, dtype=x.dtype)) / keep


def windowed_attention(attn: nn.Module, x: Tensor, size: int) -> Tensor:
    """Attention in size x size windows of B,H,W,C, zero-padded at the right and the bottom; size 0: global."""
    if size == 0:
        return attn(x)
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, -W % size, 0, -H % size))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    x = attn(x.view(B, rows, size, columns, size, C).transpose(2, 3).reshape(-1, size, size, C))
    x = x.view(B, rows, columns, size, size, C).transpose(2, 3).reshape(B, rows * size, columns * size, C)
    return x[:, :H, :W]
