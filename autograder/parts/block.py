"""3.2.1: the transformer block around a known-good attention: pre-norm, two shortcuts, windows, stochastic depth.

A block that does not work with the known-good attention, e.g. since it calls its own with other arguments, is judged
with its own (block_cases.Case.run).
"""

import numpy as np

from autograder.checks import check
from autograder.compare import CheckFailed, expect_close, format_shape, is_close
from autograder.parts.block_cases import Case
from autograder.parts.invariants import (
    Unused,
    expect_gradients,
    expect_no_chance,
    expect_no_memory,
    expect_reload,
    expect_speed,
)
from autograder.process import StudentError

WHAT = "TransformerBlock"


def compare(ask, case: Case) -> None:
    """Raise CheckFailed unless the output is right."""
    got = case.run(ask)
    if case.fitting(got) is None:
        expect_close("the output of TransformerBlock", got, case.expected(), str(case), case.mistakes(),
                     within=case.tolerance())


def is_right(ask, case: Case) -> bool:
    try:
        return case.fitting(case.run(ask)) is not None
    except (CheckFailed, StudentError):
        return False


@check("block", "global attention: pre-norm and both shortcuts", weight=2)
def global_attention(ask, rng):
    compare(ask, Case(rng))
    compare(ask, Case(rng, H=5, W=3))


def in_windows(ask, rng, *sizes: tuple[int, int, int]) -> None:
    """Check windows, given as (window_size, H, W). If global attention is wrong, check only which tokens interact."""
    correct = is_right(ask, Case(rng))
    for window, H, W in sizes:
        case = Case(rng, window=window, H=H, W=W)
        compare(ask, case) if correct else check_window_reach(ask, case, rng)


