"""Mistakes that only an invariant finds: state between calls, gradients cut, arguments ignored, chance, saving, cost."""

from autograder.variants import Variant, changed

C, A, B, V = "convolution", "attention", "block", "vit"


def wrong(part: str, name: str, reason: str, *changes: tuple[str, str], allowed: str = "", before: str = "") -> Variant:
    """`before`: source that stands before the part's class."""
    return Variant(name, part, before + changed(part, *changes), reason, allowed=allowed)


OUT = "        output = fold(out, (Ho, Wo), kernel_size=1)\n"
LOOPS = """        x = F.pad(input_feats, (padding,) * 4)
        output = torch.zeros(N, Co, Ho, Wo)
        for n in range(N):
            for o in range(Co):
                for i in range(Ho):
                    for j in range(Wo):
                        output[n, o, i, j] = (x[n, :, i * stride:i * stride + K, j * stride:j * stride + K] * weight[o]).sum()
        if bias is not None:
            output += bias.view(1, Co, 1, 1)
"""
CONVOLUTION = [
    wrong(C, "stride and padding kept on the class", "kept between calls|layers do not disturb", (
        "        ctx.stride, ctx.padding, ctx.input_height", "        CustomConv2DFunction.s, CustomConv2DFunction.p, ctx.input_height"), (
        "H, W = ctx.stride, ctx.padding,", "H, W = CustomConv2DFunction.s, CustomConv2DFunction.p,")),
    wrong(C, "the input's size in a global variable", "kept between calls|layers do not disturb", (
        "        ctx.stride, ctx.padding, ctx.input_height, ctx.input_width = stride", "        ctx.stride, ctx.padding, SIZE[0], SIZE[1] = stride"), (
        "H, W = ctx.stride, ctx.padding, ctx.input_height, ctx.input_width", "H, W = ctx.stride, ctx.padding, *SIZE"), before="SIZE = [0, 0]\n"),
    wrong(C, "columns in a cache of the module", "kept between calls", (
        "        cols = unfold(input_feats, kernel_size=K, padding=padding, stride=stride)\n",
        "        key = (input_feats.shape, K, stride, padding)\n        if key not in COLUMNS:\n"
        "            COLUMNS[key] = unfold(input_feats, kernel_size=K, padding=padding, stride=stride)\n"
        "        cols = COLUMNS[key]\n"), before="COLUMNS = {}\n", allowed="."),
    wrong(C, "no gradient of the weight for a frozen input", "weight, with the input.* frozen", (
        "if ctx.needs_input_grad[1]:", "if ctx.needs_input_grad[0]:")),
    wrong(C, "no gradient of the input for a frozen weight", "input, with the weight.* frozen", (
        "if ctx.needs_input_grad[0]:", "if ctx.needs_input_grad[1]:")),
    wrong(C, "no gradient of the bias for a frozen weight", "bias, with the .*weight frozen", (
        "if bias is not None and ctx.needs_input_grad[2]:", "if bias is not None and ctx.needs_input_grad[1]:")),
    wrong(C, "dY is overwritten", "modifies its argument dy", (
        "        return grad_input, grad_weight", "        grad_output.zero_()\n        return grad_input, grad_weight")),
    wrong(C, "the input is overwritten", "modifies its argument x", (OUT, OUT + "        input_feats.data.clamp_(min=0)\n"),
          allowed="kept between calls"),
    wrong(C, "gradients of all calls added up", "kept between calls", (
        "            grad_weight = grad_weight.view(Co, Ci, K, K)\n",
        "            grad_weight = grad_weight.view(Co, Ci, K, K)\n            TOTAL[K, Ci, Co] = grad_weight = grad_weight + TOTAL.get((K, Ci, Co), 0)\n"),
        before="TOTAL = {}\n", allowed="gradient of the weight"),
    wrong(C, "four nested loops", "times as long as", (OUT, LOOPS)),
    wrong(C, "half precision inside", "output|gradient", ("out = w_rows.matmul(cols)", "out = w_rows.bfloat16().matmul(cols.bfloat16()).float()")),
    wrong(C, "float64 comes out", "float32 give an output of float64", (OUT, OUT + "        output = output.double()\n"), allowed="raises RuntimeError"),
    wrong(C, "another default dtype for the whole program", "changes the default dtype", (OUT, OUT + "        torch.set_default_dtype(torch.float64)\n"), allowed="."),
    wrong(C, "anomaly detection on", "changes anomaly detection", (OUT, OUT + "        torch.autograd.set_detect_anomaly(True)\n")),
    wrong(C, "a seed in forward", "changes the seed", (OUT, "        torch.manual_seed(0)\n" + OUT)),
    wrong(C, "one image loses its axis", "shape|raises", (OUT, OUT + "        output = output.squeeze(0)\n")),
    wrong(C, "a weight gradient of absolute values", "gradient of the weight", (
        "            grad_weight = grad_weight.view(Co, Ci, K, K)\n", "            grad_weight = grad_weight.view(Co, Ci, K, K).abs()\n")),
]
SCORES = "        attn = q @ k.transpose(-2, -1) * self.scale\n        attn = attn.softmax(dim=-1)\n"
ATTENTION = [
    wrong(A, "exp without the maximum", "exp\\(\\) overflows", ("attn = attn.softmax(dim=-1)", "attn = attn.exp() / attn.exp().sum(-1, keepdim=True)")),
    wrong(A, "exp minus the maximum of all", "exp\\(\\) overflows", (
        "attn = attn.softmax(dim=-1)", "attn = (attn - attn.max()).exp()\n        attn = attn / attn.sum(-1, keepdim=True)")),
    wrong(A, "queries through .data", "no gradient reaches|not the slope", (".unbind(0)\n", ".unbind(0)\n        q = q.data\n")),
    wrong(A, "projection under no_grad", "no gradient reaches|not the slope", (
        "        x = self.proj(x)\n", "        with torch.no_grad():\n            y = self.proj(x)\n        x = y + (x - x.detach()).sum() * 0\n")),
    wrong(A, "values detached", "not the slope", ("x = attn @ v\n", "x = attn @ v.detach()\n")),
    wrong(A, "projection made anew in forward", "no layers qkv|output of Attention", (
        "        self.proj = nn.Linear(dim, dim)\n", ""), ("x = self.proj(x)", "x = nn.Linear(C, C)(x)"), allowed="."),
    wrong(A, "dropout of the weights in training", "training mode", ("x = attn @ v\n", "x = F.dropout(attn, 0.1, self.training) @ v\n")),
    wrong(A, "dropout in evaluation, too", "evaluation mode", ("x = attn @ v\n", "x = F.dropout(attn, 0.1) @ v\n"), allowed="output of Attention"),
    wrong(A, "number of heads on the class", "gives another output|output", ("self.num_heads = num_heads", "Attention.num_heads = num_heads")),
    wrong(A, "scores of the last call reused for the same shape", "another output for the same input|same input", (
        SCORES, SCORES + "        if not hasattr(self, 'last') or self.last.shape != attn.shape:\n            self.last = attn.detach()\n"
        "        attn = attn + 0.1 * self.last\n"), allowed="output of Attention"),
    wrong(A, "no bias by default", "output of Attention", ("qkv_bias=True", "qkv_bias=False")),
    wrong(A, "a loop over all pairs of tokens", "times as long as", (SCORES, """
        rows = []
        for i in range(q.shape[1]):
            rows.append(torch.stack([(q[:, i] * k[:, j]).sum(-1) for j in range(k.shape[1])], -1))
        attn = (torch.stack(rows, 1) * self.scale).softmax(dim=-1)
""")),
    wrong(A, "half precision scores", "output of Attention", (SCORES, "        attn = (q.bfloat16() @ k.bfloat16().transpose(-2, -1) * self.scale).float().softmax(-1)\n"),
          allowed="slope"),
    wrong(A, "a temperature that is not saved", "saved and loaded", ("        x = self.proj(x)\n", "        x = self.proj(x) * self.gain\n"), (
        "        self.proj = nn.Linear(dim, dim)\n", "        self.proj = nn.Linear(dim, dim)\n        self.gain = 1 + 0.1 * torch.rand(1)\n"),
        allowed="output of Attention"),
    wrong(A, "a seed in forward", "changes the seed", ("        B, H, W, C = x.shape\n", "        B, H, W, C = x.shape\n        torch.manual_seed(0)\n")),
    wrong(A, "the input is scaled in place", "modifies its input|output of Attention", ("        B, H, W, C = x.shape\n", "        B, H, W, C = x.shape\n        x.data.mul_(0.5)\n"),
          allowed="slope"),
    wrong(A, "one token on its own is squeezed", "raises|shape|output", ("        B, H, W, C = x.shape\n", "        x = x.squeeze()\n        B, H, W, C = x.shape\n")),
]
DROP = "DropPath(drop_path) if drop_path > 0.0 else nn.Identity()"
MASK = """
def stochastic(x, p, training, shape, scale=True):
    if not training or p == 0:
        return x
    keep = (torch.rand(shape) >= p).to(x.dtype)
    return x * keep / ((1 - p) if scale else 1)
"""


