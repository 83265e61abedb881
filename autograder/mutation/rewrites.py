"""Right solutions: the reference and hand-written alternatives, each under several random rewritings (`rewriting`).

What each computes is compared with the reference by `sift`; what differs is left out, unless the sheet allows it.
"""

import ast
import random
from typing import NamedTuple

from autograder.mutation import mutants
from autograder.mutation.alternatives import LAYERS, Alternative
from autograder.mutation.alternatives_attacks import ATTACKING
from autograder.mutation.alternatives_models import MODELS
from autograder.mutation.bases import PARTS, bases, plain, splice
from autograder.mutation.rewriting import REWRITINGS
from autograder.mutation.sift import Question

EACH = 4  # rewritings of each alternative; the first is the alternative itself
OWN_FILE = "my_parts.py"
HEAD = ("import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
        "from torch.nn.functional import fold, unfold\n")


class Rewritten(NamedTuple):
    part: str
    name: str  # of the alternative, and of the rewritings
    half: str  # that of the alternative: its rewritings stay together
    files: dict[str, str]
    names: dict[str, str]
    free: bool

    def question(self, reference: str) -> Question:
        return Question(self.part, reference, self.files, self.names)


def alternatives() -> list[Alternative]:
    given = [Alternative(part, f"the {base.name}'s", base.source) for part in PARTS for base in bases(part)]
    return [*given, *LAYERS, *MODELS, *ATTACKING]


def make_all(only: str | None = None) -> list[Rewritten]:
    made, seen = [], set()
    for alternative in alternatives():
        for count in range(EACH if (only or "") in alternative.part else 0):
            one = rewrite(alternative, count)
            text = str(sorted(one.files.items()))
            if text not in seen:
                made.append(one)
                seen.add(text)
    return made


def rewrite(alternative: Alternative, count: int) -> Rewritten:
    """The alternative under `count` + 1 random rewritings, every third in a file of its own; number 0 as it is."""
    rng = random.Random(f"{alternative.part} {alternative.name} {count}")
    tree, attributes = ast.parse(plain(ast.parse(alternative.source))), {}
    chosen = rng.sample(REWRITINGS, count + 2) if count else []
    for rewriting in sorted(chosen, key=REWRITINGS.index):
        attributes |= rewriting(tree, rng) or {}
    source = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    apart = count == 3 and alternative.part in ("convolution", "attention", "pgd") and _stands_alone(tree)
    words = [rewriting.__name__ for rewriting in chosen] + ["own file"] * apart
    return Rewritten(alternative.part, f"{alternative.name}: {', '.join(words) or 'as it is'}",
                     mutants.half("right", alternative.part, alternative.name),
                     _own_file(source) if apart else {"student_code.py": splice(source)},
                     _parameter_names(alternative.names, attributes), alternative.free)


def _stands_alone(tree: ast.Module) -> bool:
    """Whether HEAD imports all that the definitions need."""
    return not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"contextmanager", "default_attack"}


def _own_file(source: str) -> dict[str, str]:
    defined = [node.name for node in ast.parse(source).body]
    return {OWN_FILE: f"{HEAD}\n{source}",
            "student_code.py": splice(source, imported=f"from my_parts import {', '.join(defined)}")}


def _parameter_names(given: dict[str, str], attributes: dict[str, str]) -> dict[str, str]:
    """The names map of the alternative, and the prefix that a rewriting has given to attributes ({new: old})."""
    prefixes = {new.removesuffix(old) for new, old in attributes.items()}
    return {**given, **({"strip": prefixes.pop()} if prefixes else {})}
