"""3.2.2: SimpleViT by its behaviour. Heads, pooling, extra layers and names of attributes are free."""

from functools import partial
from inspect import signature
from types import ModuleType

import torch
from torch import Tensor, nn

from libs.checks.registry import TOLERANCE, Check, expect, expect_close, expect_shape, same

PATCH, SIDE, DEPTH = 4, 4, 4  # 4 x 4 patches of 4 x 4 pixels
SMALL = {"img_size": PATCH * SIDE, "num_classes": 5, "patch_size": PATCH, "embed_dim": 12, "depth": DEPTH,
         "num_heads": 3, "drop_path_rate": 0.0, "window_size": 2, "window_block_indexes": ()}
ARGUMENTS = ["img_size", "num_classes", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio",
             "qkv_bias", "drop_path_rate", "norm_layer", "act_layer", "use_abs_pos", "window_size",
             "window_block_indexes"]


@torch.no_grad()
def make(student: ModuleType, **settings) -> nn.Module:
    """A small SimpleViT in evaluation mode, its matrices of std 0.3 and the rest a little away from its start."""
    model = student.SimpleViT(**{**SMALL, **settings}).eval()
    for parameter in model.parameters():
        parameter.normal_(0, 0.3) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def like(student: ModuleType, model: nn.Module, **settings) -> nn.Module:
    """Another instance, with other settings and the same weights."""
    other = make(student, **settings)
    other.load_state_dict(model.state_dict())
    return other


def images(N: int = 1, channels: int = 3) -> Tensor:
    return torch.randn(N, channels, PATCH * SIDE, PATCH * SIDE)


def patch(x: Tensor, number: int) -> Tensor:
    """A view of one patch of the images x."""
    i, j = divmod(number, SIDE)
    return x[..., i * PATCH:(i + 1) * PATCH, j * PATCH:(j + 1) * PATCH]


def blocks_of(student: ModuleType, model: nn.Module) -> list[nn.Module]:
    blocks = [module for module in model.modules() if isinstance(module, student.TransformerBlock)]
    expect(len(blocks) == DEPTH, f"{DEPTH} TransformerBlocks for depth={DEPTH}", len(blocks))
    return blocks


@torch.no_grad()
def silence(blocks: list[nn.Module], but: int | None = None) -> None:
    """Zero the weights of all blocks but one, which turns them into x + 0 + 0."""
    for number, block in enumerate(blocks):
        for parameter in block.parameters() if number != but else []:
            parameter.zero_()


# --------------------------------------------------------------------------------------------------- shape


@torch.no_grad()
def shapes(student: ModuleType) -> None:
    for settings in ({}, {"num_classes": 1}, {"num_classes": 7, "embed_dim": 6, "depth": 1}, {"in_chans": 1},
                     {"patch_size": 8, "num_heads": 2}, {"window_size": 3, "window_block_indexes": (0, 1)}):
        model, x = make(student, **settings), images(2, settings.get("in_chans", 3))
        told = ", ".join(f"{name}={value}" for name, value in settings.items())
        expect_shape(f"the logits ({told})", model(x), (2, settings.get("num_classes", SMALL["num_classes"])))


@torch.no_grad()
def defaults(student: ModuleType) -> None:
    """What main.py counts on. The other defaults may be changed, as the sheet encourages."""
    names = list(signature(student.SimpleViT).parameters)
    missing = [name for name in ARGUMENTS if name not in names]
    expect(not missing, "the arguments of SimpleViT as given", f"no {', '.join(missing)}")
    expect_shape("the logits of SimpleViT()", student.SimpleViT().eval()(torch.randn(1, 3, 128, 128)), (1, 100))


