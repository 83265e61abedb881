"""What holds for every layer and network, whatever its mistake would be: verdicts on the tasks of worker/probes.py.

Each compares the student's code with itself, so that a wrong value, which other checks find, does not count again.
"""

import numpy as np

from autograder.checks import Ask
from autograder.compare import CheckFailed, is_close

COST_LIMIT = 50.0  # times the reference: an epoch of half an hour would last a day
SLOPE_TOLERANCE = {"float64": 1e-5, "float32": 1e-2}  # differences over steps of 1e-5 and 2e-2


class Unused(CheckFailed):
    """A parameter is not used: perhaps a consequence of a mistake that costs points elsewhere."""


def expect_gradients(ask: Ask, what: str, x: np.ndarray, build: dict, training: bool = False) -> None:
    """Raise CheckFailed unless the gradient of the input and of each parameter is the slope of the output.

    The slope along a random direction is measured by central differences of fourth order, in float64 if the code runs
    in it, else in float32. A parameter without slope and without gradient is one that is not used.
    """
    facts, results = ask("module_slopes", {"x": x.astype(np.float32)}, build=build, training=training)
    wrong = [wrong_gradients(facts, results, dtype) for dtype in SLOPE_TOLERANCE if f"{dtype}.numeric" in results]
    mode = "training" if training else "evaluation"
    if all(wrong) and not all(np.isfinite(array).all() for array in results.values()):
        raise CheckFailed(f"the output of {what}, or its gradient, is NaN or infinite ({mode} mode)")
    if not all(wrong):  # one precision in which all agree is enough
        return
    name, has_gradient, used = wrong[0][0]
    others = f", nor {len(wrong[0]) - 1} other tensors" if len(wrong[0]) > 1 else ""
    if not used and not has_gradient:
        raise Unused(
            f"{what} does not use its parameter {name}{others}: the output stays the same whatever its value"
        )
    if not has_gradient:
        raise CheckFailed(f"no gradient reaches {name}{others}, although the output of {what} depends on it ({mode} "
                          "mode): a detach(), a no_grad(), or a copy through .data or numpy cuts the graph")
    raise CheckFailed(f"the gradient of {name}{others.replace('nor', 'and')} is not the slope of the output of {what} "
                      f"({mode} mode): does a detach(), a no_grad() or .data cut a part of the graph?")


def wrong_gradients(facts: dict, results: dict, dtype: str) -> list[tuple[str, bool, bool]]:
    """(name, has a gradient, has a slope) of the tensors whose gradient is not the slope, or that have neither."""
    analytic, numeric = results[f"{dtype}.analytic"], results[f"{dtype}.numeric"]
    floor = 30 * float(results[f"{dtype}.floor"][0])
    found = []
    for i, name in enumerate(facts["names"]):
        slope, error = np.abs(numeric[i]).max(), np.abs(analytic[i] - numeric[i]).max()
        used, has_gradient = bool(slope > floor), bool(facts["has_gradient"][i])
        if not error <= SLOPE_TOLERANCE[dtype] * max(slope, np.abs(analytic[i]).max()) + floor or not (
            used or has_gradient
        ):
            found.append((name, has_gradient, used))
    return found


def expect_no_memory(ask: Ask, what: str, inputs: list[np.ndarray], builds: list[dict]) -> None:
    """Raise CheckFailed unless a call's output depends on its input only.

    The first module sees inputs[0], then the others (other sizes and batches), a training pass, and inputs[0] again,
    with the second module in between. Inputs, modes and the state of the process must stay as they are.
    """
    first, others = [[0, 0, "eval"]], [[0, i, "eval"] for i in range(1, len(inputs))]
    other_module = [[m, 0, "eval"] for m in range(1, len(builds))]
    calls = [*first, *others, *first, *other_module, *first, [0, 0, "train"], *first, *others, *other_module]
    facts, results = ask("module_memory", {f"x{i}": x.astype(np.float32) for i, x in enumerate(inputs)},
                         builds=builds, calls=calls)
    if facts["input_changed"]:
        raise CheckFailed(f"{what} modifies its input in place, as x += ... does")
    if facts["mode_changed"]:
        raise CheckFailed(f"{what} changes its mode (train, eval) while it runs")
    expect_state(facts, what)
    seen: dict[tuple, np.ndarray] = {}
    for number, (m, i, mode) in enumerate(calls):
        got = results.get(str(number))
        if mode == "eval" and not same(got, seen.setdefault((m, i), got)):
            before = calls[number - 1]
            after = ("a training pass" if before[2] == "train" else f"another {what} ran" if before[0] != m
                     else f"an input of {'x'.join(map(str, inputs[before[1]].shape))}")
            raise CheckFailed(f"{what} gives another output for the same input after {after}: something is kept from "
                              "one call to the next, on the module, its class or in a global variable")


def expect_state(facts: dict, what: str) -> None:
    """Raise CheckFailed if global state changed."""
    if facts["state"]:
        raise CheckFailed(f"a call of {what} changes {facts['state'][0]} of the whole program")


def expect_no_chance(ask: Ask, what: str, x: np.ndarray, build: dict, modes: tuple = ("eval", "train"),
                     same_in_training: bool = True) -> None:
    """Raise CheckFailed if two calls in one of `modes` differ, or, with `same_in_training`, those of both modes do.

    `build` asks for nothing random in these modes.
    """
    _, results = ask("module_chance", {"x": x.astype(np.float32)}, build=build)
    for mode in modes:
        if not same(results[f"{mode}.1"], results[f"{mode}.0"]):
            raise CheckFailed(f"two calls of {what} give different outputs for the same input in "
                              + ("evaluation mode: nothing may be random there" if mode == "eval" else
                                 "training mode, although no drop path is asked for: nothing else may be random"))
    if same_in_training and "train" in modes and not same(results["train.0"], results["eval.0"]):
        raise CheckFailed(
            f"{what} gives another output in training mode than in evaluation mode, although no drop path is asked for"
        )


def expect_reload(ask: Ask, what: str, x: np.ndarray, build: dict) -> None:
    """Raise CheckFailed unless a second module that loads the first one's state_dict gives the same output."""
    facts, results = ask("module_reload", {"x": x.astype(np.float32)}, build=build)
    if "error" in facts:
        raise CheckFailed(
            f"the state_dict of one {what} cannot be loaded into another of the same settings: {facts['error']}"
        )
    if not same(results["after"], results["before"]):
        raise CheckFailed(
            f"saved and loaded again by state_dict, {what} gives another output: something that it needs is "
            "neither an nn.Parameter, nor a buffer, nor in a registered module (nn.ModuleList for lists)"
        )


def expect_speed(ask: Ask, what: str, task: str, reference: str, **settings) -> None:
    """Raise CheckFailed if forward and backward take COST_LIMIT times the processor time of the reference."""
    facts, _ = ask(task, limit=COST_LIMIT, **settings)
    factor = facts["seconds"] / max(facts["reference"], 1e-4)
    if factor > COST_LIMIT:
        sizes = ["x".join(map(str, size)) for size in (facts["size"], settings["sizes"][-1])]
        raise CheckFailed(
            f"forward and backward of {what} for an input of {sizes[0]} take {facts['seconds']:.2g} s of processor "
            f"time, {factor:.0f} times as long as {reference} for {sizes[1]}: training would take days. "
            "Replace Python loops over pixels, tokens or channels by operations on whole tensors"
        )


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal up to the rounding of another order of summation; NaN is equal to NaN."""
    return is_close(np.nan_to_num(one), np.nan_to_num(other), 1e-5)
