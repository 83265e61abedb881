"""Replace a student's classes by known-good ones in the checks of later parts, so that one mistake costs once.

The methods are patched into the student's class, so that subclasses and earlier imports of it change, too. A worker
loads only the replacements that its part needs: student code cannot find the solution of the graded part.
"""

import importlib
import inspect

from torch import nn

REPLACEMENTS_NEEDED = {"block": ["attention"], "vit": ["attention", "block"], "adversarial": ["pgd"]}
REPLACEMENTS: dict[str, type] = {}
LAYERS = {"Attention": "GoodAttention", "TransformerBlock": "GoodBlock"}  # the student's class: its replacement
UNDO: dict[str, tuple] = {}  # for the layers that are replaced now: the class that is patched, and how to undo it


def load_replacements(part: str) -> None:
    """Import the replacements for `part`, before the sandbox makes the grader's files unreadable."""
    for name in REPLACEMENTS_NEEDED.get(part, []):
        module = importlib.import_module(f"autograder.worker.good_{name}")
        REPLACEMENTS.update({key: value for key, value in vars(module).items() if key.startswith("Good")})
    for theirs, good in {**LAYERS, "PGDAttack": "GoodPGD"}.items():
        for method in (vars(REPLACEMENTS[good]).values() if good in REPLACEMENTS else ()):
            if inspect.isfunction(method):  # error messages name the student's class
                method.__qualname__ = method.__qualname__.replace(good, theirs)


def use(student, *names: str) -> None:
    """Make exactly the layers `names` of the student's module known-good, and all others the student's own."""
    for name in list(UNDO):
        UNDO.pop(name)[1]()
    for name in names:
        undo = patch_class(student, name, LAYERS[name], "forward")
        UNDO[name] = getattr(student, name), undo


def is_stand_in(module: nn.Module, name: str) -> bool:
    """Whether `module` is a layer `name` that is replaced now."""
    return name in UNDO and isinstance(module, UNDO[name][0])


def patch_class(student, name: str, good_name: str, *methods: str):
    """Patch `methods` and __init__ of the known-good class into the class `name` of the student's module.

    If that is missing or not an nn.Module, it is replaced. Returns a function that undoes the patch.
    """
    theirs, good = getattr(student, name, None), REPLACEMENTS[good_name]
    if not isinstance(theirs, type) or (issubclass(good, nn.Module) and not issubclass(theirs, nn.Module)):
        setattr(student, name, good)
        return lambda: setattr(student, name, theirs)
    before = {method: vars(theirs).get(method) for method in ("__init__", *methods)}
    for method in before:
        setattr(theirs, method, getattr(good, method))

    def undo() -> None:
        for method, old in before.items():
            setattr(theirs, method, old) if old is not None else delattr(theirs, method)
    return undo
