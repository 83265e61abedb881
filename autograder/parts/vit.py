"""3.2.2: SimpleViT with known-good blocks. Only its behaviour is checked, no attribute names."""

import numpy as np

from autograder.checks import check
from autograder.compare import CheckFailed, format_shape

SMALL = {"img_size": 32, "num_classes": 7, "patch_size": 8, "in_chans": 3, "embed_dim": 24, "depth": 4, "num_heads": 3,
         "window_size": 2}


def build_vit(ask, **changes) -> dict:
    """Build a small SimpleViT in the worker. Returns its settings."""
    settings = {**SMALL, "window_block_indexes": [0, 2], **changes}
    ask("build_vit", seed=3, **settings)
    return settings


def images(rng, settings: dict, N: int = 1) -> np.ndarray:
    return rng.normal(size=(N, settings["in_chans"], settings["img_size"], settings["img_size"]))


def run_vit(ask, x: np.ndarray, settings: dict) -> tuple[np.ndarray, list[dict]]:
    """The logits and the settings of the blocks. Raises CheckFailed unless the logits are N x classes and finite."""
    facts, results = ask("run_vit", {"x": x})
    logits = results["logits"]
    if logits.shape != (len(x), settings["num_classes"]):
        raise CheckFailed(f"SimpleViT returns {format_shape(logits)} for {len(x)} images and {settings['num_classes']} "
                          f"classes, expected {len(x)}x{settings['num_classes']} ({describe(settings)})")
    if not np.isfinite(logits).all():
        raise CheckFailed(f"SimpleViT returns NaN or infinity ({describe(settings)})")
    return logits, facts["blocks"]


