"""Check what you wrote in student_code.py, part by part: python check.py [part ...], from code/.

Exit code 0 if all checks are ok, 1 if one fails, 3 if some functions are not written yet and nothing else is wrong.
"""

import argparse
import sys
from functools import partial
from time import perf_counter
from types import ModuleType

import torch

from libs.checks import adversarial, attention, block, pgd, vit
from libs.checks.registry import Check, Mismatch, Result, run_check


def convolution(names: list[str], student: ModuleType) -> None:
    """The checks of test_conv.py of these names."""
    import test_conv  # it imports student_code, which may not even be Python yet

    for name in names:
        failure = test_conv.first_failure(getattr(test_conv, name), torch.device("cpu"))
        if failure is not None:
            raise Mismatch(f"{failure.config}: {failure.reason}") from failure.error


SIZES = "(1): any kernel size, stride, padding and number of channels, with and without bias; H and W may differ"
CONVOLUTION = [
    Check("forward is nn.Conv2d", partial(convolution, ["check_forward"]), SIZES),
    Check("backward is nn.Conv2d, and the numerical gradient", partial(convolution, ["check_backward"]),
          "dL/dX, dL/dW and dL/db have the shapes of X, W and b; the first sums over overlapping patches, the others "
          "over images and positions"),
    Check("backward takes a gradient of any memory layout", partial(convolution, ["check_layouts"]),
          "a gradient after a permute or a sum is not contiguous, so it cannot be viewed in another shape"),
    Check("backward with frozen input, weight or bias", partial(convolution, ["check_frozen"]),
          "each gradient is returned if its own tensor needs it, whatever the others do"),
    Check("backward of two layers in one graph", partial(convolution, ["check_two_layers"]),
          "each call saves what its own backward pass needs, in ctx and nowhere else"),
    Check("float32 stays float32, without a convolution function", partial(convolution, ["check_float32"]),
          "fold, unfold and matrix operations in the input's dtype; no convolution function, in backward neither"),
    Check("the module works in a network", partial(convolution, ["check_module"]),
          "the output has to be a tensor of its own, since an in-place ReLU may follow"),
]
PARTS = {"convolution": ("3.1.1", CONVOLUTION), "attention": ("3.2.1", attention.CHECKS),
         "block": ("3.2.1", block.CHECKS), "vit": ("3.2.2", vit.CHECKS), "pgd": ("3.3", pgd.CHECKS),
         "adversarial": ("3.3, bonus", adversarial.CHECKS)}


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=__doc__.splitlines()[-1])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one or more of: {' '.join(PARTS)} (default: all)")
    return parser


def check_part(part: str, student: ModuleType) -> list[Result]:
    """Run and print the checks of one part."""
    section, checks = PARTS[part]
    print(f"{part} ({section})", flush=True)
    began, results = perf_counter(), []
    for check in checks:
        results.append(run_check(check, student))
        print(results[-1], flush=True)
    print(f"  {perf_counter() - began:.1f} s")
    return results


def import_student() -> ModuleType:
    """student_code.py as a module. Exits with code 1 and the line if it cannot be imported."""
    try:
        import student_code
    except SyntaxError as error:
        sys.exit(f"FAIL: {error.filename}:{error.lineno} is not valid Python: {error.msg}")
    return student_code


def exit_code(results: list[Result]) -> int:
    """1: something is wrong; 3: nothing is, but not all is written; 0: all is ok."""
    statuses = {result.status for result in results}
    return 1 if "FAIL" in statuses else 3 if "todo" in statuses else 0


def main(argv: list[str] | None = None) -> int:
    parser = get_args_parser()
    parts = parser.parse_args(argv).parts
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    torch.set_num_threads(1)  # for tiny tensors threads only add overhead
    student = import_student()
    results = [result for part in dict.fromkeys(parts or PARTS) for result in check_part(part, student)]
    print(", ".join(f"{sum(one.status == status for one in results)} {status}" for status in ("ok", "todo", "FAIL")))
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main())
