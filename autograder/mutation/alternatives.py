"""Right solutions of the layers, written by hand in ways that students choose, for `rewrites` to vary further."""

from typing import NamedTuple


class Alternative(NamedTuple):
    """`names`: what its parameters are made of, where they are not named as the reference's (probe/compare.py).

    `free`: it differs from the reference in numbers, as the sheet's words allow.
    """

    part: str
    name: str
    source: str
    names: dict[str, str] = {}  # noqa: RUF012
    free: bool = False


def conv(forward: str, backward: str, before: str = "") -> str:
    def body(text: str) -> str:
        return "\n".join("        " + line for line in text.strip("\n").splitlines())
    return (before + "\nclass CustomConv2DFunction(torch.autograd.Function):\n    @staticmethod\n"
            "    def forward(ctx, input_feats, weight, bias, stride=1, padding=0):\n" + body(forward)
            + "\n\n    @staticmethod\n    def backward(ctx, grad_output):\n" + body(backward) + "\n")


SIZES = """
N, Ci, H, W = input_feats.shape
Co, _, K, _ = weight.shape
Ho, Wo = (H + 2 * padding - K) // stride + 1, (W + 2 * padding - K) // stride + 1
ctx.save_for_backward(input_feats, weight, bias)
ctx.geometry = stride, padding
"""
LOAD = """
input_feats, weight, bias = ctx.saved_tensors
stride, padding = ctx.geometry
N, Ci, H, W = input_feats.shape
Co, _, K, _ = weight.shape
flat = grad_output.reshape(N, Co, -1)
"""
BACK = LOAD + """
cols = unfold(input_feats, kernel_size=K, padding=padding, stride=stride)
grad_cols = torch.einsum('oj,nol->njl', weight.reshape(Co, -1), flat)
grad_input = fold(grad_cols, output_size=(H, W), kernel_size=K, padding=padding, stride=stride)
grad_weight = torch.einsum('nol,njl->oj', flat, cols).reshape(weight.shape)
grad_bias = None if bias is None else grad_output.sum(dim=(0, 2, 3))
return grad_input, grad_weight, grad_bias, None, None
"""
CONVOLUTIONS = {
    "float32 zeros filled image by image": conv(SIZES + """
output = torch.zeros(N, Co, Ho, Wo)
for n in range(N):
    cols = unfold(input_feats[n].unsqueeze(0), kernel_size=K, padding=padding, stride=stride).squeeze(0)
    output[n] = torch.mm(weight.reshape(Co, -1), cols).reshape(Co, Ho, Wo)
    if bias is not None:
        output[n] += bias.reshape(Co, 1, 1)
return output
""", LOAD + """
grad_input, grad_weight = torch.zeros(N, Ci, H, W), torch.zeros(Co, Ci * K * K)
for n in range(N):
    cols = unfold(input_feats[n].unsqueeze(0), kernel_size=K, padding=padding, stride=stride).squeeze(0)
    grad_weight += flat[n].mm(cols.t())
    back = weight.reshape(Co, -1).t().mm(flat[n]).unsqueeze(0)
    grad_input[n] = fold(back, (H, W), kernel_size=K, padding=padding, stride=stride).squeeze(0)
grad_bias = None if bias is None else flat.sum(2).sum(0)
return grad_input, grad_weight.reshape(Co, Ci, K, K), grad_bias, None, None
"""),
    "einsum": conv(SIZES + """
cols = unfold(input_feats, kernel_size=K, padding=padding, stride=stride)
output = torch.einsum('oj,njl->nol', weight.reshape(Co, -1), cols)
if bias is not None:
    output = output + bias[None, :, None]
return output.reshape(N, Co, Ho, Wo).clone()
""", BACK),
    "the bias as a row of ones": conv(SIZES + """
cols = unfold(input_feats, kernel_size=K, padding=padding, stride=stride)
ones = cols.new_ones(N, 1, cols.shape[2])
last = torch.zeros(Co, 1).to(weight) if bias is None else bias.unsqueeze(1)
stacked = torch.cat([weight.reshape(Co, -1), last], dim=1)
output = stacked @ torch.cat([cols, ones], dim=1)
return fold(output, (Ho, Wo), (1, 1))
""", BACK),
    "baddbmm": conv(SIZES + """
cols = unfold(input_feats, kernel_size=K, padding=padding, stride=stride)
rows = weight.reshape(1, Co, -1).expand(N, -1, -1)
start = torch.zeros_like(weight[:, 0, 0, 0]) if bias is None else bias
output = torch.baddbmm(start.reshape(1, Co, 1), rows, cols)
return output.reshape(N, Co, Ho, Wo).contiguous()
""", BACK),
    "two halves of the batch": conv(SIZES + """
pieces = []
for piece in torch.split(input_feats, max(1, N // 2)):
    cols = unfold(piece, kernel_size=K, padding=padding, stride=stride)
    pieces.append(torch.matmul(weight.flatten(1), cols))
output = torch.cat(pieces, dim=0).reshape(N, Co, Ho, Wo)
if bias is not None:
    output = output.add(bias.view(1, Co, 1, 1))
return output
""", BACK),
    "a helper function that is also used behind": conv(SIZES + """
ctx.cols = patches(input_feats, K, stride, padding)
output = ctx.cols.transpose(1, 2) @ weight.reshape(Co, -1).t()
if bias is not None:
    output = output + bias
return output.transpose(1, 2).reshape(N, Co, Ho, Wo).contiguous()
""", BACK.replace("cols = unfold(input_feats, kernel_size=K, padding=padding, stride=stride)\n", "cols = ctx.cols\n"),
        "def patches(images, K, stride, padding):\n    return unfold(images, K, padding=padding, stride=stride)\n\n"),
    "F.linear, padded by hand": conv(SIZES + """
padded = F.pad(input_feats, (padding, padding, padding, padding))
cols = padded.unfold(2, K, stride).unfold(3, K, stride).permute(0, 2, 3, 1, 4, 5).reshape(N, Ho, Wo, -1)
output = F.linear(cols, weight.reshape(Co, -1), bias)
return output.permute(0, 3, 1, 2).contiguous()
""", BACK),
}
INIT = """
    def __init__(self, dim, num_heads=8, qkv_bias=True):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        B, H, W, C = x.shape
"""
SPLIT = "        q, k, v = self.qkv(x).reshape(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)\n"
JOIN = "        out = out.transpose(1, 2).reshape(B, H, W, C)\n        return self.proj(out)\n"