def describe(settings: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items() if name in (
        "img_size", "patch_size", "depth", "window_size", "window_block_indexes", "in_chans"))


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Mask of the rows of logits that differ by more than rounding."""
    return np.abs(after - before).max(1) > 1e-9 * max(1e-3, np.abs(before).max())


@check("vit", "output shape, also for other settings", weight=2)
def shapes(ask, rng):
    for changes in ({}, {"img_size": 16, "num_classes": 3}, {"patch_size": 16, "embed_dim": 12, "depth": 2},
                    {"in_chans": 1, "depth": 1, "window_block_indexes": []}, {"img_size": 24, "num_classes": 1}):
        settings = build_vit(ask, **changes)
        run_vit(ask, images(rng, settings, 2), settings)
    ask("build_vit", seed=3)  # the defaults: 100 classes, 128 pixels
    settings = {"num_classes": 100, "img_size": 128, "in_chans": 3}
    run_vit(ask, images(rng, settings, 1), settings)


@check("vit", "the images of a batch are independent", weight=1)
def batch(ask, rng):
    settings = build_vit(ask)
    x = images(rng, settings, 4)
    together = run_vit(ask, x, settings)[0]
    alone = np.concatenate([run_vit(ask, x[n:n + 1], settings)[0] for n in range(len(x))])
    if np.abs(together - alone).max() > 1e-8 * np.abs(alone).max():
        raise CheckFailed("the logits of an image depend on which other images are in the batch, in evaluation mode")
    if not changed(together[:1], together[1:]).all():
        raise CheckFailed("different images get the same logits")


@check("vit", "every patch reaches the logits", weight=2)
def every_patch(ask, rng):
    for windows, where in (([], "global attention"), ([0, 1, 2, 3], "windowed attention")):
        settings = build_vit(ask, window_block_indexes=windows)
        side = settings["img_size"] // settings["patch_size"]
        base = images(rng, settings)
        x = np.repeat(base, side * side, 0)
        for n in range(side * side):
            rows, columns = (slice(i * 8, i * 8 + 8) for i in divmod(n, side))
            x[n, :, rows, columns] += rng.normal(size=(3, 8, 8))
        moved = changed(run_vit(ask, base, settings)[0], run_vit(ask, x, settings)[0])
        if not moved.all():
            i, j = divmod(int(np.argmin(moved)), side)
            raise CheckFailed(f"{(~moved).sum()} of {side * side} patches do not affect the logits, the first in row "
                              f"{i}, column {j} ({where}, {describe(settings)}): the head must use all tokens, e.g. by "
                              "their mean for instance")


@check("vit", "positions affect the logits if and only if use_abs_pos", weight=2)
def positions(ask, rng):
    for use, window in ((True, []), (False, [])):
        settings = build_vit(ask, window_block_indexes=window, use_abs_pos=use)
        x = images(rng, settings)
        swapped = x.copy()
        swapped[:, :, :8, :8], swapped[:, :, 8:16, 16:24] = x[:, :, 8:16, 16:24], x[:, :, :8, :8]
        moved = changed(run_vit(ask, x, settings)[0], run_vit(ask, swapped, settings)[0]).all()
        if use and not moved:
            raise CheckFailed("two patches were exchanged and the logits did not change, with global attention: the "
                              "position embedding is not added to the tokens")
        if not use and moved:
            raise CheckFailed("with use_abs_pos=False, two patches were exchanged and the logits changed: do not "
                              "add positions then")


@check("vit", "windowed attention in the blocks of window_block_indexes", weight=2)
def window_blocks(ask, rng):
    for asked in ([0, 2], [1], [], [0, 1, 2, 3]):
        settings = build_vit(ask, window_block_indexes=asked)
        _, blocks = run_vit(ask, images(rng, settings), settings)
        expected = [2 if i in asked else 0 for i in range(4)]
        got = [block["window_size"] for block in blocks]
        if not blocks:
            raise CheckFailed("no TransformerBlock runs inside SimpleViT: build it from the sheet's "
                              "TransformerBlock")
        if len(got) != len(expected):
            raise CheckFailed(f"{len(got)} blocks run for depth=4")
        if got != expected:
            hint = ": inverted" if got == [2 - size for size in expected] and asked != [] else ""
            raise CheckFailed(f"for window_block_indexes={asked} and window_size=2 the blocks have the windows {got}, "
                              f"expected {expected}{hint}")


@check("vit", "settings are passed to the blocks: width, heads, MLP ratio, depth", weight=1)
def settings_passed_on(ask, rng):
    changes = {"embed_dim": 20, "num_heads": 5, "mlp_ratio": 2.5, "depth": 3, "qkv_bias": False}
    settings = build_vit(ask, **changes)
    _, blocks = run_vit(ask, images(rng, settings), settings)
    if len(blocks) != 3:
        raise CheckFailed(f"{len(blocks)} blocks run for depth=3")
    for i, block in enumerate(blocks):
        for ours, theirs in (("dim", "embed_dim"), ("num_heads",) * 2, ("mlp_ratio",) * 2, ("qkv_bias",) * 2):
            if block[ours] != settings.get(theirs, changes.get(theirs)):
                raise CheckFailed(f"block {i} has {ours}={block[ours]} but SimpleViT was built with "
                                  f"{theirs}={changes[theirs]}")


@check("vit", "drop path rate grows with depth from 0 to drop_path_rate", weight=1)
def drop_path(ask, rng):
    settings = build_vit(ask, drop_path_rate=0.3)
    _, blocks = run_vit(ask, images(rng, settings), settings)
    rates = [block["drop_path"] for block in blocks]
    if not rates:
        raise CheckFailed("no TransformerBlock runs inside SimpleViT")
    shown = ", ".join(f"{rate:.3g}" for rate in rates)
    if max(rates) == 0:
        raise CheckFailed("with drop_path_rate=0.3 all blocks have drop_path 0: pass it on")
    if min(rates) == max(rates):
        raise CheckFailed(f"with drop_path_rate=0.3 all blocks have {shown}: the rate should grow with depth, "
                          "torch.linspace(0, drop_path_rate, depth)")
    if rates != sorted(rates) or rates[0] > 0.1 or abs(rates[-1] - 0.3) > 1e-6:
        raise CheckFailed(f"drop_path_rate=0.3 over 4 blocks gave {shown}, expected 0, 0.1, 0.2, 0.3")


@check("vit", "gradients reach all parameters", weight=1)
def learns(ask, rng):
    settings = build_vit(ask, drop_path_rate=0.0)
    facts, _ = ask("train_vit", {"x": images(rng, settings, 4)})
    if facts["without_gradient"]:
        raise CheckFailed(f"no gradient reaches {len(facts['without_gradient'])} of {facts['parameters']} parameters, "
                          f"the first being {facts['without_gradient'][0]}: it is unused, or detach() or no_grad() "
                          "cuts the graph")
