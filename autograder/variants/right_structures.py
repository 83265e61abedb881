"""Correct solutions of other structure: helpers that make float32, other signatures, parts of one's own."""

from autograder.variants import Variant, changed, textbook

C, A, B, V = "convolution", "attention", "block", "vit"
OUT = "        output = fold(out, (Ho, Wo), kernel_size=1)\n"

CONVOLUTION = [
    ("output in a float32 buffer", changed(C, (OUT, OUT + "        buffer = torch.zeros(N, Co, Ho, Wo)\n        buffer.copy_(output)\n        output = buffer\n"))),
    ("computed in float32 and cast back", changed(C, ("out = w_rows.matmul(cols)", "out = w_rows.float().matmul(cols.float()).to(cols.dtype)"))),
    ("gradients in float32 buffers", changed(C, (
        "            grad_weight = grad_weight.view(Co, Ci, K, K)\n",
        "            total = torch.zeros(Co, Ci, K, K)\n            total += grad_weight.view(Co, Ci, K, K)\n            grad_weight = total\n"))),
    ("view of dY, contiguous in every network", changed(C, ("grad_output.reshape(grad_output.shape[0], Co, -1)", "grad_output.view(grad_output.shape[0], Co, -1)"))),
    ("all gradients, needed or not", changed(C, ("if ctx.needs_input_grad[0]:", "if True:"), ("if ctx.needs_input_grad[1]:", "if True:"), (
        "if bias is not None and ctx.needs_input_grad[2]:", "if bias is not None:"))),
    ("loops over kernel positions and images", changed(C, ("        out = w_rows.matmul(cols)\n", """
        padded = F.pad(input_feats, (padding,) * 4)
        out = torch.zeros(N, Co, Ho * Wo)
        for n in range(N):
            for i in range(K):
                for j in range(K):
                    piece = padded[n, :, i:i + stride * Ho:stride, j:j + stride * Wo:stride][:, :Ho, :Wo]
                    out[n] += weight[:, :, i, j] @ piece.reshape(piece.shape[0], -1)
"""))),
    ("a function of its own and a module of it", changed(C, ("        out = w_rows.matmul(cols)\n", "        out = conv2d_product(w_rows, cols)\n")) + """

def conv2d_product(rows, columns):
    return torch.einsum('oj,njl->nol', rows, columns)
"""),
]
SCORES = "        attn = attn.softmax(dim=-1)\n"
QKV = "        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)\n"
SPLIT = "        qkv = self.qkv(x).reshape(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)\n"
TORCHS = '''
class Attention(nn.Module):
    """torch's own layer."""
    def __init__(self, dim, num_heads=8, qkv_bias=True):
        super().__init__()
        self.inner = nn.MultiheadAttention(dim, num_heads, bias=qkv_bias, batch_first=True)
        if not qkv_bias:
            self.inner.out_proj.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        tokens = x.flatten(1, 2)
        return self.inner(tokens, tokens, tokens, need_weights=False)[0].view_as(x)
'''
ATTENTION = [
    ("softmax in float32", changed(A, (SCORES, "        attn = attn.softmax(dim=-1, dtype=torch.float32)\n"))),
    ("values gathered in a float32 buffer", changed(A, ("        x = attn @ v\n", "        y = torch.zeros(v.shape)\n        y += attn @ v\n        x = y\n"))),
    ("scale as a float32 buffer", changed(A, ("self.scale = head_dim ** -0.5", "self.register_buffer('scale', torch.tensor(head_dim ** -0.5))"))),
    ("three layers for q, k, v", changed(A, (QKV, "        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=qkv_bias) for _ in 'qkv')\n"), (
        SPLIT, "        qkv = torch.stack([layer(x).view(B, H * W, self.num_heads, -1).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)])\n"))),
    ("exp minus the largest of each row", changed(A, (SCORES, "        attn = (attn - attn.amax(-1, keepdim=True)).exp()\n        attn = attn / attn.sum(-1, keepdim=True)\n"))),
    ("one image at a time", changed(A, ("        x = attn @ v\n", "        x = torch.stack([a @ b for a, b in zip(attn, v)])\n"))),
    ("torch's layer inside", TORCHS),
    ("dropout of rate 0", changed(A, ("        x = self.proj(x)\n", "        x = F.dropout(self.proj(x), 0.0, self.training)\n"))),
]
ATTN, CALL, MLP = "self.attn = Attention(dim, num_heads=num_heads, qkv_bias=qkv_bias)", "        x = self.attn(x)\n", (
    "self.mlp = MLP(in_features=dim, hidden_features=int(dim * mlp_ratio), act_layer=act_layer)")