def attention(body: str) -> str:
    return "class Attention(nn.Module):" + INIT + body


ATTENTIONS = {
    "softmax in float32": attention(SPLIT + """
        scores = q @ k.transpose(-2, -1) * self.scale
        out = torch.softmax(scores, dim=-1, dtype=torch.float32) @ v
""" + JOIN),
    "exponential with the maximum subtracted": attention(SPLIT + """
        scores = torch.matmul(q, k.transpose(2, 3)) * self.scale
        scores = scores - scores.amax(dim=-1, keepdim=True)
        weights = torch.exp(scores)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        out = torch.matmul(weights, v)
""" + JOIN),
    "float32 zeros filled head by head": attention("""
        q, k, v = self.qkv(x).reshape(B, H * W, 3 * C).chunk(3, dim=2)
        d = C // self.num_heads
        out = torch.zeros(B, H * W, C)
        for h in range(self.num_heads):
            part = slice(h * d, (h + 1) * d)
            scores = torch.bmm(q[:, :, part], k[:, :, part].transpose(1, 2)) * self.scale
            out[:, :, part] = torch.bmm(F.softmax(scores, dim=-1), v[:, :, part])
        return self.proj(out.reshape(B, H, W, C))
"""),
    "einsum over heads": attention("""
        q, k, v = [part.reshape(B, H * W, self.num_heads, -1) for part in self.qkv(x).chunk(3, dim=-1)]
        weights = torch.einsum('bihd,bjhd->bhij', q, k).mul(self.scale).softmax(dim=-1)
        out = torch.einsum('bhij,bjhd->bihd', weights, v).reshape(B, H, W, C)
        return self.proj(out)
"""),
    "one image after the other": attention("""
        results = []
        for image in x:
            tokens = self.qkv(image.reshape(H * W, C)).reshape(H * W, 3, self.num_heads, -1)
            q, k, v = tokens.permute(1, 2, 0, 3)
            weights = torch.softmax(q @ k.transpose(1, 2) / (C // self.num_heads) ** 0.5, dim=2)
            results.append((weights @ v).permute(1, 0, 2).reshape(H, W, C))
        return self.proj(torch.stack(results))
"""),
    "heads folded into the batch": attention("""
        d = C // self.num_heads
        tokens = self.qkv(x).reshape(B, H * W, 3, self.num_heads, d)
        q, k, v = (tokens[:, :, i].permute(0, 2, 1, 3).reshape(B * self.num_heads, H * W, d) for i in range(3))
        empty = q.new_zeros(B * self.num_heads, H * W, H * W)
        weights = torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=self.scale).softmax(-1)
        out = (weights @ v).reshape(B, self.num_heads, H * W, d)
""" + JOIN),
    "fused attention": attention(SPLIT + """
        out = F.scaled_dot_product_attention(q, k, v)
""" + JOIN),
    "scaled before the product, heads concatenated": attention(SPLIT + """
        out = F.softmax((q * self.scale).matmul(k.transpose(-1, -2)), -1).matmul(v)
        out = torch.cat([out[:, h] for h in range(self.num_heads)], dim=-1)
        return self.proj(out.view(B, H, W, C))
"""),
}
SEPARATE = """
class Attention(nn.Module):
    def __init__(self, dim, num_heads=8, qkv_bias=True):
        super().__init__()
        self.heads, self.width = num_heads, dim // num_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=qkv_bias) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def split(self, x):
        return x.flatten(1, 2).unflatten(-1, (self.heads, self.width)).transpose(1, 2)

    def forward(self, x):
        q, k, v = self.split(self.to_q(x)), self.split(self.to_k(x)), self.split(self.to_v(x))
        weights = (q @ k.mT / self.width ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2)).unflatten(1, x.shape[1:3])
"""
SEPARATE_NAMES = {f"to_{name}\\.(.*)": f"t('qkv.\\1').chunk(3)[{i}]" for i, name in enumerate("qkv")} | {
    r"out\.(.*)": r"t('proj.\1')"}

LAYERS = [*(Alternative("convolution", name, source) for name, source in CONVOLUTIONS.items()),
          *(Alternative("attention", name, source) for name, source in ATTENTIONS.items()),
          Alternative("attention", "three layers for q, k and v", SEPARATE, SEPARATE_NAMES)]
