"""Correct solutions that differ from the reference. Each must get all points of its part."""

from autograder.variants import Variant, attacks_right, changed, textbook
from autograder.variants.right_structures import STRUCTURES

C, A, B, V, P, T = "convolution", "attention", "block", "vit", "pgd", "adversarial"


def conv(forward: str, backward: str) -> str:
    """Source of CustomConv2DFunction with these two method bodies."""
    def body(text: str) -> str:
        return "\n".join("        " + line for line in text.strip("\n").splitlines())
    return ("\nclass CustomConv2DFunction(torch.autograd.Function):\n    @staticmethod\n"
            "    def forward(ctx, input_feats, weight, bias, stride=1, padding=0):\n" + body(forward)
            + "\n\n    @staticmethod\n    def backward(ctx, grad_output):\n" + body(backward)
            + "\n\n\ncustom_conv2d = CustomConv2DFunction.apply\n")


SAVE = "ctx.save_for_backward(input_feats, weight, bias)\nctx.stride, ctx.padding = stride, padding\n"
LOAD = "x, weight, bias = ctx.saved_tensors\nS, P, K = ctx.stride, ctx.padding, weight.shape[2]\n"
SLICES = conv(SAVE + """
N, Ci, H, W = input_feats.shape
Co, _, K, _ = weight.shape
x = F.pad(input_feats, (padding,) * 4)
Ho, Wo = (x.shape[2] - K) // stride + 1, (x.shape[3] - K) // stride + 1
out = x.new_zeros(N, Co, Ho, Wo)
for i in range(K):
    for j in range(K):
        piece = x[:, :, i:i + stride * (Ho - 1) + 1:stride, j:j + stride * (Wo - 1) + 1:stride]
        out += torch.einsum('nchw,oc->nohw', piece, weight[:, :, i, j])
return out if bias is None else out + bias.view(1, -1, 1, 1)
""", LOAD + """
Ho, Wo = grad_output.shape[2:]
padded = F.pad(x, (P,) * 4)
gx, gw = torch.zeros_like(padded), torch.zeros_like(weight)
for i in range(K):
    for j in range(K):
        rows, cols = slice(i, i + S * (Ho - 1) + 1, S), slice(j, j + S * (Wo - 1) + 1, S)
        gx[:, :, rows, cols] += torch.einsum('nohw,oc->nchw', grad_output, weight[:, :, i, j])
        gw[:, :, i, j] = torch.einsum('nohw,nchw->oc', grad_output, padded[:, :, rows, cols])
gb = None if bias is None else grad_output.sum((0, 2, 3))
return gx[:, :, P:P + x.shape[2], P:P + x.shape[3]], gw, gb, None, None
""")
TENSORDOT = conv(SAVE + """
x = F.pad(input_feats, (padding,) * 4)
K = weight.shape[2]
patches = x.unfold(2, K, stride).unfold(3, K, stride)
out = torch.tensordot(patches, weight, dims=([1, 4, 5], [1, 2, 3])).permute(0, 3, 1, 2)
return out.clone() if bias is None else out + bias.view(1, -1, 1, 1)
""", LOAD + """
patches = F.pad(x, (P,) * 4).unfold(2, K, S).unfold(3, K, S)
gw = torch.tensordot(grad_output, patches, dims=([0, 2, 3], [0, 2, 3]))
cols = torch.tensordot(grad_output, weight, dims=([1], [0])).permute(0, 3, 4, 5, 1, 2)
gx = fold(cols.reshape(len(x), -1, cols.shape[-2] * cols.shape[-1]), x.shape[2:], K, padding=P, stride=S)
return gx, gw, None if bias is None else grad_output.sum((0, 2, 3)), None, None
""")
BY_AUTOGRAD = conv(SAVE + """
cols = unfold(input_feats, weight.shape[2], padding=padding, stride=stride)
Ho = (input_feats.shape[2] + 2 * padding - weight.shape[2]) // stride + 1
out = weight.flatten(1) @ cols
if bias is not None:
    out = out + bias[:, None]
return out.view(len(input_feats), len(weight), Ho, -1).clone()
""", LOAD + """
with torch.enable_grad():
    given = [tensor.detach().requires_grad_(True) for tensor in (x, weight)]
    out = given[1].flatten(1) @ unfold(given[0], K, padding=P, stride=S)
gx, gw = torch.autograd.grad(out, given, grad_output.flatten(2))
return gx, gw, None if bias is None else grad_output.sum(dim=[0, 2, 3]), None, None
""")
ONE_BY_ONE = conv(SAVE + """
outputs = []
for image in input_feats:
    cols = unfold(image[None], weight.shape[2], padding=padding, stride=stride)[0]
    outputs.append(torch.addmm(torch.zeros(1, 1, dtype=cols.dtype), weight.flatten(1), cols))
out = torch.stack(outputs)
out = fold(out, [(side + 2 * padding - weight.shape[2]) // stride + 1 for side in input_feats.shape[2:]], 1)
return out if bias is None else out.add_(bias[None, :, None, None])
""", LOAD + """
gx, gw = torch.zeros_like(x), torch.zeros_like(weight)
for n in range(len(x)):
    cols = unfold(x[n:n + 1], K, padding=P, stride=S)[0]
    gw += (grad_output[n].reshape(len(weight), -1) @ cols.t()).view_as(weight)
    gx[n] = fold((weight.flatten(1).t() @ grad_output[n].reshape(len(weight), -1))[None], x.shape[2:], K, padding=P, stride=S)[0]
return gx, gw, None if bias is None else grad_output.sum((0, 2, 3)), None, None
""")
FLOAT64 = changed(C, ("out = w_rows.matmul(cols)", "out = w_rows.double().matmul(cols.double()).to(cols.dtype)"),
                  ("grad_rows.matmul(cols.transpose(1, 2)).sum(dim=0)",
                   "grad_rows.double().matmul(cols.double().transpose(1, 2)).sum(dim=0).to(cols.dtype)"))