def dropping(name: str, reason: str, expression: str, **more) -> Variant:
    """A block whose drop_path is `expression` of y, the branch, and p, the rate."""
    return wrong(B, name, reason, (DROP, f"Dropping(drop_path, lambda y, p, training: {expression})"), before=MASK + '''
class Dropping(nn.Module):
    def __init__(self, p, function):
        super().__init__()
        self.p, self.function = p, function

    def forward(self, y):
        return self.function(y, self.p, self.training)
''', **more)


BLOCK = [
    wrong(B, "norm1 ignores norm_layer", "norm_layer", ("self.norm1 = norm_layer(dim)", "self.norm1 = nn.LayerNorm(dim)")),
    wrong(B, "norm2 ignores norm_layer", "norm_layer", ("self.norm2 = norm_layer(dim)", "self.norm2 = nn.LayerNorm(dim)")),
    wrong(B, "act_layer ignored", "act_layer", ("act_layer=act_layer)", "act_layer=nn.GELU)")),
    wrong(B, "qkv_bias ignored", "qkv_bias", (", qkv_bias=qkv_bias)", ")")),
    wrong(B, "mlp_ratio ignored", "MLP layer up", ("int(dim * mlp_ratio)", "4 * dim"), allowed="."),
    wrong(B, "MLP without activation", "output of TransformerBlock", ("act_layer=act_layer)", "act_layer=nn.Identity)"), allowed="act_layer"),
    dropping("keeps with the drop rate", "expected about|none of the four|NaN", "stochastic(y, 1 - p, training, (len(y), 1, 1, 1))", allowed="another output in training mode"),
    dropping("drops half as often", "expected about|none of the four",
             "y * (torch.rand(len(y), 1, 1, 1) >= p / 2).to(y.dtype) / (1 - p) if training else y"),
    dropping("drops the whole batch", "of the four outcomes|never dropped|nothing is dropped", "stochastic(y, p, training, (1, 1, 1, 1))", allowed="expected about"),
    dropping("drops tokens", "none of the four", "stochastic(y, p, training, (*y.shape[:3], 1))"),
    dropping("what is kept is not scaled", "not divided by the probability", "stochastic(y, p, training, (len(y), 1, 1, 1), scale=False)"),
    dropping("drops in evaluation, too", "in evaluation mode the outputs", "stochastic(y, p, True, (len(y), 1, 1, 1))"),
    wrong(B, "the MLP is never dropped", "MLP branch is never dropped", ("x + self.drop_path(self.mlp(self.norm2(x)))", "x + self.mlp(self.norm2(x))")),
    wrong(B, "the attention is never dropped", "attention branch is never dropped", ("shortcut + self.drop_path(x)", "shortcut + x")),
    wrong(B, "drops windows", "none of the four", (
        "        x = self.attn(x)\n", "        x = self.drop_path(self.attn(x))\n"), ("shortcut + self.drop_path(x)", "shortcut + x")),
    wrong(B, "drops the attention's input", "none of the four", (
        "        x = self.norm1(x)\n", "        x = self.drop_path(self.norm1(x))\n"), ("shortcut + self.drop_path(x)", "shortcut + x")),
    wrong(B, "one mask for both branches", "of the four outcomes", (
        "        shortcut = x\n", "        shortcut = x\n        m = self.drop_path(torch.ones(len(x), 1, 1, 1))\n"), (
        "shortcut + self.drop_path(x)", "shortcut + m * x"), ("x + self.drop_path(self.mlp(", "x + m * (self.mlp("), allowed="expected about"),
    wrong(B, "the MLP's input is detached", "not the slope|no gradient", ("self.mlp(self.norm2(x))", "self.mlp(self.norm2(x).detach())")),
    wrong(B, "attention under no_grad", "no gradient reaches|not the slope", (
        "        x = self.attn(x)\n", "        with torch.no_grad():\n            x = self.attn(x)\n")),
    wrong(B, "shortcut through .data", "not the slope", ("        shortcut = x\n", "        shortcut = x.data\n")),
    wrong(B, "window size on the class", "another TransformerBlock", ("self.window_size = window_size", "TransformerBlock.window_size = window_size")),
    wrong(B, "shortcut in place", "modified by an inplace", ("x = shortcut + self.drop_path(x)", "x = shortcut.add_(self.drop_path(x))")),
    wrong(B, "dropout in the MLP", "training mode", ("act_layer=act_layer)", "act_layer=act_layer, drop=0.1)")),
    wrong(B, "a padded size that stays from the first call", "raises|same input|output|shape", (
        "            x, pad_hw = window_partition(x, self.window_size)\n",
        "            x, pad_hw = window_partition(x, self.window_size)\n            self.first = getattr(self, 'first', pad_hw)\n"
        "            pad_hw = self.first\n")),
    wrong(B, "a random gain that is not saved", "saved and loaded", ("        return x\n", "        return x * self.gain\n"), (
        "        self.window_size = window_size\n", "        self.window_size = window_size\n        self.gain = 1 + 0.1 * torch.rand(1)\n"),
        allowed="output of TransformerBlock|outputs"),
    wrong(B, "padding before the norm", "output of TransformerBlock", ("        x = self.norm1(x)\n", "", ), (
        "            x, pad_hw = window_partition(x, self.window_size)\n", "            x, pad_hw = window_partition(x, self.window_size)\n        x = self.norm1(x)\n")),
]
EMBED = "            self.pos_embed = nn.Parameter(torch.zeros(1, side, side, embed_dim))\n            trunc_normal_(self.pos_embed, std=0.02)\n"
RANDOM = "torch.randn(1, side, side, embed_dim)"
VIT = [
    wrong(V, "position embedding is a plain tensor", "saved and loaded", (EMBED, f"            self.pos_embed = {RANDOM}\n")),
    wrong(V, "position embedding is a buffer", "must be an nn.Parameter", (EMBED, f"            del self.pos_embed\n            self.register_buffer('pos_embed', {RANDOM})\n")),
    wrong(V, "one position for each column", "row of its own for each position", ("torch.zeros(1, side, side, embed_dim)", "torch.zeros(1, 1, side, embed_dim)")),
    wrong(V, "one position for each row", "row of its own for each position", ("torch.zeros(1, side, side, embed_dim)", "torch.zeros(1, side, 1, embed_dim)")),
    wrong(V, "one position for all", "not added to the tokens", ("torch.zeros(1, side, side, embed_dim)", "torch.zeros(1, 1, 1, embed_dim)")),
    wrong(V, "position embedding through .data", "no gradient reaches pos_embed", ("x = x + self.pos_embed", "x = x + self.pos_embed.data"), allowed="must be an nn.Parameter"),
    wrong(V, "blocks in a Python list", "nn.ModuleList", ("self.blocks = nn.ModuleList()", "self.blocks = []")),
    wrong(V, "blocks run for show", "does not use its parameter|does not get the output", ("            x = block(x)\n", "            block(x)\n"), allowed="patches|positions|position embedding"),
    wrong(V, "blocks detached", "no gradient reaches|not the slope", ("            x = block(x)\n", "            x = block(x).detach()\n")),
    wrong(V, "blocks in reverse order", "windows|expected 0, 0.1", ("for block in self.blocks:", "for block in reversed(self.blocks):")),
    wrong(V, "blocks side by side", "does not get the output of block", (
        "        for block in self.blocks:\n            x = block(x)\n", "        x = sum(block(x) for block in self.blocks)\n")),
    wrong(V, "a shortcut around each block", "does not get the output of block", ("            x = block(x)\n", "            x = x + block(x)\n")),
    wrong(V, "the last block is skipped", "blocks run for depth", ("for block in self.blocks:", "for block in self.blocks[:-1]:"), allowed="does not use its parameter"),
    wrong(V, "norm_layer not passed on", "norm_layer", ("norm_layer=norm_layer, act_layer", "norm_layer=nn.LayerNorm, act_layer")),
    wrong(V, "act_layer not passed on", "act_layer", ("act_layer=act_layer,", "act_layer=nn.GELU,")),
    wrong(V, "last norm ignores norm_layer", "norm_layer", ("self.norm = norm_layer(embed_dim)", "self.norm = nn.LayerNorm(embed_dim)")),
    wrong(V, "last norm not used", "does not use its parameter", ("        x = self.norm(x)\n", "")),
    wrong(V, "qkv_bias not passed on", "qkv_bias", (" qkv_bias=qkv_bias,", "")),
    wrong(V, "one head", "num_heads", ("num_heads=num_heads, mlp", "num_heads=1, mlp")),
    wrong(V, "window size hard-coded", "window", ("window_size=window_size if i", "window_size=2 if i")),
    wrong(V, "drop rates one step short", "expected 0, 0.1", ("torch.linspace(0, drop_path_rate, depth)", "torch.linspace(0, drop_path_rate, depth + 1)")),
    wrong(V, "drop rates fall", "expected 0, 0.1", ("torch.linspace(0, drop_path_rate, depth)", "torch.linspace(drop_path_rate, 0, depth)")),
    wrong(V, "dropout of the tokens", "evaluation mode", ("        x = self.norm(x)\n", "        x = F.dropout(self.norm(x), 0.1)\n"),
          allowed="."),
    wrong(V, "dropout in training, unasked", "training mode", ("        x = self.norm(x)\n", "        x = F.dropout(self.norm(x), 0.1, self.training)\n")),
    wrong(V, "probabilities", "probabilities", ("return self.head(x)", "return self.head(x).softmax(dim=-1)")),
    wrong(V, "patch size hard-coded", "raises|patches|tokens|shape", ("kernel_size=(patch_size, patch_size), stride=(patch_size, patch_size)", "kernel_size=(16, 16), stride=(16, 16)"), allowed="."),
    wrong(V, "half of each patch", "values of a patch do not affect", ("kernel_size=(patch_size, patch_size), stride", "kernel_size=(patch_size // 2, patch_size), stride")),
    wrong(V, "the batch's mean is subtracted", "other images are in the batch", ("        x = x.mean(dim=(1, 2))\n", "        x = x.mean(dim=(1, 2))\n        x = x - x.mean(0)\n"),
          allowed="patches|positions|position embedding|values of a patch|same logits|does not use|same input"),
    wrong(V, "a head made in forward", "no gradient|does not use|saved and loaded|evaluation", ("return self.head(x)", "return nn.Linear(x.shape[-1], self.head.out_features)(x)"), allowed="."),
    wrong(V, "the first input's tokens are kept", "another output for the same input|in an earlier one", (
        "        x = self.norm(x)\n", "        x = self.norm(x)\n        self.kept = getattr(self, 'kept', x.detach()[:1])\n        x = x + 0.1 * self.kept\n"),
        allowed="batch|patches|position|values of a patch|slope"),
    wrong(V, "window indexes on the class", "another SimpleViT|windows|same input", (
        "        self.pos_embed = None\n", "        self.pos_embed = None\n        SimpleViT.side = img_size // patch_size\n"), (
        "        x = x.mean(dim=(1, 2))\n", "        x = x.sum(dim=(1, 2)) / SimpleViT.side ** 2\n")),
    wrong(V, "channels fixed at three", "raises", ("in_chans=in_chans", "in_chans=3")),
]
INVARIANTS = [*CONVOLUTION, *ATTENTION, *BLOCK, *VIT]