def arguments_matter(student: ModuleType) -> None:
    """Each argument of the blocks reaches them: it changes the number of parameters, or the logits."""
    count = {}
    for name, value in {"depth": 3, "embed_dim": 24, "mlp_ratio": 2.0, "qkv_bias": False, "use_abs_pos": False}.items():
        count[name] = [sum(one.numel() for one in make(student, **given).parameters()) for given in ({}, {name: value})]
        expect(count[name][0] != count[name][1], f"{name}={value} to change the number of parameters",
               f"{count[name][0]} in either case")
    norms = [module.eps for block in blocks_of(student, make(student, norm_layer=partial(nn.LayerNorm, eps=0.5)))
             for module in block.modules() if isinstance(module, nn.LayerNorm)]
    expect(set(norms) == {0.5}, "norm_layer to make the norms of the blocks", f"norms of another kind: eps={norms}")
    model, x = make(student), images(2)
    for name, value in {"num_heads": 1, "act_layer": nn.ReLU}.items():
        expect(not same(model(x), like(student, model, **{name: value})(x)),
               f"{name} to change the logits at equal weights", "the same logits")


# ------------------------------------------------------------------------------------ patches and positions


@torch.no_grad()
def every_patch(student: ModuleType) -> None:
    for windows in ((), range(DEPTH)):
        model, x = make(student, window_block_indexes=tuple(windows)), images()
        changed = x.repeat(SIDE**2, 1, 1, 1)
        for number, image in enumerate(changed):
            patch(image, number).copy_(torch.randn(3, PATCH, PATCH))
        logits, before = model(changed), model(x)
        unseen = [divmod(n, SIDE) for n in range(SIDE**2) if same(logits[n], before[0])]
        expect(not unseen, f"all {SIDE**2} patches to influence the logits", f"none from the patches (row, column) "
               f"{unseen}, window_block_indexes={tuple(windows)}")


def exchange(x: Tensor, one: int, other: int) -> Tensor:
    exchanged = x.clone()
    patch(exchanged, one).copy_(patch(x, other))
    patch(exchanged, other).copy_(patch(x, one))
    return exchanged


@torch.no_grad()
def positions(student: ModuleType) -> None:
    """Exchanged patches, in one row and in one column, change the logits if and only if positions are embedded."""
    for use in (True, False):
        model, x = make(student, use_abs_pos=use), images()
        for other, where in ((2, "row"), (12, "column")):
            moved = not same(model(x), model(exchange(x, 0, other)))
            expect(moved == use, f"{'other' if use else 'the same'} logits after exchanging two patches of one {where} "
                   f"(use_abs_pos={use}, global attention)", "other logits" if moved else "the same")


@torch.no_grad()
def batch(student: ModuleType) -> None:
    model, x = make(student, window_block_indexes=(0, 2)), images(4)
    together = model(x)
    expect_shape("the logits", together, (4, SMALL["num_classes"]))
    alone = torch.cat([model(image[None]) for image in x])
    expect_close("the logits in a batch", together, alone, "expected are those of each image alone")
    expect(not same(together[0], together[1]), "different logits for different images", "the same")


# ------------------------------------------------------------------------------------------------ learning


@torch.no_grad()
def reload(student: ModuleType) -> None:
    """As main.py -e does: a new instance, other initial weights, then load_state_dict."""
    settings = {"window_block_indexes": (0, 2)}
    torch.manual_seed(1)
    model, x = make(student, **settings), images(2)
    torch.manual_seed(2)
    other = student.SimpleViT(**{**SMALL, **settings}).eval()
    other.load_state_dict(model.state_dict())
    expect_close("the logits after saving and loading the state_dict", other(x), model(x))


def learns(student: ModuleType) -> None:
    model, x = make(student, window_block_indexes=(0, 2)).train(), images(4)
    logits = model(x)
    expect_shape("the logits", logits, (4, SMALL["num_classes"]))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    expect(not without, "a gradient for every parameter", f"none for {len(without)}, the first being "
           f"{''.join(without[:1])}")


# ------------------------------------------------------------------------------------- windows, drop path


