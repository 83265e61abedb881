"""Disable convolutions by overriding their kernels, so that they raise whichever way they are called.

A TorchDispatchMode would miss threads and could be disabled by student code.
"""

import ctypes
import re
import sys

import cv2
import torch
import torchvision  # noqa: F401  (registers its operators, e.g. deform_conv2d)
from torch.nn.functional import conv2d  # before student code can replace it

KEYS = ("CompositeImplicitAutograd", "CompositeExplicitAutograd", "CPU", "AutogradCPU", "MkldnnCPU", "QuantizedCPU",
        "SparseCPU", "CUDA", "AutogradCUDA", "MPS")
# of OpenCV and NumPy; dnn_* and everything in cv2.dnn run whole networks
PYTHON_FUNCTIONS = re.compile(r"filter2Dp?|sepFilter2D|matchTemplate|convolve|correlate2?|dnn_\w+")
CONVOLUTION = re.compile(r"conv(?!ert)", re.IGNORECASE)
MESSAGE = "is a convolution function, which the sheet does not allow here (disabled by the grader)"


class Forbidden(RuntimeError):
    """A disabled convolution function was called."""


def convolution_operators() -> list[str]:
    """All registered torch operators with conv in their name, as namespace::name.overload."""
    return [name for name in torch._C._dispatch_get_all_op_names() if CONVOLUTION.search(name.split("::")[1])]


def disable_convolutions() -> None:
    """Make every convolution raise Forbidden for the rest of this process.

    The registrations are C++ objects that Python's garbage collector does not list, with a leaked reference.
    torch.library.Library would register a finalizer, which student code could find and call.
    """
    libraries = {}
    for full_name in convolution_operators():
        namespace, name = full_name.split("::")
        if namespace not in libraries:
            libraries[namespace] = torch._C._dispatch_library("IMPL", namespace, "", __file__, 0)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(libraries[namespace]))
        for key in KEYS:
            try:
                libraries[namespace].impl(name, key, raising(full_name), False)
            except RuntimeError:
                continue  # no kernel possible for this dispatch key
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in ("cv2", "numpy")]
    modules += [module._native for module in (cv2, cv2.dnn) if hasattr(module, "_native")]  # not in sys.modules
    for module in modules:
        for name in [name for name, value in vars(module).items() if callable(value)]:
            if PYTHON_FUNCTIONS.fullmatch(name) or module.__name__.startswith("cv2.dnn"):
                setattr(module, name, raising(f"{module.__name__}.{name}"))
    for library in ("scipy", "skimage", "jax", "tensorflow"):
        sys.modules[library] = None  # import raises ImportError


def raising(name: str):
    def kernel(*args, **kwargs):
        raise Forbidden(f"{name} {MESSAGE}")
    return kernel


def still_disabled() -> bool:
    """Whether convolutions still raise; False if student code has re-enabled them."""
    try:
        conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1))
    except Forbidden:
        return True
    except Exception:
        return False
    return False
