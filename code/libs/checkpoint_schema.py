"""What a checkpoint looks like: `flaw` names the first value that is not what it should be, before anything uses it.

A kind is a pair: its description, and a test that returns whether a value is of this kind, or what is wrong inside it.
Files of the stock scaffold lack most keys, so only `state_dict` is needed.
"""

import math
import random
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from utils import numpy_state, python_state

Kind = tuple[str, Callable]


def is_whole(value) -> bool:
    return type(value) is int and 0 <= value < 2**63


def is_number(value) -> bool:
    if isinstance(value, Tensor):  # of one element, like the stock scaffold's best_acc1
        return is_tensor(value) and value.numel() == 1 and is_number(value.item())
    return math.isfinite(value) if type(value) is float else type(value) is int and abs(value) < 2**63


def is_tensor(value) -> bool:
    """Whether `value` is a plain tensor: not sparse, quantized, complex or without memory."""
    return (isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
            and not value.is_quantized and not value.is_complex())


def works(function: Callable, *arguments) -> bool:
    """Whether `function` accepts the arguments."""
    try:
        function(*arguments)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, OverflowError):
        return False
    return True


# ------------------------------------------------------------------------------------------------- kinds

WHOLE: Kind = "a whole number of at least 0", is_whole
POSITIVE: Kind = "a whole number of at least 1", lambda value: is_whole(value) and value > 0
NUMBER: Kind = "a finite number", is_number
MEASURED: Kind = "a number", lambda value: type(value) is float or is_number(value)  # NaN, too
TEXT: Kind = "text", lambda value: isinstance(value, str)
NUMBERS: Kind = "a tensor of numbers", lambda value: is_tensor(value) and value.dtype is not torch.bool


def between(low: float, high: float = math.inf, above: bool = False) -> Kind:
    end = f" and at most {high:g}" if high < math.inf else ""
    return f"a finite number {'above' if above else 'of at least'} {low:g}{end}", lambda value: (
        is_number(value) and (low < value if above else low <= value) and value <= high)


def one_of(*choices) -> Kind:
    return f"one of {', '.join(map(repr, choices))}", lambda value: any(
        type(value) is type(choice) and value == choice for choice in choices)


def or_none(kind: Kind) -> Kind:
    return f"{kind[0]}, or None", lambda value: value is None or kind[1](value)


def list_of(kind: Kind, least: int = 0) -> Kind:
    def test(value) -> bool | str:
        if not isinstance(value, (list, tuple)) or len(value) < least:
            return False
        return first_flaw((f"[{i}]", item, kind) for i, item in enumerate(value))

    return f"a list{f' of at least {least}' if least else ''}, each item {kind[0]}", test


def dict_of(kind: Kind, keys: type = str) -> Kind:
    def test(value) -> bool | str:
        if not isinstance(value, dict) or not all(isinstance(key, keys) for key in value):
            return False
        return first_flaw((f"[{key!r}]", item, kind) for key, item in value.items())

    return f"a dictionary of {'names' if keys is str else 'numbers'}, for each {kind[0]}", test


def record(needed: dict[str, Kind], optional: dict[str, Kind] | None = None) -> Kind:
    """A dictionary with the keys `needed`, perhaps those of `optional`, and others, which nothing uses."""
    kinds = {**needed, **(optional or {})}

    def test(value) -> bool | str:
        if not isinstance(value, dict) or not needed.keys() <= value.keys():
            return False
        return first_flaw((f"[{key!r}]", value[key], kind) for key, kind in kinds.items() if key in value)

    return "a dictionary" + (f" with {', '.join(needed)}" if needed else ""), test


def first_flaw(items: Iterable[tuple]) -> bool | str:
    """True if each (name, value, kind) is valid, else what is wrong with the first that is not."""
    for name, value, (description, test) in items:
        result = test(value)
        if isinstance(result, str):
            return name + result
        if not result:
            return f"{name} is {_shown(value)}, and should be {description}"
    return True


def _shown(value) -> str:
    if value is None or (isinstance(value, (int, float, str)) and len(repr(value)) < 40):
        return repr(value)
    return f"a {type(value).__name__}"