@torch.no_grad()
def windows(student: ModuleType) -> None:
    """With all blocks but one silent, windows change the logits if and only if that block's index is listed."""
    for listed in ((), (0,), (1,), (0, 2), tuple(range(DEPTH))):
        for number in range(DEPTH):
            model, x = make(student), images(2)
            silence(blocks_of(student, model), but=number)
            moved = not same(model(x), like(student, model, window_block_indexes=listed)(x))
            wanted, seen = ("locally" if local else "globally" for local in (number in listed, moved))
            expect(wanted == seen, f"block {number} to attend {wanted} for window_block_indexes={listed}", seen)


@torch.no_grad()
def window_size(student: ModuleType) -> None:
    """It matters to the listed blocks only; windows as large as the grid are global attention."""
    model, x = make(student), images(2)
    everywhere = tuple(range(DEPTH))
    expect_close("the logits for window_size=3", like(student, model, window_size=3)(x), model(x),
                 "window_block_indexes=(); expected is window_size=2")
    expect_close(f"the logits for window_size={SIDE}",
                 like(student, model, window_size=SIDE, window_block_indexes=everywhere)(x), model(x),
                 f"window_block_indexes={everywhere}; expected is global attention")
    local = [like(student, model, window_size=w, window_block_indexes=everywhere)(x) for w in (2, 3)]
    expect(not same(*local), "window_size to change the logits of a ViT with windows", "the same logits for 2 and 3")


RATE, SAMPLES = 0.6, 256


@torch.no_grad()
def drop_rates(student: ModuleType) -> None:
    """All blocks but one are silent. A sample loses both branches of that one with probability rate**2."""
    x = images().expand(SAMPLES, -1, -1, -1)
    for number in range(DEPTH):
        model = make(student)
        silence(blocks_of(student, model), but=number)
        kept = model(x[:8])
        if not same(model.train()(x[:8]), kept):
            return  # dropout of the student's own hides what drop path does
        got = like(student, model, drop_path_rate=RATE).train()(x)
        silence(blocks_of(student, model))
        dropped = model(x[:1])
        share = (got - dropped).abs().amax(1).lt(TOLERANCE * dropped.abs().max()).float().mean().item()
        rate = RATE * number / (DEPTH - 1)
        right = same(got, kept[:1].expand_as(got)) if number == 0 else abs(share - rate**2) < 4 * 0.5 / SAMPLES**0.5
        expect(right, f"block {number} of {DEPTH} to have drop_path {rate:.2g} for drop_path_rate={RATE}",
               f"about {share**0.5:.2g}")


HEAD = "design your own, but every token has to reach the head, and images of a batch must not mix"
INDEXES = ("window_block_indexes lists the blocks with local window self-attention of window_size, counted from 0; all "
           "others have window_size 0")
CHECKS = [
    Check("logits of shape N, num_classes, for several settings", shapes,
          "all sizes come from the arguments: img_size, patch_size, in_chans, embed_dim, depth, num_classes"),
    Check("the defaults take 3 x 128 x 128 to 100 classes", defaults,
          "main.py builds default_vit_model(); add arguments if you like, but rename and remove none"),
    Check("the arguments reach the blocks", arguments_matter,
          "depth, embed_dim, num_heads, mlp_ratio, qkv_bias, norm_layer and act_layer belong to the TransformerBlocks"),
    Check("every patch influences the logits", every_patch, HEAD),
    Check("positions count, if use_abs_pos", positions,
          "attention alone knows no order: a learned position embedding, one vector for each patch, is added to the "
          "patches if use_abs_pos, and only then"),
    Check("the images of a batch are independent", batch, HEAD),
    Check("state_dict saves all that was learned", reload,
          "what is learned has to be nn.Parameter or part of a module that is an attribute: main.py saves state_dict"),
    Check("every parameter gets a gradient", learns,
          "use each layer that __init__ creates, once each, in the graph; blocks belong into an nn.ModuleList"),
    Check("window_block_indexes", windows, INDEXES),
    Check("window_size", window_size, INDEXES),
    Check("drop_path_rate grows linearly with depth", drop_rates,
          "from 0 in the first block to drop_path_rate in the last (see the docstring)"),
]
