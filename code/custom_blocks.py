"""Building blocks for vision transformers: patches, windows, MLP, stochastic depth. Helper code of the sheet."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_
from torchvision.ops import StochasticDepth, stochastic_depth

__all__ = ["MLP", "DropPath", "Mlp", "PatchEmbed", "drop_path", "trunc_normal_", "window_partition",
           "window_unpartition"]


class PatchEmbed(nn.Module):
    """Cut an image into patches and embed each: B,C,H,W -> B,H',W',embed_dim (Dosovitskiy et al. 2021)."""

    def __init__(self, kernel_size=(16, 16), stride=(16, 16), padding=(0, 0), in_chans=3, embed_dim=768):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut B,H,W,C into windows of `window_size` squared, padding with zeros at the right and the bottom.

    Returns the windows B*nW,w,w,C and the padded size (Hp, Wp), which `window_unpartition` needs.
    """
    B, H, W, C = x.shape
    w = window_size
    if H % w or W % w:  # F.pad copies even where it adds nothing
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))
    Hp, Wp = x.shape[1:3]
    x = x.view(B, Hp // w, w, Wp // w, w, C).permute(0, 1, 3, 2, 4, 5)  # (B, Hp/w, Wp/w, w, w, C)
    return x.reshape(-1, w, w, C), (Hp, Wp)


def window_unpartition(windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """Put windows B*nW,w,w,C back together and cut the padding off: the inverse of `window_partition`, B,H,W,C."""
    (Hp, Wp), (H, W), w = pad_hw, hw, window_size
    x = windows.view(-1, Hp // w, Wp // w, w, w, windows.shape[-1])
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, Hp, Wp, windows.shape[-1])
    return x[:, :H, :W].contiguous()


class MLP(nn.Module):
    """Linear, activation, linear, over the last dimension."""

    def __init__(self, in_features, hidden_features=None, out_features=None, act_layer=nn.GELU, drop=0.0):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features or in_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features or in_features, out_features or in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


Mlp = MLP  # its name until 2024


def drop_path(x: Tensor, drop_prob: float = 0.0, training: bool = False) -> Tensor:
    """Set whole samples of a residual branch to zero with probability `drop_prob`, scaling up the ones kept.

    Stochastic depth (Huang et al. 2016). Outside training, or with probability 0, `x` comes back as it is.
    """
    return stochastic_depth(x, drop_prob, mode="row", training=training)


class DropPath(StochasticDepth):
    """`drop_path` as a module."""

    def __init__(self, drop_prob: float = 0.0):
        super().__init__(drop_prob, mode="row")
        self.drop_prob = drop_prob


# BEGIN SOLUTION attention
# Until 2023 these two were helper code, and student files of those years import them from here.


class Attention(nn.Module):
    """Multi-head self-attention over all H x W tokens: B,H,W,C -> B,H,W,C."""

    def __init__(self, dim, num_heads=8, qkv_bias=True):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        q, k, v = self.qkv(x).view(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, nh, H*W, C/nh)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H, W, C))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block, B,H,W,C -> B,H,W,C; window_size > 0 keeps attention inside windows."""

    def __init__(self, dim, num_heads, mlp_ratio=4.0, qkv_bias=True, drop_path=0.0, norm_layer=nn.LayerNorm,
                 act_layer=nn.GELU, window_size=0):
        super().__init__()
        self.norm1, self.norm2 = norm_layer(dim), norm_layer(dim)
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=qkv_bias)
        self.mlp = MLP(dim, int(dim * mlp_ratio), act_layer=act_layer)
        self.drop_path = DropPath(drop_path)
        self.window_size = window_size

    def attend(self, x: Tensor) -> Tensor:
        if self.window_size == 0:
            return self.attn(x)
        windows, pad_hw = window_partition(x, self.window_size)
        return window_unpartition(self.attn(windows), self.window_size, pad_hw, x.shape[1:3])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
# END SOLUTION
