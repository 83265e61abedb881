"""3.2.2: the blocks of SimpleViT: their order, windows, settings and drop path rates."""

import numpy as np

from autograder.checks import check
from autograder.compare import CheckFailed
from autograder.parts.vit import SMALL, either, images, run_vit
from autograder.process import StudentError


def ran_blocks(ask, x: np.ndarray, settings: dict, **more) -> tuple[list[dict], dict]:
    """Facts about the blocks that ran. Raises CheckFailed unless there are `depth` of them."""
    _, facts = run_vit(ask, x, settings, **more)
    blocks = facts["blocks"]
    if not blocks:
        raise CheckFailed("no TransformerBlock runs inside SimpleViT: build it from the sheet's TransformerBlock")
    if len(blocks) != settings["depth"]:
        raise CheckFailed(f"{len(blocks)} blocks run for depth={settings['depth']}")
    return blocks, facts


def own_blocks(ask, x: np.ndarray, settings: dict, **more) -> list[dict]:
    """Facts about the student's own blocks (worker/vit.run_own_blocks). Raises CheckFailed unless `depth` ran."""
    blocks = ask("run_own_blocks", {"x": x.astype(np.float32)}, build={**settings, **more})[0]["blocks"]
    if len(blocks) != settings["depth"]:
        raise CheckFailed(f"{len(blocks)} blocks run for depth={settings['depth']}")
    return blocks


# The least and the most of 4x4 tokens that one token reaches, by window size; windows of 3 are padded.
REACH = {0: [16, 16], 2: [4, 4], 3: [1, 9]}


def expect_chain(blocks: list[dict]) -> None:
    for i, block in enumerate(blocks):
        if not block["follows"]:
            raise CheckFailed(
                f"block {i} does not get the output of block {i - 1}: each block continues with what the last "
                "one returns, and nothing else"
            )


@check("vit", "the blocks follow each other, with windows in those of window_block_indexes", weight=2)
def window_blocks(ask, rng):
    def judge(own: bool) -> None:
        for asked, size in (([0, 2], 2), ([1], 2), ([], 2), ([0, 1, 2, 3], 2), ([0, 3], 3)):
            settings = {**SMALL, "window_block_indexes": asked, "window_size": size}
            x, expected = images(rng, settings), [size if i in asked else 0 for i in range(4)]
            if own:
                blocks = own_blocks(ask, x, settings)
                if [block["reach"] for block in blocks] != [REACH[size] for size in expected]:
                    raise CheckFailed("the blocks reach other tokens than their windows")
            else:
                blocks, _ = ran_blocks(ask, x, settings)
                expect_windows([block["window_size"] for block in blocks], expected, asked, size)
            expect_chain(blocks)
    either(judge)


def expect_windows(got: list[int], expected: list[int], asked: list[int], size: int) -> None:
    if got != expected:
        hint = ": inverted" if got == [size - one for one in expected] and asked != [] else ""
        raise CheckFailed(f"for window_block_indexes={asked} and window_size={size} the blocks have the windows {got}, "
                          f"expected {expected}{hint}")


@check("vit", "settings are passed to the blocks: width, heads, MLP ratio, qkv_bias, norm_layer, act_layer", weight=1)
def settings_passed_on(ask, rng):
    changes = {"embed_dim": 20, "num_heads": 5, "mlp_ratio": 2.5, "depth": 3, "qkv_bias": False}
    settings, expected = {**SMALL, **changes}, {**changes, "norm_layer": True, "act_layer": True}
    names = {"embed_dim": "dim"}

    def judge(own: bool) -> None:
        if own:
            own_settings(ask, images(rng, settings), settings)
            return
        blocks, facts = ran_blocks(ask, images(rng, settings), settings, marked=True)
        for i, block in enumerate(blocks):
            for name in ("embed_dim", "num_heads", "mlp_ratio", "qkv_bias"):
                theirs = names.get(name, name)
                if block[theirs] != expected[name]:
                    raise CheckFailed(f"block {i} has {theirs}={block[theirs]} but SimpleViT was built with "
                                      f"{name}={changes[name]}")
            for name in ("norm_layer", "act_layer"):
                if not block[name]:
                    raise CheckFailed(f"block {i} does not use the {name} that SimpleViT was built with: pass it on")
            if block["tokens"] != (settings["img_size"] // settings["patch_size"]) ** 2:
                raise CheckFailed(f"block {i} gets {block['tokens']} tokens of an image of 4x4 patches")
        if facts["other_norms"]:
            raise CheckFailed(
                f"{facts['other_norms'][0]} of SimpleViT is an nn.LayerNorm, not the norm_layer that it was built with"
            )
    either_with_usual_arguments(ask, judge)


def own_settings(ask, x: np.ndarray, settings: dict) -> None:
    """Raise CheckFailed unless the student's own blocks show the settings in their layers."""
    for block in own_blocks(ask, x, settings, marked=True):
        right = (
            block["dim"] == settings["embed_dim"]
            and int(settings["embed_dim"] * settings["mlp_ratio"]) in block["hidden"]
            and block["qkv_bias"] == settings["qkv_bias"]
            and settings["num_heads"] in block["integers"]
            and block["norm_layer"]
            and block["act_layer"]
            and block["tokens"] == 16
        )
        if not right:
            raise CheckFailed("the blocks do not have the settings of SimpleViT")


def either_with_usual_arguments(ask, judge) -> None:
    """Like `either`, but own blocks count only where they take other arguments than the sheet's, or known-good ones
    cannot run: of the usual arguments the known-good blocks tell more than behaviour does."""
    try:
        judge(False)
    except (CheckFailed, StudentError) as failed:
        if (
            isinstance(failed, CheckFailed)
            and ask("usual_arguments")[0]["usual"]
            and "no TransformerBlock runs" not in str(failed)
        ):
            raise
        try:
            judge(True)
        except (CheckFailed, StudentError):
            raise failed from None


@check("vit", "drop path rate grows with depth from 0 to drop_path_rate", weight=1)
def drop_path(ask, rng):
    settings = {**SMALL, "drop_path_rate": 0.3}

    def judge(own: bool) -> None:
        if own:
            rates = [block["drop_path"] for block in own_blocks(ask, images(rng, settings), settings)]
        else:
            rates = [block["drop_path"] for block in ran_blocks(ask, images(rng, settings), settings)[0]]
        shown = ", ".join(f"{rate:.3g}" for rate in rates)
        if np.allclose(rates, [0, 0.1, 0.2, 0.3], atol=0.035 if own else 1e-6):
            return
        if max(rates) == 0:
            raise CheckFailed("with drop_path_rate=0.3 all blocks have drop_path 0: pass it on", [window_blocks])
        if min(rates) == max(rates):
            raise CheckFailed(f"with drop_path_rate=0.3 all blocks have {shown}: the rate should grow with depth, "
                              "torch.linspace(0, drop_path_rate, depth)", [window_blocks])
        raise CheckFailed(f"drop_path_rate=0.3 over 4 blocks gave {shown}, expected 0, 0.1, 0.2, 0.3")
    either_with_usual_arguments(ask, judge)
