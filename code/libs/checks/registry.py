"""What a check is, how it fails, and how a result is told."""

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils import innermost_line, settings_kept

STUDENT_FILE = "student_code.py"
# float32 rounds to 6e-8 of a value. The longest sums here have some 100 products, which adds up to a few 1e-6 of the
# largest output at worst; softmax adds the error of its scores, which stay below 30: another 3e-6. The smallest mistake
# of interest (a missing scale, a shifted position) changes outputs by 1e-2 of the largest with weights of std 0.3.
TOLERANCE = 1e-4


class Mismatch(AssertionError):
    """A check's verdict: what was expected and what came instead."""


class Check(NamedTuple):
    """One check. `function` takes the student's module and raises if something is wrong; `hint` is shown then."""

    title: str
    function: Callable[[ModuleType], None]
    hint: str


class Result(NamedTuple):
    """`status` is ok, todo (not written yet) or FAIL; `lines` explain the last two."""

    status: str
    title: str
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.status == "todo":
            return f"  todo  {self.title}: {self.lines[0]}"
        return "\n".join([f"  {self.status:4}  {self.title}", *(f"        {line}" for line in self.lines)])


def run_check(check: Check, student: ModuleType) -> Result:
    """Run one check with a fixed seed; whatever the student's code raises becomes a result."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters becomes a result
            with settings_kept():
                check.function(student)
    except Exception as error:  # a student's code may raise anything
        return explain(check, error)
    return Result("ok", check.title)


def explain(check: Check, error: Exception) -> Result:
    """todo for what is not written yet; else FAIL with the message, the student's line and the hint."""
    origin = error.__cause__ if isinstance(error, Mismatch) and error.__cause__ else error
    if is_unwritten(origin):
        return Result("todo", check.title, (str(origin) or "not written yet",))
    told = str(error) if isinstance(error, AssertionError) and str(error) else f"{type(error).__name__}: {error}"
    place = innermost_line(origin, STUDENT_FILE)
    where = [] if place is None else [f"at {STUDENT_FILE}:{place.lineno}, in {place.name}: {place.line}"]
    return Result("FAIL", check.title, (shorten(told), *where, f"hint: {check.hint}"))


def shorten(text: str, length: int = 400) -> str:
    """One line of at most `length` characters; messages of gradcheck hold whole matrices."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[:length] + " ..."


def is_unwritten(error: BaseException | None) -> bool:
    """Whether a `raise NotImplementedError` of the student's file was met; torch raises that error, too."""
    if not isinstance(error, NotImplementedError):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).name == STUDENT_FILE and "NotImplementedError" in frame.f_code.co_names


# ----------------------------------------------------------------------------------------------- comparing


def expect(condition: bool | Tensor, expected: str, got: object) -> None:
    """Raise Mismatch unless `condition` holds."""
    if not condition:
        raise Mismatch(f"expected {expected}; got {got}")


def expect_shape(name: str, got: object, shape: tuple[int, ...]) -> None:
    """Raise Mismatch unless `got` is a finite float32 tensor of this shape."""
    expect(isinstance(got, Tensor), f"{name} to be a tensor", type(got).__name__)
    expect(got.shape == shape, f"{name} of shape {tuple(shape)}", tuple(got.shape))
    expect(got.dtype == torch.float32, f"{name} in float32, as the input is", got.dtype)
    expect(got.isfinite().all(), f"{name} to be finite", "NaN or infinity")


def expect_close(name: str, got: Tensor, expected: Tensor, case: object = "", tolerance: float = TOLERANCE) -> None:
    """Raise Mismatch unless the two agree within `tolerance` times the largest expected value."""
    expect_shape(name, got, expected.shape)
    difference = (got - expected).detach().abs()
    if difference.max() > tolerance * max(expected.abs().max().item(), 1e-6):
        index = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
        raise Mismatch(f"expected {name} at {index} to be {expected[index].item():.4g}; got {got[index].item():.4g}"
                       + (f" ({case})" if case else ""))


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree up to rounding."""
    return bool((one - other).abs().max() <= TOLERANCE * max(one.abs().max().item(), 1e-6))


@torch.no_grad()
def randomize(module: nn.Module, std: float = 0.3) -> None:
    """Draw all parameters anew: with initial weights of std 0.02 many a mistake is too small to be seen."""
    for parameter in module.parameters():
        parameter.normal_(0, std)


def closest(got: Tensor, candidates: list[Tensor]) -> Tensor:
    """The candidate with the smallest largest difference from `got`, all of one shape."""
    return min(candidates, key=lambda candidate: (candidate - got).abs().max().item())
