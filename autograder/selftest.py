"""Test the grader: wrong solutions lose points for the expected reason, right ones none, cheats are contained.

Prints each failure, how many wrong solutions each check caught, and the totals.
"""

import re
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from autograder.grade import NOTHING_ELSE, Mark, grade, new_seed
from autograder.solution import CODE
from autograder.variants import Variant
from autograder.variants.cheats import CHEATS
from autograder.variants.right import RIGHT
from autograder.variants.wrong import WRONG


class Outcome(NamedTuple):
    kind: str
    variant: Variant
    passed: bool
    reasons: list[str]  # title and feedback of each failed check
    points: float


def run(args) -> int:
    """Returns the exit status: 0 if all results are as expected, else 1."""
    seed, began = new_seed() if args.seed is None else args.seed, time.monotonic()
    print(f"seed {seed}")
    chosen = select(args.only, 6 if args.quick else 1)
    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(lambda pair: grade_variant(*pair, seed), chosen))
    show(outcomes)
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def select(word: str | None = None, every: int = 1) -> list[tuple[str, Variant]]:
    """(kind, variant) of every `every`-th variant whose part or name contains `word`."""
    everything = [*[("wrong", one) for one in WRONG], *[("right", one) for one in RIGHT],
                  *[("cheat", one) for one in CHEATS]]
    return [pair for pair in everything if word is None or word in f"{pair[1].part} {pair[1].name}"][::every]


def grade_variant(kind: str, variant: Variant, seed: int) -> Outcome:
    """Grade the reference with `variant` appended, and compare the result with what its `kind` expects."""
    with tempfile.TemporaryDirectory(prefix="selftest-") as folder:
        code = Path(folder) / "submission" / "code"
        code.mkdir(parents=True)
        text = (CODE / "student_code.py").read_text(encoding="utf-8")
        (code / "student_code.py").write_text(text + "\n\n" + variant.source, encoding="utf-8")
        mark = grade(code.parent, seed, [variant.part])
    part = mark.parts[0]
    reasons = [f"{verdict.title}: {verdict.feedback}" for verdict in part.verdicts if verdict.feedback]
    passed = {"wrong": caught, "right": accepted, "cheat": contained}[kind](variant, mark, reasons)
    return Outcome(kind, variant, passed, reasons, part.points)


def caught(variant: Variant, mark: Mark, reasons: list[str]) -> bool:
    """A check failed for the expected reason, and none for a reason that the mistake does not explain."""
    return any(re.search(variant.reason, line) for line in reasons) and not unexplained(variant, reasons)


def unexplained(variant: Variant, reasons: list[str]) -> list[str]:
    """The failed checks (title and feedback) that match neither `reason` nor `allowed`, and do more than not count."""
    expected = [words for words in (variant.reason, variant.allowed, NOTHING_ELSE) if words]
    return [line for line in reasons if not any(re.search(words, line) for words in expected)]


def accepted(variant: Variant, mark: Mark, reasons: list[str]) -> bool:
    return not reasons


def contained(variant: Variant, mark: Mark, reasons: list[str]) -> bool:
    """At most `max_points`, no sign of an escape, and the expected feedback and line for staff."""
    points, out_of = mark.parts[0].points, mark.parts[0].out_of
    most = out_of if variant.max_points is None else variant.max_points
    return (points <= most + 1e-9 and "ESCAPED" not in " ".join(reasons)
            and bool(re.search(variant.review, "\n".join(mark.review)) if variant.review else True)
            and bool(re.search(variant.reason, "\n".join(reasons)) if variant.reason else True))


def show(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if not outcome.passed:
            print(f"\nFAILED: {outcome.kind} {outcome.variant.part}: {outcome.variant.name} got "
                  f"{outcome.points:g} points; expected reason {outcome.variant.reason!r}")
            extra = unexplained(outcome.variant, outcome.reasons) if outcome.kind == "wrong" else []
            print("\n".join(f"  {'?' if line in extra else ' '} {line}" for line in outcome.reasons)
                  or "    no check failed")
    checks = Counter(f"{outcome.variant.part}: {line.split(':')[0]}" for outcome in outcomes if outcome.kind == "wrong"
                     for line in outcome.reasons)
    print("\nwrong solutions caught by each check")
    print("\n".join(f"  {count:4}  {name}" for name, count in sorted(checks.items())))
    print()
    for kind, verb in (("wrong", "caught, for the expected reason"), ("right", "accepted with full points"),
                       ("cheat", "contained")):
        ours = [outcome for outcome in outcomes if outcome.kind == kind]
        good = sum(outcome.passed for outcome in ours)
        print(f"{kind:6} {good:4} of {len(ours):4} {verb}" + (f" ({100 * good / len(ours):.0f} %)" if ours else ""))
