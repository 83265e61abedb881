"""What the worker's tasks share: the student's module, tensors and arrays, seeds, and the state of the process."""

import random
import types

import numpy as np
import torch
from torch import Tensor

student: types.ModuleType | None = None  # set by tasks.load


class Missing(Exception):
    """The student's file lacks something that the sheet requires."""


def student_class(name: str):
    """The class `name` of student_code.py. Raises Missing."""
    if not hasattr(student, name):
        raise Missing(f"student_code.py has no {name}")
    return getattr(student, name)


def to_tensor(array: np.ndarray, gradient: bool = False) -> Tensor:
    return torch.from_numpy(array.copy()).requires_grad_(gradient)


def to_numpy(value, name: str) -> np.ndarray:
    """A tensor as an array; bfloat16 as float32. Raises TypeError for anything else."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, not a tensor")
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()


def seed_everything(seed: int) -> None:
    """Seed torch, NumPy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def process_state() -> dict:
    """What a layer must leave as it is, in a student's words."""
    return {"the gradient mode": torch.is_grad_enabled(), "the default dtype": str(torch.get_default_dtype()),
            "the number of threads": torch.get_num_threads(), "anomaly detection": torch.is_anomaly_enabled(),
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
            "inference mode": torch.is_inference_mode_enabled()}


BASELINE = process_state()  # before any student code ran


def restore_process() -> None:
    """Set everything of process_state() back, so that one call does not spoil the next."""
    torch.set_grad_enabled(BASELINE["the gradient mode"])
    torch.set_default_dtype(getattr(torch, BASELINE["the default dtype"].removeprefix("torch.")))
    torch.autograd.set_detect_anomaly(BASELINE["anomaly detection"])
    torch.set_num_threads(BASELINE["the number of threads"])
    torch.use_deterministic_algorithms(BASELINE["deterministic algorithms"])


def state_changes(call) -> list[str]:
    """What is not as in BASELINE after `call()`, and "the seed" if it leaves the same random state whatever the state
    was before. Runs `call` twice."""
    ends = []
    for seed in (1, 2):
        seed_everything(seed)
        call()
        ends.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()))
    changed = [name for name, value in process_state().items() if value != BASELINE[name]]
    restore_process()
    return changed + (["the seed"] if any(one == other for one, other in zip(*ends)) else [])