# ---------------------------------------------------------------------------------------- the checkpoint

AVERAGES = record(dict.fromkeys(("loss", "top1", "top5"), MEASURED))
EPOCH = record({"epoch": WHOLE, "rate": NUMBER, "train": AVERAGES, "val": AVERAGES})
GROUP = record({"params": list_of(WHOLE)}, {"lr": between(0), "initial_lr": between(0, above=True),
                                           "momentum": between(0, 1), "weight_decay": between(0)})
VALUE: Kind = "a number or a tensor of numbers", lambda value: is_number(value) or NUMBERS[1](value)
OPTIMIZER = record({"state": dict_of(dict_of(or_none(VALUE)), int), "param_groups": list_of(GROUP)})
SCHEDULE = record({}, {"epochs": POSITIVE, "warmup": between(0), "start": between(0), "peak": between(0, 1)})
SCHEDULER = record({}, {"lr_lambdas": list_of(or_none(SCHEDULE))})
METER: Kind = "a sum and a count", lambda value: (
    isinstance(value, (list, tuple)) and len(value) == 2 and is_number(value[0]) and is_whole(value[1]))
PROGRESS = record({"images": WHOLE, "batches": WHOLE, "waited": between(0), "elapsed": between(0),
                   "meters": record(dict.fromkeys(("loss", "top1", "top5"), METER))})
GENERATOR: Kind = "the state of a random generator", lambda value: is_tensor(value) and value.dtype is torch.uint8
RANDOM = record({
    "python": (GENERATOR[0], lambda value: works(lambda: random.Random().setstate(python_state(value)))),
    "numpy": (GENERATOR[0], lambda value: works(lambda: np.random.RandomState().set_state(numpy_state(value)))
              and is_tensor(value[1])),
    "torch": (GENERATOR[0], lambda value: GENERATOR[1](value) and works(torch.Generator().set_state, value)),
    "cuda": or_none(GENERATOR)})
POSITION = record({"batches": POSITIVE, "ranks": list_of(
    record({"progress": PROGRESS, "random": RANDOM}), least=1)})
SETTINGS = record({}, {
    "epochs": POSITIVE, "warmup": between(0), "batch_size": POSITIVE, "lr": between(0, above=True),
    "momentum": between(0, 1), "weight_decay": between(0), "clip_grad": or_none(between(0, above=True)), "seed": WHOLE,
    "use_custom_conv": one_of(None, True, False, "unfold", "flat"), "adversarial": one_of(None, "fast", "pgd"),
    "epsilon": or_none(between(0)), "cache": one_of("auto", "off", "disk", "gpu"), "recipe": one_of("sheet", "fast"),
    "print_freq": POSITIVE, "precision": one_of("auto", "off", "bf16", "fp16"), "amp": one_of("off", "bf16", "fp16"),
    "bad_images": one_of("fail", "skip"), "device": TEXT, "loader": TEXT})
SNAPSHOT = record({"state_dict": dict_of(NUMBERS), "optimizer": OPTIMIZER})
ADVERSARY = record({"kind": one_of("fast", "pgd"), "best": WHOLE}, {"snapshot": or_none(SNAPSHOT)})
SCALAR: Kind = "a step, a value and a time", lambda value: (
    isinstance(value, (list, tuple)) and len(value) == 3 and is_whole(value[0]) and all(map(MEASURED[1], value)))
CHECKPOINT = record({"state_dict": dict_of(NUMBERS)}, {
    "epoch": WHOLE, "model_arch": TEXT, "best_acc1": NUMBER, "optimizer": OPTIMIZER, "scheduler": or_none(SCHEDULER),
    "scaler": or_none(dict_of(NUMBER)), "history": list_of(EPOCH), "position": or_none(POSITION), "settings": SETTINGS,
    "classes": list_of(TEXT), "adversary": ADVERSARY, "scalars": dict_of(list_of(SCALAR)), "data": TEXT})


def flaw(saved) -> str | None:
    """What is wrong with the first value of the checkpoint `saved` that cannot be used; None if there is none."""
    result = first_flaw([("", saved, CHECKPOINT)])
    return None if result is True else result