DROP = "DropPath(drop_path) if drop_path > 0.0 else nn.Identity()"
WITH_SIZE = textbook.ATTENTION.replace("def forward(self, x):\n        B, H, W, C = x.shape", "def forward(self, tokens, H, W):\n        B, _, C = tokens.shape\n        x = tokens").replace(
    "        x = self.proj(x)\n", "        x = self.proj(x.flatten(1, 2))\n")
INLINE = '''
class TransformerBlock(nn.Module):
    """Attention and MLP are the block's own layers."""
    def __init__(self, dim, num_heads, mlp_ratio=4.0, qkv_bias=True, drop_path=0.0, norm_layer=nn.LayerNorm,
                 act_layer=nn.GELU, window_size=0):
        super().__init__()
        self.heads, self.w, hidden = num_heads, window_size, int(dim * mlp_ratio)
        self.norm1, self.norm2 = norm_layer(dim), norm_layer(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=qkv_bias), nn.Linear(dim, dim)
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), act_layer(), nn.Linear(hidden, dim)
        self.drop1, self.drop2 = DropPath(drop_path), DropPath(drop_path)

    def attend(self, x):
        B, H, W, C = x.shape
        q, k, v = self.qkv(x).view(B, H * W, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))

    def forward(self, x):
        y = self.norm1(x)
        if self.w:
            windows, size = window_partition(y, self.w)
            y = window_unpartition(self.attend(windows), self.w, size, x.shape[1:3])
        else:
            y = self.attend(y)
        x = x + self.drop1(y)
        return x + self.drop2(self.fc2(self.act(self.fc1(self.norm2(x)))))
'''
BLOCK = [
    ("an attention that takes tokens, height and width", WITH_SIZE + changed(B, (CALL, "        x = self.attn(x.flatten(1, 2), *x.shape[1:3]).view_as(x)\n"))),
    ("an attention that returns its weights, too", textbook.ATTENTION.replace("        return x\n", "        return x, attn\n")
     + changed(B, (CALL, "        x, _ = self.attn(x)\n"))),
    ("an attention with the window size among its arguments", textbook.ATTENTION.replace("def __init__(self, dim, num_heads=8", "def __init__(self, window, dim, num_heads=8")
     + changed(B, (ATTN, "self.attn = Attention(window_size, dim, num_heads=num_heads, qkv_bias=qkv_bias)"))),
    ("layers of its own for attention and MLP", INLINE),
    ("an MLP of 1x1 convolutions", changed(B, (MLP, "self.mlp = nn.Sequential(nn.Conv2d(dim, int(dim * mlp_ratio), 1), act_layer(), nn.Conv2d(int(dim * mlp_ratio), dim, 1))"), (
        "self.mlp(self.norm2(x))", "self.mlp(self.norm2(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)"))),
    ("torchvision's stochastic depth", changed(B, (DROP, "torchvision_depth(drop_path, 'row')")).replace(
        "class TransformerBlock", "from torchvision.ops import StochasticDepth as torchvision_depth\n\n\nclass TransformerBlock", 1)),
    ("float32 masks", changed(B, (DROP, "Masked(drop_path)")) + '''

class Masked(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, y):
        if not self.training:
            return y
        mask = (torch.rand(y.shape[0], 1, 1, 1) < 1 - self.rate).float()
        return y * (mask / (1 - self.rate))
'''),
    ("a window larger than the image is global", changed(B, ("        shortcut = x\n", "        shortcut = x\n        whole = x.shape[1] == x.shape[2] == self.window_size\n"))),
]
BUILD = """            self.blocks.append(TransformerBlock(
                dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, drop_path=dpr[i],
                norm_layer=norm_layer, act_layer=act_layer,
                window_size=window_size if i in window_block_indexes else 0))
"""
POSITIONS = "            self.pos_embed = nn.Parameter(torch.zeros(1, side, side, embed_dim))\n            trunc_normal_(self.pos_embed, std=0.02)\n"
OTHER_ORDER = textbook.BLOCK.replace(
    "def __init__(self, dim, num_heads, mlp_ratio=4.0, qkv_bias=True, drop_path=0.0, norm_layer=nn.LayerNorm,\n                 act_layer=nn.GELU, window_size=0):",
    "def __init__(self, width, heads, window, rate, ratio, norm, act, bias):").replace("dim=dim", "dim=width").replace("(dim)", "(width)").replace(
    "Attention(dim, num_heads=num_heads, qkv_bias=qkv_bias)", "Attention(width, num_heads=heads, qkv_bias=bias)").replace("norm_layer(", "norm(").replace(
    "DropPath(drop_path) if drop_path > 0.0", "DropPath(rate) if rate > 0.0").replace("in_features=dim, hidden_features=int(dim * mlp_ratio), act_layer=act_layer",
    "in_features=width, hidden_features=int(width * ratio), act_layer=act").replace("self.window_size = window_size", "self.window_size = window")
