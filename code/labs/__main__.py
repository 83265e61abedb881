"""python -m labs NAME [flags], run from code/: one table, figure or deliverable. Without NAME: lists the labs."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from labs import common

# Assignment -> its package and labs. A lab has get_args_parser(), and run(args), which raises BadInput.
ASSIGNMENTS = {
    "CS 771 Homework 2": ("cs771", ("attacked", "sweep", "robust", "noise", "saliency", "classes", "compare",
                                    "convolutions", "curves", "cost", "gallery", "classify", "export")),
    "CNN Homework 3": ("cnn_hw3", ("mytorch", "mnist_cnn", "cifar_resnet", "cam", "evasion")),
    "CS 5787 Homework 2": ("cs5787", ("pretrained", "features", "transfer", "mish_cnn", "fooling"))}
LABS = {name: f"labs.{package}.{name}" for package, names in ASSIGNMENTS.values() for name in names}
LABS["mytorch"] = "labs.cnn_hw3.mytorch_lab"  # mytorch.py itself is a file that is handed in, and needs torch only


def import_lab(name: str) -> ModuleType:
    return importlib.import_module(LABS[name])


def overview() -> str:
    lines = ["usage: python -m labs NAME [flags]   (NAME --help lists the flags)"]
    for assignment, (_, names) in ASSIGNMENTS.items():
        lines += ["", f"{assignment}:"]
        lines += [f"  {name:14}{import_lab(name).__doc__.split('. ')[0].splitlines()[0]}" for name in names]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    name, *flags = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return
    if name not in LABS:
        near = difflib.get_close_matches(name, LABS, 1)
        sys.exit(f"labs: error: there is no lab {name!r}" + (f"; did you mean {near[0]}?" if near else
                                                             f"; take one of {', '.join(LABS)}"))
    common.run(name, import_lab(name), flags)


if __name__ == "__main__":
    main()
