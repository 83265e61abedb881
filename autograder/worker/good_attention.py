"""A known-good Attention, used instead of the student's in the checks of the block and the ViT."""

from torch import Tensor, nn


class GoodAttention(nn.Module):
    def __init__(self, dim, num_heads=8, qkv_bias=True, *_, **__):  # ignores a student's additional arguments
        nn.Module.__init__(self)
        self.dim, self.num_heads, self.scale = dim, num_heads, (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=qkv_bias), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        q, k, v = self.qkv(x).view(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, nh, H*W, C/nh)
        x = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(B, H, W, C))