VIT = [
    ("blocks of other arguments", OTHER_ORDER + changed(V, (BUILD, """            self.blocks.append(TransformerBlock(
                embed_dim, num_heads, window_size if i in window_block_indexes else 0, dpr[i], mlp_ratio, norm_layer, act_layer, qkv_bias))
"""))),
    ("window sizes set after the blocks are built", changed(V, ("                window_size=window_size if i in window_block_indexes else 0))\n",
                                                               "                window_size=0))\n            self.blocks[i].window_size = window_size if i in window_block_indexes else 0\n"))),
    ("blocks of a class of its own", textbook.BLOCK.replace("TransformerBlock", "WindowBlock") + changed(V, ("self.blocks.append(TransformerBlock(", "self.blocks.append(WindowBlock("))),
    ("a module dictionary of blocks", changed(V, ("self.blocks = nn.ModuleList()", "self.blocks = nn.ModuleDict()"), ("self.blocks.append(TransformerBlock(", "self.blocks[str(i)] = (TransformerBlock("), (
        "for block in self.blocks:", "for block in self.blocks.values():"))),
    ("positions as a sum of rows and columns", changed(V, (POSITIONS, "            self.rows = nn.Parameter(0.02 * torch.randn(1, side, 1, embed_dim))\n"
                                                        "            self.columns = nn.Parameter(0.02 * torch.randn(1, 1, side, embed_dim))\n            self.pos_embed = True\n"), (
        "x = x + self.pos_embed", "x = x + self.rows + self.columns"))),
    ("positions as a flat list", changed(V, ("torch.zeros(1, side, side, embed_dim)", "torch.zeros(1, side * side, embed_dim)"), (
        "x = x + self.pos_embed", "x = (x.flatten(1, 2) + self.pos_embed).view_as(x)"))),
    ("positions in an embedding layer", changed(V, (POSITIONS, "            self.pos_embed = nn.Embedding(side * side, embed_dim)\n"), (
        "x = x + self.pos_embed", "x = x + self.pos_embed(torch.arange(x.shape[1] * x.shape[2])).view(1, *x.shape[1:])"))),
    ("max over the tokens", changed(V, ("x.mean(dim=(1, 2))", "x.amax(dim=(1, 2))"))),
    ("adaptive pooling before the head", changed(V, ("x.mean(dim=(1, 2))", "F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), 1).flatten(1)"))),
    ("the logits in a float32 buffer", changed(V, ("return self.head(x)", "out = torch.zeros(len(x), self.head.out_features)\n        out += self.head(x)\n        return out"))),
    ("mean in float32", changed(V, ("x.mean(dim=(1, 2))", "x.mean(dim=(1, 2), dtype=torch.float32)"))),
    ("norm after the mean", changed(V, ("        x = self.norm(x)\n        x = x.mean(dim=(1, 2))\n", "        x = self.norm(x.mean(dim=(1, 2)))\n"))),
]
STRUCTURES = [Variant(name, part, source) for part, pairs in ((C, CONVOLUTION), (A, ATTENTION), (B, BLOCK), (V, VIT)) for name, source in pairs]