LINEAR = changed(C, ("out = w_rows.matmul(cols)", "out = F.linear(cols.transpose(1, 2), w_rows).transpose(1, 2)"),
                 ("fold(out, (Ho, Wo), kernel_size=1)", "out.reshape(N, Co, Ho, Wo).contiguous().clone()"))
STRIDED = conv(SAVE + """
x = F.pad(input_feats, (padding,) * 4).contiguous()
N, C, H, W = x.shape
K, Ho, Wo = weight.shape[2], (H - weight.shape[2]) // stride + 1, (W - weight.shape[2]) // stride + 1
a, b, c, d = x.stride()
view = x.as_strided((N, C, Ho, Wo, K, K), (a, b, c * stride, d * stride, c, d))
out = torch.einsum('nchwij,ocij->nohw', view, weight)
return out.contiguous() + (0 if bias is None else bias.view(-1, 1, 1))
""", LOAD + """
cols = unfold(x, K, padding=P, stride=S).transpose(1, 2).reshape(-1, weight[0].numel())
rows = grad_output.permute(0, 2, 3, 1).reshape(-1, len(weight))
gx = fold((rows @ weight.flatten(1)).view(len(x), -1, weight[0].numel()).transpose(1, 2), x.shape[2:], K, padding=P, stride=S)
return gx, (rows.t() @ cols).view_as(weight), rows.sum(0) if bias is not None else None, None, None
""")
EINSUM = changed(A, ("        attn = q @ k.transpose(-2, -1) * self.scale\n",
                     "        attn = torch.einsum('btd,bsd->bts', q * self.scale, k)\n"),
                 ("x = attn @ v\n", "x = torch.einsum('bts,bsd->btd', attn, v)\n"))
