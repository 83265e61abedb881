"""Right solutions of block, transformer, attack and adversarial training, written by hand, for `rewrites` to vary."""

from autograder.mutation.alternatives import Alternative

SIGNATURE = """
    def __init__(self, dim, num_heads, mlp_ratio=4.0, qkv_bias=True, drop_path=0.0, norm_layer=nn.LayerNorm,
                 act_layer=nn.GELU, window_size=0):
        super().__init__()
"""
PARTS = """
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=qkv_bias)
        self.norm2 = norm_layer(dim)
        self.mlp = MLP(in_features=dim, hidden_features=int(dim * mlp_ratio), act_layer=act_layer)
        self.window_size = window_size
"""
WINDOWED = """
        out = self.norm1(x)
        if self.window_size:
            size = out.shape[1:3]
            out, padded = window_partition(out, self.window_size)
            out = self.attn(out)
            out = window_unpartition(out, self.window_size, padded, size)
        else:
            out = self.attn(out)
"""
TWO_DROPS = "class TransformerBlock(nn.Module):" + SIGNATURE + PARTS + """
        self.drop1, self.drop2 = DropPath(drop_path), DropPath(drop_path)

    def forward(self, x):
""" + WINDOWED + """
        x = x + self.drop1(out)
        return x + self.drop2(self.mlp(self.norm2(x)))
"""
OWN_DROP = "class TransformerBlock(nn.Module):" + SIGNATURE + PARTS + """
        self.keep = 1.0 - drop_path

    def drop(self, x):
        if not self.training or self.keep == 1.0:
            return x
        kept = torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), self.keep))
        return x * kept / self.keep

    def forward(self, x):
""" + WINDOWED + """
        x = x + self.drop(out)
        return x + self.drop(self.mlp(self.norm2(x)))
"""
SLICED_WINDOWS = "class TransformerBlock(nn.Module):" + SIGNATURE + PARTS + """
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def attend(self, x):
        w = self.window_size
        if w == 0:
            return self.attn(x)
        B, H, W, C = x.shape
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))
        out = torch.zeros_like(x)
        for top in range(0, x.shape[1], w):
            for left in range(0, x.shape[2], w):
                out[:, top:top + w, left:left + w] = self.attn(x[:, top:top + w, left:left + w])
        return out[:, :H, :W]

    def forward(self, x):
        x = x + self.drop_path(self.attend(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x
"""
OWN_MLP = "class TransformerBlock(nn.Module):" + SIGNATURE + """
        hidden = int(dim * mlp_ratio)
        self.norm1, self.norm2 = norm_layer(dim), norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.feed = nn.Sequential(nn.Linear(dim, hidden), act_layer(), nn.Linear(hidden, dim))
        self.drop_path = DropPath(drop_path)
        self.window_size = window_size

    def forward(self, x):
""" + WINDOWED + """
        x = x + self.drop_path(out)
        return x + self.drop_path(self.feed(self.norm2(x)))
"""
BRANCHES = """
class Residual(nn.Module):
    def __init__(self, norm, body, rate):
        super().__init__()
        self.norm, self.body, self.drop = norm, body, DropPath(rate)

    def forward(self, x):
        return x + self.drop(self.body(self.norm(x)))


class Windows(nn.Module):
    def __init__(self, attention, size):
        super().__init__()
        self.attention, self.size = attention, size

    def forward(self, x):
        if self.size == 0:
            return self.attention(x)
        parts, padded = window_partition(x, self.size)
        return window_unpartition(self.attention(parts), self.size, padded, (x.size(1), x.size(2)))


class TransformerBlock(nn.Module):""" + SIGNATURE + """
        self.mix = Residual(norm_layer(dim), Windows(Attention(dim, num_heads, qkv_bias), window_size), drop_path)
        self.think = Residual(norm_layer(dim), MLP(dim, int(dim * mlp_ratio), act_layer=act_layer), drop_path)

    def forward(self, x):
        return self.think(self.mix(x))
"""
VIT_SIGNATURE = """
class SimpleViT(nn.Module):
    def __init__(self, img_size=128, num_classes=100, patch_size=16, in_chans=3, embed_dim=192, depth=4, num_heads=4,
                 mlp_ratio=4.0, qkv_bias=True, drop_path_rate=0.1, norm_layer=nn.LayerNorm, act_layer=nn.GELU,
                 use_abs_pos=True, window_size=4, window_block_indexes=(0, 2)):
        super().__init__()
        side = img_size // patch_size
        rates = [float(rate) for rate in torch.linspace(0, drop_path_rate, depth)]
"""
BLOCKS = """
        self.blocks = nn.ModuleList([
            TransformerBlock(dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
                             drop_path=rates[i], norm_layer=norm_layer, act_layer=act_layer,
                             window_size=window_size if i in window_block_indexes else 0) for i in range(depth)])
        self.norm = norm_layer(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
"""
POSITIONS = """
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, embed_dim)) if use_abs_pos else None
"""
ADD = """
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
"""
EMBED = """
        self.patch_embed = PatchEmbed(kernel_size=(patch_size, patch_size), stride=(patch_size, patch_size),
                                      in_chans=in_chans, embed_dim=embed_dim)
"""
LINEAR_PATCHES = VIT_SIGNATURE + """
        self.p = patch_size
        self.embed = nn.Linear(in_chans * patch_size * patch_size, embed_dim)
""" + POSITIONS + BLOCKS + """
    def forward(self, x):
        N, _, H, W = x.shape
        x = F.unfold(x, kernel_size=self.p, stride=self.p).transpose(1, 2)
        x = self.embed(x).view(N, H // self.p, W // self.p, -1)
""" + ADD + """
        return self.head(self.norm(x).mean(dim=(1, 2)))
"""
CONV_PATCHES = VIT_SIGNATURE + """
        self.patchify = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
""" + POSITIONS + BLOCKS + """
    def forward(self, x):
        x = self.patchify(x).flatten(2).transpose(1, 2)
        side = int(x.shape[1] ** 0.5)
        x = x.reshape(x.shape[0], side, side, -1)
""" + ADD + """
        x = self.norm(x).flatten(1, 2).transpose(1, 2)
        return self.head(F.adaptive_avg_pool1d(x, 1).squeeze(-1))
"""
FLAT_POSITIONS = VIT_SIGNATURE + EMBED + """
        self.where = nn.Embedding(side * side, embed_dim) if use_abs_pos else None
""" + BLOCKS + """
    def forward(self, x):
        x = self.patch_embed(x)
        if self.where is not None:
            numbers = torch.arange(x.shape[1] * x.shape[2], device=x.device)
            x = x + self.where(numbers).view(x.shape[1], x.shape[2], -1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean((1, 2)))
"""
TOKEN_LOGITS = VIT_SIGNATURE + EMBED + POSITIONS + BLOCKS + """
    def forward(self, x):
        x = self.patch_embed(x)
""" + ADD + """
        return self.head(self.norm(x)).flatten(1, 2).mean(1)
"""
SEQUENTIAL = VIT_SIGNATURE + EMBED + POSITIONS + BLOCKS + """
        self.blocks = nn.Sequential(*self.blocks)
        self.apply(self.start)

    @staticmethod
    def start(layer):
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x):
        x = self.patch_embed(x)
        x = self.blocks(x if self.pos_embed is None else self.pos_embed + x)
        x = self.norm(x)
        return self.head(x.sum(dim=(1, 2)) / (x.shape[1] * x.shape[2]))
"""
MAX_POOLING = TOKEN_LOGITS.replace("self.head(self.norm(x)).flatten(1, 2).mean(1)",
                                   "self.head(self.norm(x).flatten(1, 2).amax(dim=1))")
