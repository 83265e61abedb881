"""3.2.2: what holds for SimpleViT whatever its mistakes are: gradients, saving, memory, chance, speed."""

from autograder.checks import check
from autograder.compare import CheckFailed
from autograder.parts.invariants import (
    Unused,
    expect_gradients,
    expect_no_chance,
    expect_no_memory,
    expect_reload,
    expect_speed,
)
from autograder.parts.vit import SMALL, WHAT, changed, either, every_patch, images, positions, run_vit
from autograder.parts.vit_blocks import settings_passed_on, window_blocks
from autograder.process import StudentError


def build(**changes) -> dict:
    return {"kind": "vit", **SMALL, "depth": 2, "embed_dim": 12, "window_block_indexes": [0], **changes}


def registered(ask, rng) -> bool:
    """False if blocks are not registered in SimpleViT, as in a Python list."""
    try:
        return all(block["registered"] for block in run_vit(ask, images(rng, SMALL), SMALL)[1]["blocks"])
    except (CheckFailed, StudentError):  # judged elsewhere
        return True


@check("vit", "every parameter learns: gradients are the slopes of the logits", weight=1, beside=True)
def gradients(ask, rng):
    if not registered(ask, rng):
        raise CheckFailed(
            "the blocks are not registered in SimpleViT, as in a Python list: an optimizer does not see their "
            "parameters and state_dict() does not save them. Use nn.ModuleList"
        )
    try:
        either(lambda own: expect_gradients(ask, WHAT, images(rng, SMALL, 2), build(own=own), True))
    except Unused as failed:
        raise CheckFailed(str(failed), [every_patch, positions, window_blocks, settings_passed_on]) from None


@check("vit", "positions are learned; saved and loaded by state_dict, the logits are the same", weight=1, beside=True)
def reload(ask, rng):
    if not registered(ask, rng):
        return

    def judge(own: bool) -> None:
        expect_reload(ask, WHAT, images(rng, SMALL, 2), build(own=own))
        names = ask("used_parameters", build=build(own=own))[0]
        x = images(rng, SMALL)
        with_positions, without = (run_vit(ask, x, build(own=own, use_abs_pos=use))[0] for use in (True, False))
        learnt = set(names["True"]) - set(names["False"])
        if changed(with_positions, without).any() and not learnt:
            raise CheckFailed(
                "no parameter learns with use_abs_pos=True that does not learn without: the position embedding "
                "must be an nn.Parameter", follows_from=[positions, gradients]
            )
    either(judge)


@check("vit", "calls leave nothing behind, and nothing is random but drop path", weight=0.5, beside=True)
def memory(ask, rng):
    if not registered(ask, rng):
        return
    inputs = [images(rng, SMALL, N) for N in (3, 1, 5)]

    def judge(own: bool) -> None:
        expect_no_chance(ask, WHAT, inputs[0], build(own=own), same_in_training=False)
        expect_no_chance(ask, WHAT, inputs[0], build(own=own, drop_path_rate=0.3), modes=("eval",))
        builds = [
            build(own=own, drop_path_rate=0.3),
            build(own=own, patch_size=16, window_block_indexes=[1], window_size=1),
        ]
        expect_no_memory(ask, WHAT, inputs, builds)
    either(judge)


@check("vit", "fast enough to train", weight=0.5, beside=True)
def speed(ask, rng):
    either(lambda own: expect_speed(ask, WHAT, "time_vit", "torch's TransformerEncoder", dim=48, depth=2, num_heads=3,
                                               own=own, sizes=[[1, 16], [2, 32], [8, 64]]))