PER_HEAD = '''
class Attention(nn.Module):
    """Channels cut as head, then q, k, v; a loop over the heads."""
    def __init__(self, dim, num_heads=8, qkv_bias=True):
        super().__init__()
        self.heads, self.scale = num_heads, (dim // num_heads) ** 0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3, bias=qkv_bias), nn.Linear(dim, dim)

    def forward(self, x):
        tokens = self.qkv(x).flatten(1, 2)
        outputs = []
        for chunk in tokens.chunk(self.heads, dim=-1):
            q, k, v = chunk.chunk(3, dim=-1)
            outputs.append(torch.softmax(q.bmm(k.transpose(1, 2)).div(self.scale), -1).bmm(v))
        return self.proj(torch.cat(outputs, -1)).view(x.shape)
'''
SDPA = '''
class Attention(nn.Module):
    def __init__(self, dim, num_heads=8, qkv_bias=True):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        B, H, W, C = x.shape
        k, q, v = [t.view(B, H * W, self.num_heads, -1).transpose(1, 2) for t in self.qkv(x).split(C, dim=-1)]
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.permute(0, 2, 1, 3).flatten(2)).unflatten(1, (H, W))
'''
OWN_MLP = '''
class TransformerBlock(nn.Module):
    """Norms made in the other order, an MLP of its own, the windows by view and permute."""
    def __init__(self, dim, num_heads, mlp_ratio=4.0, qkv_bias=True, drop_path=0.0, norm_layer=nn.LayerNorm,
                 act_layer=nn.GELU, window_size=0):
        super().__init__()
        self.after, self.before = norm_layer(dim), norm_layer(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, int(dim * mlp_ratio)), act_layer(), nn.Linear(int(dim * mlp_ratio), dim))
        self.mix = Attention(dim, num_heads, qkv_bias)
        self.rate, self.w = drop_path, window_size

    def keep(self, x):
        if not self.training or self.rate == 0:
            return x
        mask = (torch.rand(len(x), device=x.device) >= self.rate).to(x.dtype)
        return x * mask.view(-1, 1, 1, 1) / (1 - self.rate)

    def attend(self, x):
        if not self.w:
            return self.mix(x)
        B, H, W, C = x.shape
        w = self.w
        x = nn.functional.pad(x, (0, 0, 0, (w - W % w) % w, 0, (w - H % w) % w))
        h, v = x.shape[1] // w, x.shape[2] // w
        x = self.mix(x.reshape(B, h, w, v, w, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, w, w, C))
        return x.reshape(B, h, v, w, w, C).permute(0, 1, 3, 2, 4, 5).reshape(B, h * w, v * w, C)[:, :H, :W]

    def forward(self, x):
        x = x + self.keep(self.attend(self.before(x)))
        return x + self.keep(self.feed_forward(self.after(x)))
'''
HELPED = changed(B, ("DropPath(drop_path) if drop_path > 0.0 else nn.Identity()", "DropPath(drop_path)"),
                 ("        x = x + self.drop_path(self.mlp(self.norm2(x)))\n        return x",
                  "        return x.add(self.drop_path(self.mlp(self.norm2(x))))"))
MAX_HEAD = changed(V, ("        x = self.norm(x)\n        x = x.mean(dim=(1, 2))\n        return self.head(x)",
                       "        x = self.head(self.norm(x).flatten(1, 2))\n        return torch.logsumexp(x, dim=1)"))
OWN_NAMES = '''
class Block(TransformerBlock):
    pass


class SimpleViT(nn.Module):
    """Own names, positions as channels first, an extra norm behind the patches, two layers in the head."""
    def __init__(self, img_size=128, num_classes=100, patch_size=16, in_chans=3, embed_dim=192, depth=4, num_heads=4,
                 mlp_ratio=4.0, qkv_bias=True, drop_path_rate=0.1, norm_layer=nn.LayerNorm, act_layer=nn.GELU,
                 use_abs_pos=True, window_size=4, window_block_indexes=(0, 2)):
        super().__init__()
        self.cut = nn.Linear(in_chans * patch_size ** 2, embed_dim)
        self.p = patch_size
        self.where = nn.Parameter(torch.zeros(1, embed_dim, img_size // patch_size, img_size // patch_size)) if use_abs_pos else 0
        self.first = norm_layer(embed_dim)
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.layers = nn.Sequential(*[Block(embed_dim, num_heads, mlp_ratio, qkv_bias, rates[i], norm_layer, act_layer,
                                            window_size * (i in window_block_indexes)) for i in range(depth)])
        self.classify = nn.Sequential(norm_layer(embed_dim), nn.Linear(embed_dim, embed_dim), nn.Tanh(), nn.Linear(embed_dim, num_classes))

    def forward(self, x):
        N, C, H, W = x.shape
        p = self.p
        x = x.view(N, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5).flatten(3)
        x = self.cut(x).permute(0, 3, 1, 2) + self.where
        x = self.layers(self.first(x.permute(0, 2, 3, 1)))
        return self.classify(x.mean((1, 2)))
'''
POOLING = changed(V, ("        self.head = nn.Linear(embed_dim, num_classes)\n",
                      "        self.head = nn.Linear(embed_dim, num_classes)\n        self.score = nn.Linear(embed_dim, 1)\n"),
                  ("        x = x.mean(dim=(1, 2))\n", "        x = x.flatten(1, 2)\n        x = (x * self.score(x).softmax(dim=1)).sum(dim=1)\n"))
