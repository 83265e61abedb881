"""3.2.2: SimpleViT around known-good blocks, by what it does: no name of its own is looked at."""

import numpy as np

from autograder.checks import check
from autograder.compare import Wrong, shape

SMALL = {"img_size": 32, "num_classes": 7, "patch_size": 8, "in_chans": 3, "embed_dim": 24, "depth": 4, "num_heads": 3,
         "window_size": 2}


def build(ask, **changes) -> dict:
    settings = {**SMALL, "window_block_indexes": [0, 2], **changes}
    ask("build_vit", seed=3, **settings)
    return settings


def images(rng, settings: dict, N: int = 1) -> np.ndarray:
    return rng.normal(size=(N, settings["in_chans"], settings["img_size"], settings["img_size"]))


def run(ask, x: np.ndarray, settings: dict) -> tuple[np.ndarray, list[dict]]:
    """Logits and blocks. Raises Wrong if the logits have not the shape N x classes, or are not finite."""
    facts, results = ask("run_vit", {"x": x})
    logits = results["logits"]
    if logits.shape != (len(x), settings["num_classes"]):
        raise Wrong(f"SimpleViT gives {shape(logits)} for {len(x)} images and {settings['num_classes']} classes, "
                    f"expected {len(x)}x{settings['num_classes']} ({describe(settings)})")
    if not np.isfinite(logits).all():
        raise Wrong(f"SimpleViT gives NaN or infinity ({describe(settings)})")
    return logits, facts["blocks"]