PATCH_NAMES = {r"(embed|patchify)\.(.*)": r"t('patch_embed.proj.\2')", r"where\.weight": "t('pos_embed')"}
TRANSFORMERS = {"unfold and a linear layer": LINEAR_PATCHES, "a convolution of its own": CONV_PATCHES,
                "positions from nn.Embedding": FLAT_POSITIONS, "mean over the tokens' logits": TOKEN_LOGITS,
                "blocks in nn.Sequential": SEQUENTIAL}

MODELS = [Alternative("block", "two drop paths", TWO_DROPS), Alternative("block", "own drop path", OWN_DROP),
          Alternative("block", "windows as slices", SLICED_WINDOWS),
          Alternative("block", "own MLP in nn.Sequential", OWN_MLP,
                      {r"feed\.0\.(.*)": r"t('mlp.fc1.\1')", r"feed\.2\.(.*)": r"t('mlp.fc2.\1')"}),
          Alternative("block", "residual branches as modules", BRANCHES,
                      {r"mix\.norm\.(.*)": r"t('norm1.\1')", r"mix\.body\.attention\.(.*)": r"t('attn.\1')",
                       r"think\.norm\.(.*)": r"t('norm2.\1')", r"think\.body\.(.*)": r"t('mlp.\1')"}),
          *(Alternative("vit", name, source, PATCH_NAMES) for name, source in TRANSFORMERS.items()),
          Alternative("vit", "maximum over the tokens", MAX_POOLING, free=True)]
