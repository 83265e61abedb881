"""Run the scenarios on two solutions and compare what they yield."""

import importlib.util
import re
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from autograder.mutation.probe.common import Chance, Parameters, fill

TOLERANCE = 3e-5  # of the largest value: float32 through a few layers, in another order of summation
FLOOR = 1e-6


class Expected:
    """A correct solution and what it yields, observed once for all comparisons."""

    def __init__(self, scenarios: list, folder: str):
        self.module, self.scenarios = load(folder), scenarios
        self.observed = {}
        for scenario in scenarios:
            self.observed[scenario], error = observe(scenario, self.module)
            if error:
                raise ValueError(f"the base of the comparison raises: {error}")


def judge(expected: Expected, folder: str, names: dict[str, str] | None) -> list:
    """[verdict, first difference] of the solution in `folder`. `names`: see `make_translate`; None: the base's own."""
    solution, translate = load(folder), make_translate(names) if names is not None else as_they_are
    raised, difference = 0, ""
    for scenario in expected.scenarios:
        got, error = observe(scenario, solution, translate, expected.module if names is not None else None)
        raised += bool(error)
        difference = difference or error or first_difference(expected.observed[scenario], got, translate)
        if difference and not error:
            return ["wrong", f"{scenario.__name__}: {difference}"]
    if raised == len(expected.scenarios):
        return ["crash", difference]
    return ["wrong", difference] if difference else ["equal", ""]


def load(folder: str):
    """The module student_code of a folder. Its own modules are found beside it."""
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("student_code", Path(folder) / "student_code.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["student_code"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def as_they_are(tensors: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
    return tensors


def make_translate(names: dict[str, str]):
    """From the base's tensors to the solution's. `names`: regular expression -> Python expression of t("base name").

    "strip" is a prefix that the solution's attributes have.
    """
    patterns = [(pattern, expression) for pattern, expression in names.items() if pattern != "strip"]

    def translate(tensors: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
        found = {}
        for name in wanted:
            plain = re.sub(rf"(^|\.){names['strip']}", r"\1", name) if "strip" in names else name
            for pattern, expression in patterns:
                match = re.fullmatch(pattern, plain)
                if match:
                    found[name] = eval(match.expand(expression), {"t": tensors.__getitem__, "torch": torch})
                    break
            else:
                found[name] = tensors[plain]
        return found
    return translate


def observe(scenario, student, translate=as_they_are, base=None) -> tuple[dict, str]:
    """What a scenario yields, and the exception that ended it. Global settings are observed and restored."""
    def make(name: str, *given, gain: float = 1.0, **keywords) -> nn.Module:
        model = getattr(student, name)(*given, **keywords)
        return fill(model, translate, getattr(base, name)(*given, **keywords) if base else None, gain)

    seen, error = {}, ""
    torch.manual_seed(0)
    try:
        for key, value in scenario(student, make):
            seen[key] = value.detach().clone() if isinstance(value, Tensor) else value
    except Exception as wrong:
        error = f"{scenario.__name__}: {type(wrong).__name__}: {wrong}"[:200]
    seen["global state"] = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_anomaly_enabled(),
                            torch.is_inference_mode_enabled())
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    return seen, error


def first_difference(expected: dict, got: dict, translate) -> str:
    for key, value in expected.items():
        if key not in got:
            return f"{key} is missing"
        if not alike(value, got[key], translate):
            return f"{key} differs"
    return ""


def alike(expected, got, translate) -> bool:
    if isinstance(expected, Parameters):
        mapped = translate(expected.tensors, list(got.tensors))
        size = max((float(value.abs().max()) for value in mapped.values() if value.numel()), default=0.0)
        return set(mapped) <= set(got.tensors) and all(
            value.numel() == got.tensors[name].numel() and _close(value.reshape(got.tensors[name].shape),
                                                                  got.tensors[name], size)
            for name, value in mapped.items())
    if isinstance(expected, Chance):
        spread = (0.5 / min(expected.count, got.count)) ** 0.5
        return isinstance(got, Chance) and abs(expected.share - got.share) < 5 * spread
    if isinstance(expected, Tensor):
        return isinstance(got, Tensor) and _close(expected, got, float(expected.abs().max()) if expected.numel() else 0)
    return not isinstance(got, Tensor) and expected == got


def _close(expected: Tensor, got: Tensor, size: float) -> bool:
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return False
    if not torch.isfinite(expected).all():
        return torch.equal(torch.isfinite(expected), torch.isfinite(got))
    return bool(((expected - got).abs() <= TOLERANCE * size + FLOOR).all())