def describe(settings: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items() if name in (
        "img_size", "patch_size", "depth", "window_size", "window_block_indexes", "in_chans"))


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which rows of logits differ by more than rounding."""
    return np.abs(after - before).max(1) > 1e-9 * max(1e-3, np.abs(before).max())


@check("vit", "a logit for each class, for other sizes and counts too", weight=2)
def shapes(ask, rng):
    for changes in ({}, {"img_size": 16, "num_classes": 3}, {"patch_size": 16, "embed_dim": 12, "depth": 2},
                    {"in_chans": 1, "depth": 1, "window_block_indexes": []}, {"img_size": 24, "num_classes": 1}):
        settings = build(ask, **changes)
        run(ask, images(rng, settings, 2), settings)
    ask("build_vit", seed=3)  # the sheet's: 100 classes, 128 pixels
    settings = {"num_classes": 100, "img_size": 128, "in_chans": 3}
    run(ask, images(rng, settings, 1), settings)


@check("vit", "images of a batch do not mix", weight=1)
def batch(ask, rng):
    settings = build(ask)
    x = images(rng, settings, 4)
    together = run(ask, x, settings)[0]
    alone = np.concatenate([run(ask, x[n:n + 1], settings)[0] for n in range(len(x))])
    if np.abs(together - alone).max() > 1e-8 * np.abs(alone).max():
        raise Wrong("the logits of an image depend on which other images are in the batch, in evaluation mode")
    if not changed(together[:1], together[1:]).all():
        raise Wrong("different images get the same logits")


@check("vit", "every patch reaches the logits", weight=2)
def every_patch(ask, rng):
    for windows, where in (([], "all blocks global"), ([0, 1, 2, 3], "all blocks in windows")):
        settings = build(ask, window_block_indexes=windows)
        side = settings["img_size"] // settings["patch_size"]
        base = images(rng, settings)
        x = np.repeat(base, side * side, 0)
        for n in range(side * side):
            rows, columns = (slice(i * 8, i * 8 + 8) for i in divmod(n, side))
            x[n, :, rows, columns] += rng.normal(size=(3, 8, 8))
        moved = changed(run(ask, base, settings)[0], run(ask, x, settings)[0])
        if not moved.all():
            i, j = divmod(int(np.argmin(moved)), side)
            raise Wrong(f"{(~moved).sum()} of {side * side} patches do not matter to the logits, the first in row "
                        f"{i}, column {j} ({where}, {describe(settings)}): the head has to see all tokens, by their "
                        "mean for instance")


@check("vit", "positions matter, and only with use_abs_pos", weight=2)
def positions(ask, rng):
    for use, window in ((True, []), (False, [])):
        settings = build(ask, window_block_indexes=window, use_abs_pos=use)
        x = images(rng, settings)
        swapped = x.copy()
        swapped[:, :, :8, :8], swapped[:, :, 8:16, 16:24] = x[:, :, 8:16, 16:24], x[:, :, :8, :8]
        moved = changed(run(ask, x, settings)[0], run(ask, swapped, settings)[0]).all()
        if use and not moved:
            raise Wrong("two patches were exchanged and the logits stayed the same, all blocks being global: the "
                        "position embedding is not added to the tokens")
        if not use and moved:
            raise Wrong("with use_abs_pos=False, two patches were exchanged and the logits changed: there are "
                        "positions where none were asked for")


@check("vit", "windows in the blocks that window_block_indexes names", weight=2)
def window_blocks(ask, rng):
    for asked in ([0, 2], [1], [], [0, 1, 2, 3]):
        settings = build(ask, window_block_indexes=asked)
        _, blocks = run(ask, images(rng, settings), settings)
        right = [2 if i in asked else 0 for i in range(4)]
        got = [block["window_size"] for block in blocks]
        if not blocks:
            raise Wrong("no TransformerBlock runs inside SimpleViT: it has to be built from the sheet's "
                        "TransformerBlock")
        if len(got) != len(right):
            raise Wrong(f"{len(got)} blocks run for depth=4")
        if got != right:
            hint = ": inverted" if got == [2 - size for size in right] and asked != [] else ""
            raise Wrong(f"for window_block_indexes={asked} and window_size=2 the blocks have the windows {got}, "
                        f"expected {right}{hint}")


@check("vit", "blocks get what SimpleViT was given: width, heads, MLP ratio, depth", weight=1)
def settings_passed_on(ask, rng):
    changes = {"embed_dim": 20, "num_heads": 5, "mlp_ratio": 2.5, "depth": 3, "qkv_bias": False}
    settings = build(ask, **changes)
    _, blocks = run(ask, images(rng, settings), settings)
    if len(blocks) != 3:
        raise Wrong(f"{len(blocks)} blocks run for depth=3")
    for i, block in enumerate(blocks):
        for ours, theirs in (("dim", "embed_dim"), ("num_heads",) * 2, ("mlp_ratio",) * 2, ("qkv_bias",) * 2):
            if block[ours] != settings.get(theirs, changes.get(theirs)):
                raise Wrong(f"block {i} has {ours}={block[ours]} where SimpleViT was given {theirs}={changes[theirs]}")


@check("vit", "drop path grows over the blocks from 0 to drop_path_rate", weight=1)
def drop_path(ask, rng):
    settings = build(ask, drop_path_rate=0.3)
    _, blocks = run(ask, images(rng, settings), settings)
    rates = [block["drop_path"] for block in blocks]
    if not rates:
        raise Wrong("no TransformerBlock runs inside SimpleViT")
    shown = ", ".join(f"{rate:.3g}" for rate in rates)
    if max(rates) == 0:
        raise Wrong("drop_path_rate=0.3, and no block drops anything: pass drop_path on")
    if min(rates) == max(rates):
        raise Wrong(f"drop_path_rate=0.3, and all blocks have {shown}: the rate should grow with the depth, "
                    "torch.linspace(0, drop_path_rate, depth)")
    if rates != sorted(rates) or rates[0] > 0.1 or abs(rates[-1] - 0.3) > 1e-6:
        raise Wrong(f"drop_path_rate=0.3 over 4 blocks gave {shown}, expected 0, 0.1, 0.2, 0.3")


@check("vit", "it can learn: gradients reach its parameters", weight=1)
def learns(ask, rng):
    settings = build(ask, drop_path_rate=0.0)
    facts, _ = ask("train_vit", {"x": images(rng, settings, 4)})
    if facts["dead"]:
        raise Wrong(f"no gradient reaches {len(facts['dead'])} of {facts['parameters']} parameters, the first being "
                    f"{facts['dead'][0]}: it is not used, or something is cut off by detach() or no_grad()")
