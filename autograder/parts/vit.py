"""3.2.2: SimpleViT around known-good blocks. Only its behaviour is checked, no attribute names.

A network that does not work with the known-good blocks is judged with the student's own (either).
"""

from itertools import combinations

import numpy as np

from autograder.checks import check
from autograder.compare import CheckFailed, format_shape
from autograder.process import StudentError

SMALL = {"img_size": 32, "num_classes": 7, "patch_size": 8, "in_chans": 3, "embed_dim": 24, "depth": 4, "num_heads": 3,
         "window_size": 2, "window_block_indexes": [0, 2], "drop_path_rate": 0.0}
WHAT = "SimpleViT"


def images(rng, settings: dict, N: int = 1) -> np.ndarray:
    return rng.normal(size=(N, settings["in_chans"], settings["img_size"], settings["img_size"]))


def either(judge) -> None:
    """Run judge(own=False), and where it fails judge(own=True), whose success counts. Raises what the first raised."""
    try:
        judge(False)
    except (CheckFailed, StudentError) as failed:
        try:
            judge(True)
        except (CheckFailed, StudentError):
            raise failed from None


def run_vit(ask, x: np.ndarray, settings: dict, own: bool = False, **more) -> tuple[np.ndarray, dict]:
    """The logits and the worker's facts. Raises CheckFailed unless the logits are N x classes and finite."""
    facts, results = ask("run_vit", {"x": x.astype(np.float32)}, build={**settings, "own": own, **more})
    logits, classes = results["logits"], settings.get("num_classes", 100)
    if logits.shape != (len(x), classes):
        raise CheckFailed(
            f"SimpleViT returns {format_shape(logits)} for {len(x)} images and {classes} classes, expected "
            f"{len(x)}x{classes} ({describe(settings)})"
        )
    if not np.isfinite(logits).all():
        raise CheckFailed(f"SimpleViT returns NaN or infinity ({describe(settings)})")
    return logits, facts


def describe(settings: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items() if name in (
        "img_size", "patch_size", "depth", "window_size", "window_block_indexes", "in_chans")) or "the default settings"


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Mask of the rows of logits that differ by more than float32's rounding."""
    return np.abs(after - before).max(1) > 3e-5 * max(1e-3, np.abs(before).max())


@check("vit", "output shape, also for other settings", weight=2)
def shapes(ask, rng):
    def judge(own: bool) -> None:
        for changes in ({}, {"img_size": 16, "num_classes": 3}, {"patch_size": 16, "embed_dim": 12, "depth": 2},
                        {"in_chans": 1, "depth": 1, "window_block_indexes": []}, {"img_size": 24, "num_classes": 1}):
            settings = {**SMALL, **changes}
            run_vit(ask, images(rng, settings, 2), settings, own)
        logits, _ = run_vit(ask, rng.normal(size=(1, 3, 128, 128)), {}, own)  # the defaults: 100 classes
        if logits.min() >= 0 and np.allclose(logits.sum(1), 1, atol=1e-4):
            raise CheckFailed(
                "SimpleViT returns probabilities: return the logits, since the loss has a softmax of its own"
            )

    either(judge)


@check("vit", "the images of a batch are independent", weight=1)
def batch(ask, rng):
    def judge(own: bool) -> None:
        x = images(rng, SMALL, 5)
        together = run_vit(ask, x, SMALL, own)[0]
        alone = np.concatenate([run_vit(ask, x[n:n + 1], SMALL, own)[0] for n in range(len(x))])
        if np.abs(together - alone).max() > 1e-4 * np.abs(alone).max():
            raise CheckFailed(
                "the logits of an image depend on which other images are in the batch, or were in an earlier one"
            )
        if not changed(together[:1], together[1:]).all():
            raise CheckFailed("different images get the same logits")
    either(judge)


@check("vit", "every patch and every pixel reaches the logits", weight=2)
def every_patch(ask, rng):
    def judge(own: bool) -> None:
        for windows, where in (([], "global attention"), ([0, 1, 2, 3], "windowed attention")):
            settings = {**SMALL, "window_block_indexes": windows}
            base, side = images(rng, settings), SMALL["img_size"] // SMALL["patch_size"]
            x = np.repeat(base, side * side, 0)
            for n in range(side * side):
                rows, columns = (slice(i * 8, i * 8 + 8) for i in divmod(n, side))
                x[n, :, rows, columns] += rng.normal(size=(3, 8, 8))
            moved = changed(run_vit(ask, base, settings, own)[0], run_vit(ask, x, settings, own)[0])
            if not moved.all():
                i, j = divmod(int(np.argmin(moved)), side)
                raise CheckFailed(
                    f"{(~moved).sum()} of {side * side} patches do not affect the logits, the first in row "
                    f"{i}, column {j} ({where}, {describe(settings)}): the head must use all tokens, by "
                    "their mean for instance"
                )
        every_pixel(ask, base, settings, own)
    either(judge)


def every_pixel(ask, base: np.ndarray, settings: dict, own: bool) -> None:
    """Raise CheckFailed unless each pixel of a patch, in each channel, affects the logits."""
    p = settings["patch_size"]
    x = np.repeat(base, 3 * p * p, 0)
    for n, (c, i, j) in enumerate(np.ndindex(3, p, p)):
        x[n, c, i::p, j::p] += 1.0
    moved = changed(run_vit(ask, base, settings, own)[0], run_vit(ask, x, settings, own)[0])
    if not moved.all():
        raise CheckFailed(f"{(~moved).sum()} of the {len(moved)} values of a patch do not affect the logits "
                          f"({describe(settings)}): does the embedding see the whole patch?")


@check("vit", "positions affect the logits if and only if use_abs_pos", weight=2)
def positions(ask, rng):
    """All pairs of patches are exchanged: a row of the embedding for each position, not for each row or column."""
    def judge(own: bool) -> None:
        p, side = SMALL["patch_size"], SMALL["img_size"] // SMALL["patch_size"]
        pairs = list(combinations(range(side * side), 2))
        for use in (True, False):
            settings = {**SMALL, "window_block_indexes": [], "window_size": side, "use_abs_pos": use}
            x = images(rng, settings)
            swapped = np.repeat(x, len(pairs), 0)
            for n, pair in enumerate(pairs):
                one, other = (
                    np.s_[:, p * (t // side) : p * (t // side + 1), p * (t % side) : p * (t % side + 1)] for t in pair
                )
                swapped[n][one], swapped[n][other] = x[0][other], x[0][one]
            moved = changed(run_vit(ask, x, settings, own)[0], run_vit(ask, swapped, settings, own)[0])
            if use and not moved.any():
                raise CheckFailed(
                    "two patches were exchanged and the logits did not change, with global attention: the "
                    "position embedding is not added to the tokens"
                )
            if use and not moved.all():
                (a, b), (c, d) = (divmod(t, side) for t in pairs[int(np.argmin(moved))])
                raise CheckFailed(
                    f"the patches in row {a}, column {b} and in row {c}, column {d} were exchanged and the "
                    "logits did not change: the position embedding needs a row of its own for each position"
                )
            if not use and moved.any():
                raise CheckFailed("with use_abs_pos=False, two patches were exchanged and the logits changed: do not "
                                  "add positions then", follows_from=[every_patch])
    either(judge)