GRAD = changed(P, ("            loss.backward()\n            with torch.no_grad():\n                output = output - self.step_size * output.grad.sign()\n",
                   "            grad, = torch.autograd.grad(loss, output)\n            with torch.no_grad():\n                output = output - self.step_size * torch.sign(grad)\n"))
RANDOM_START = changed(P, ("output = input.clone().detach()", "output = input.detach() + torch.empty_like(input).uniform_(-self.epsilon, self.epsilon)"))
LABEL_ONCE = changed(P, ("        for _ in range(self.num_steps):\n", "        with torch.no_grad():\n            label = model(input).argmin(dim=1)\n        for _ in range(self.num_steps):\n"),
                     ("            label = pred.argmin(dim=1)\n            loss", "            loss"))
DELTA = '''
class PGDAttack:
    """The perturbation is the leaf tensor; the parameters' gradients are restored."""
    def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1):
        self.loss_fn, self.num_steps, self.step_size, self.epsilon = loss_fn, num_steps, step_size, epsilon

    def perturb(self, model, input):
        delta = torch.zeros_like(input, requires_grad=True)
        kept = [p.grad for p in model.parameters()]
        for _ in range(self.num_steps):
            logits = model(input.detach() + delta)
            (-self.loss_fn(logits, logits.min(1)[1])).backward()
            delta.data = (delta.data + self.step_size * delta.grad.sign()).clamp(-self.epsilon, self.epsilon)
            delta.grad = None
        for p, grad in zip(model.parameters(), kept):
            p.grad = grad
        return (input + delta).detach()
'''
BOTH = changed(P, ("output = input.clone().detach()", "output = input.detach() + self.epsilon * (2 * torch.rand_like(input) - 1)"),
               ("        for _ in range(self.num_steps):\n", "        with torch.no_grad():\n            label = model(input).argmin(dim=1)\n        for _ in range(self.num_steps):\n"),
               ("            label = pred.argmin(dim=1)\n            loss", "            loss"))
INSIDE_SIMPLENET = textbook.ADVERSARIAL.replace("class AdvSimpleNet(SimpleNet):", "class _Attacked(SimpleNet):") + '''

del AdvSimpleNet
SimpleNet = _Attacked
'''
SUPER = '''
class AdvSimpleNet(SimpleNet):
    """The attack is built in forward; the modes of all modules are restored."""
    def forward(self, x):
        if not self.training:
            return super().forward(x)
        modes = {m: m.training for m in self.modules()}
        self.eval()
        try:
            x = default_attack(nn.CrossEntropyLoss(), num_steps=3, step_size=0.03).perturb(self, x)
        finally:
            for m, mode in modes.items():
                m.training = mode
        return super().forward(x)
'''

RIGHT = STRUCTURES + [Variant(name, part, source) for name, part, source in [
    ("textbook convolution", C, textbook.CONVOLUTION), ("slices, no unfold", C, SLICES),
    ("Tensor.unfold and tensordot, not contiguous", C, TENSORDOT), ("autograd inside backward", C, BY_AUTOGRAD),
    ("one image at a time", C, ONE_BY_ONE), ("float64 inside", C, FLOAT64), ("F.linear on patches", C, LINEAR),
    ("as_strided and einsum", C, STRIDED), ("reference convolution", C, ""),
    ("textbook attention", A, textbook.ATTENTION), ("einsum", A, EINSUM), ("a loop over heads, laid out head first", A, PER_HEAD),
    ("fused attention, k before q", A, SDPA),
    ("textbook block", B, textbook.BLOCK), ("own MLP, own windows, norms in the other order", B, OWN_MLP), ("helpers", B, HELPED),
    ("textbook ViT", V, textbook.VIT), ("log-sum-exp over token logits", V, MAX_HEAD),
    ("own names, zero positions, extra norm, deep head", V, OWN_NAMES), ("attention pooling", V, POOLING),
    ("textbook PGD", P, textbook.PGD), ("autograd.grad", P, GRAD), ("random start", P, RANDOM_START), ("label chosen once", P, LABEL_ONCE),
    ("perturbation as leaf, ascending the negative loss", P, DELTA), ("random start and label chosen once", P, BOTH),
    ("textbook adversarial training", T, textbook.ADVERSARIAL), ("inside SimpleNet itself, as in 2024", T, INSIDE_SIMPLENET),
    ("modes restored module by module", T, SUPER)]]
RIGHT += attacks_right.RIGHT