def check_window_reach(ask, case: Case, rng) -> None:
    """Raise CheckFailed unless changing one token changes the outputs of its window only."""
    before = case.run(ask)
    i, j = case.x.shape[1] - 1, 0
    case.x[:, i, j] += rng.normal(size=case.x.shape[-1])  # not the same in all channels: LayerNorm would remove it
    after = case.run(ask)
    if before.shape != case.x.shape or after.shape != case.x.shape:
        raise CheckFailed(f"the output of TransformerBlock ({case}) has the shape {format_shape(after)}, expected "
                          f"{format_shape(case.x)}")
    moved = (np.abs(after - before) > 1e-6 * np.abs(before).max()).any((0, 3))
    rows, columns = np.indices(moved.shape)
    inside = (rows // case.window == i // case.window) & (columns // case.window == j // case.window)
    if (moved & ~inside).any():  # a block without attention or shortcut may move fewer
        raise CheckFailed(f"one token was changed, and {moved.sum()} outputs of TransformerBlock changed, expected the "
                          f"{inside.sum()} of its window ({case})")


@check("block", "windows that divide height and width", weight=1)
def windows(ask, rng):
    in_windows(ask, rng, (2, 4, 6), (3, 3, 9))


@check("block", "windows that do not: padding, then cropping", weight=1)
def padded_windows(ask, rng):
    in_windows(ask, rng, (3, 4, 5), (4, 6, 3))


ARGUMENTS = (({"eps": 0.5}, "norm_layer", "it is given a LayerNorm with another eps"),
             ({"activation": "Tanh"}, "act_layer", "it is given nn.Tanh"),
             ({"bias": False}, "qkv_bias", "it is False"),
             ({"hidden": 21}, "mlp_ratio", "it is 3.5"))


@check("block", "norm_layer, act_layer, qkv_bias and mlp_ratio matter", weight=1)
def arguments(ask, rng):
    """Each alone. Where the block is wrong anyway, the argument has to change the output."""
    correct = is_right(ask, Case(rng))
    for changes, name, value in ARGUMENTS:
        case = Case(rng, **changes)
        got = case.run(ask)
        if name == "qkv_bias" and case.facts.get("bias"):
            raise CheckFailed("with qkv_bias=False the attention has a bias of q, k and v: pass qkv_bias on")
        if correct and case.fitting(got) is None:
            usual = next(({key: value} for key, value in (("eps", 1e-5), ("activation", "GELU")) if key in changes), {})
            ignored = case.fitting(got, **usual) is not None if usual else False
            raise CheckFailed(
                f"the output of TransformerBlock is wrong when {name} is not the usual one: {value} ({case})"
                + (f". It equals the output for the default: {name} is not used everywhere" if ignored else "")
            )


@check("block", "every parameter learns: gradients are the slopes of the output", weight=1, beside=True)
def gradients(ask, rng):
    x = rng.normal(size=(2, 3, 4, 6))
    try:
        for training, window in ((False, 0), (True, 2)):
            with_own_attention(ask, lambda own, training=training, window=window: expect_gradients(
                ask, WHAT, x, build(window_size=window, own=own), training))
    except CheckFailed as failed:
        causes = [global_attention] if isinstance(failed, Unused) else [drop_path] if training else []
        raise CheckFailed(str(failed), causes) from None


def build(**changes) -> dict:
    return {"kind": "block", "dim": 6, "num_heads": 2, "mlp_ratio": 2.5, **changes}


def with_own_attention(ask, judge) -> None:
    """Run judge(own=False), and where it fails judge(own=True), whose success counts. Raises what the first raised."""
    try:
        judge(False)
    except (CheckFailed, StudentError) as failed:
        try:
            judge(True)
        except (CheckFailed, StudentError):
            raise failed from None


@check("block", "calls leave nothing behind, and nothing is random but drop path", weight=0.5, beside=True)
def memory(ask, rng):
    inputs = [rng.normal(size=(*size, 6)) for size in ((2, 3, 4), (1, 5, 2), (3, 2, 2), (2, 4, 3))]
    others = [{"window_size": 0, "mlp_ratio": 4.0}, {"window_size": 3}]

    def judge(own: bool) -> None:
        expect_no_chance(ask, WHAT, inputs[0], build(own=own))
        builds = [build(window_size=2, own=own), *[build(own=own, **changes) for changes in others]]
        expect_no_memory(ask, WHAT, inputs, builds)
    try:
        with_own_attention(ask, judge)
    except CheckFailed as failed:
        raise CheckFailed(str(failed), [drop_path] if "training mode" in str(failed) else []) from None


@check("block", "saved and loaded by state_dict, it gives the same output", weight=0.5, beside=True)
def reload(ask, rng):
    x = rng.normal(size=(2, 3, 4, 6))
    with_own_attention(ask, lambda own: expect_reload(ask, WHAT, x, build(window_size=2, own=own)))


@check("block", "fast enough to train", weight=0.5, beside=True)
def speed(ask, rng):
    with_own_attention(ask, lambda own: expect_speed(
        ask, WHAT, "time_block", "torch's TransformerEncoderLayer", dim=96, num_heads=4, window_size=4, own=own,
        sizes=[[1, 4, 4], [2, 8, 8], [8, 8, 8]]))


# ------------------------------------------------------------------------------------------ stochastic depth


@check("block", "stochastic depth drops each branch per sample, in training mode only", weight=1)
def drop_path(ask, rng):
    """Compared with the block's own output without drop path, so that other mistakes do not count here."""
    case = Case(rng, B=256, H=1, W=2)
    own = case.run(ask)
    if not is_close(case.run(ask, drop_path=0.4), own, 1e-5):
        raise CheckFailed("in evaluation mode the outputs with drop_path=0.4 and drop_path=0 differ: nothing may be "
                          "dropped there")
    got = case.run(ask, drop_path=0.4, training=True)
    if is_close(got, own, 1e-5):
        raise CheckFailed("in training mode, with drop_path=0.4, nothing is dropped at all: is drop_path used?")
    keywords = case.fitting(own)
    if keywords is not None and is_close(case.run(ask, training=True), own, 1e-5):
        check_drop_outcomes(case, got, 0.4, keywords)
        windowed = Case(rng, B=128, H=4, W=4, window=2)
        keywords = windowed.fitting(windowed.run(ask))
        if keywords is not None:
            check_drop_outcomes(windowed, windowed.run(ask, drop_path=0.4, training=True), 0.4, keywords)


def outcomes(case: Case, got: np.ndarray, rate: float, keywords: dict) -> np.ndarray:
    """For each sample 2 * (MLP kept) + (attention kept); 4: a branch without drop path, -1: none of these."""
    scale, found = 1 / (1 - rate), np.full(len(got), -1)
    factors = {0: (0.0, 0.0), 1: (scale, 0.0), 2: (0.0, scale), 3: (scale, scale)}
    for outcome, pair in factors.items():
        expected = case.expected(factors=pair, **keywords)
        near = np.abs(got - expected).reshape(len(got), -1).max(1) <= 2 * scale * case.tolerance(**keywords)
        found[near & (found == -1)] = outcome
    return found


def check_drop_outcomes(case: Case, got: np.ndarray, rate: float, keywords: dict) -> None:
    """Each sample must be one of four outcomes: attention dropped or scaled by 1/keep, MLP likewise."""
    scale, found = 1 / (1 - rate), outcomes(case, got, rate, keywords)
    where = f"in training mode, with drop_path={rate:g}"
    for position, branch in enumerate(("attention", "MLP")):
        always = [(1.0, 0.0), (1.0, scale)] if position == 0 else [(0.0, 1.0), (scale, 1.0)]
        plain = [np.abs(got - case.expected(factors=pair, **keywords)).reshape(len(got), -1).max(1)
                 <= 2 * scale * case.tolerance(**keywords) for pair in always]
        if np.logical_or(*plain).all():
            raise CheckFailed(f"{where}, the {branch} branch is never dropped")
    if (found == -1).any():
        raise CheckFailed(
            f"{where}, sample {int(np.argmax(found == -1))} is none of the four: x plus attention times 0 "
            f"or {scale:.3g}, plus MLP times 0 or {scale:.3g} (1 / keep). DropPath goes around each branch "
            f"of a whole sample, not around the shortcut, a window or a token{unscaled(case, got, keywords)}"
        )
    if len(set(found.tolist())) < 4:
        raise CheckFailed(
            f"{where}, {len(got)} samples show only {len(set(found.tolist()))} of the four outcomes: drop "
            "the two branches independently, and each sample independently"
        )


def unscaled(case: Case, got: np.ndarray, keywords: dict) -> str:
    """A hint if all samples are among the four outcomes without the factor 1 / keep."""
    found = outcomes(case, got, 0.0, keywords)
    return "" if (found == -1).any() else ". What is kept is not divided by the probability of keeping it"


@check("block", "stochastic depth drops with the probability drop_path", weight=0.5, beside=True)
def drop_rate(ask, rng):
    """4000 samples, drop_path 0.3. The counts of the kept attentions, the kept MLPs, and samples where both agree are
    binomial. More than 5.2 standard deviations off has probability 2e-7 for each, 6e-7 in all, if the code is right; a
    rate that is off by 0.06 (0.24 or 0.36) is found with a probability of more than 0.99."""
    samples, rate = 4000, 0.3
    case = Case(rng, B=samples, H=1, W=1)
    keywords = case.fitting(case.run(ask))
    found = (
        outcomes(case, case.run(ask, drop_path=rate, training=True), rate, keywords) if keywords is not None else None
    )
    if found is None or (found == -1).any():
        return  # judged above
    kept = np.stack([found % 2 == 1, found >= 2])
    for name, count, p in (("the attention", kept[0].sum(), 1 - rate), ("the MLP", kept[1].sum(), 1 - rate),
                           ("both or neither", (kept[0] == kept[1]).sum(), rate ** 2 + (1 - rate) ** 2)):
        if abs(count - samples * p) > 5.2 * np.sqrt(samples * p * (1 - p)):
            raise CheckFailed(
                f"in training mode, with drop_path={rate}, {name} of {samples} samples is kept in {count}, "
                f"expected about {samples * p:.0f}: drop_path is the probability of dropping, for each "
                "sample and branch on its own"
            )
