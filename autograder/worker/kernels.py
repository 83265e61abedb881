"""Convolutions taken away at the kernels: whatever name or route they are called by, they raise.

A TorchDispatchMode would miss threads and can be switched off; a kernel cannot.
"""

import ctypes
import re
import sys

import cv2
import torch
import torchvision  # noqa: F401  (so that its operators, deformable convolution among them, are there)
from torch.nn.functional import conv2d  # before any student code can put something else in its place

KEYS = ("CompositeImplicitAutograd", "CompositeExplicitAutograd", "CPU", "AutogradCPU", "MkldnnCPU", "QuantizedCPU",
        "SparseCPU", "CUDA", "AutogradCUDA", "MPS")
# OpenCV's and NumPy's
OTHER = {"filter2D", "sepFilter2D", "matchTemplate", "convolve", "correlate", "correlate2"}
CONVOLUTION = re.compile(r"conv(?!ert)", re.IGNORECASE)
MESSAGE = "is a convolution function, which the sheet does not allow here (grader: kernel taken away)"


class Forbidden(RuntimeError):
    """A convolution function was called."""


def names() -> list[str]:
    """Every operator of this torch whose name says convolution, as namespace::name.overload."""
    return [name for name in torch._C._dispatch_get_all_op_names() if CONVOLUTION.search(name.split("::")[1])]


def take_away() -> None:
    """Let every convolution raise Forbidden, for the rest of this process.

    The registrations live in C++ objects that Python's garbage collector does not list. torch.library.Library would
    hand them to a finalizer, which student code could find and call; here nothing in Python refers to them afterwards.
    """
    libraries = {}
    for full_name in names():
        namespace, name = full_name.split("::")
        if namespace not in libraries:
            libraries[namespace] = torch._C._dispatch_library("IMPL", namespace, "", __file__, 0)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(libraries[namespace]))
        for key in KEYS:
            try:
                libraries[namespace].impl(name, key, refuse(full_name), False)
            except RuntimeError:
                continue  # this operator cannot have a kernel for this key
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in ("cv2", "numpy")]
    for module in [*modules, getattr(cv2, "_native", cv2)]:  # the latter is not listed under its name
        for name in OTHER & set(vars(module)):
            setattr(module, name, refuse(f"{module.__name__}.{name}"))
    for library in ("scipy", "skimage", "jax", "tensorflow"):
        sys.modules[library] = None  # importing it raises


def refuse(name: str):
    def kernel(*args, **kwargs):
        raise Forbidden(f"{name} {MESSAGE}")
    return kernel


def still_away() -> bool:
    """Whether a convolution still raises; False if student code has found a way."""
    try:
        conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1))
    except Forbidden:
        return True
    except Exception:
        return False
    return False
