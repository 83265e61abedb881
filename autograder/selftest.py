"""The grader's own test: wrong solutions lose points for the right reason, right ones none, cheats get nowhere.

Prints what was not as it should be, and a confusion table.
"""

import re
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from autograder.grade import Mark, grade, new_seed
from autograder.solution import CODE
from autograder.variants import Variant
from autograder.variants.cheats import CHEATS
from autograder.variants.right import RIGHT
from autograder.variants.wrong import WRONG


class Outcome(NamedTuple):
    kind: str
    variant: Variant
    as_it_should_be: bool
    said: list[str]  # title and feedback of each failed check
    points: float


def run(args) -> int:
    """Exit code 0 if the grader judged every one rightly."""
    seed, began = new_seed() if args.seed is None else args.seed, time.monotonic()
    print(f"seed {seed}")
    chosen = select(args.only, 6 if args.quick else 1)
    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(lambda pair: judge(*pair, seed), chosen))
    show(outcomes)
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if all(outcome.as_it_should_be for outcome in outcomes) else 1


def select(word: str | None = None, every: int = 1) -> list[tuple[str, Variant]]:
    everything = [*[("wrong", one) for one in WRONG], *[("right", one) for one in RIGHT],
                  *[("cheat", one) for one in CHEATS]]
    return [pair for pair in everything if word is None or word in f"{pair[1].part} {pair[1].name}"][::every]


def judge(kind: str, variant: Variant, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="selftest-") as folder:
        code = Path(folder) / "hand-in" / "code"
        code.mkdir(parents=True)
        text = (CODE / "student_code.py").read_text(encoding="utf-8")
        (code / "student_code.py").write_text(text + "\n\n" + variant.source, encoding="utf-8")
        mark = grade(code.parent, seed, [variant.part])
    part = mark.parts[0]
    said = [f"{verdict.title}: {verdict.feedback}" for verdict in part.verdicts if verdict.feedback]
    right = {"wrong": caught, "right": accepted, "cheat": contained}[kind](variant, mark, said)
    return Outcome(kind, variant, right, said, part.points)


def caught(variant: Variant, mark: Mark, said: list[str]) -> bool:
    """Points were lost, every failed check gives a reason, and one of them is the one that was made."""
    return bool(said) and any(re.search(variant.because, line) for line in said) and not any(
        "cannot be used" in line for line in said)


def accepted(variant: Variant, mark: Mark, said: list[str]) -> bool:
    return not said


def contained(variant: Variant, mark: Mark, said: list[str]) -> bool:
    """No more points than it deserves, no sign of an escape, and a line for staff where one is due."""
    points, out_of = mark.parts[0].points, mark.parts[0].out_of
    most = out_of if variant.at_most is None else variant.at_most
    return (points <= most + 1e-9 and "ESCAPED" not in " ".join(said)
            and bool(re.search(variant.review, "\n".join(mark.review)) if variant.review else True)
            and bool(re.search(variant.because, "\n".join(said)) if variant.because else True))


def show(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if not outcome.as_it_should_be:
            print(f"\nNOT AS IT SHOULD BE: {outcome.kind} {outcome.variant.part}: {outcome.variant.name} got "
                  f"{outcome.points:g} points; expected to read {outcome.variant.because!r}")
            print("\n".join(f"    {line}" for line in outcome.said) or "    no check failed")
    checks = Counter(f"{outcome.variant.part}: {line.split(':')[0]}" for outcome in outcomes if outcome.kind == "wrong"
                     for line in outcome.said)
    print("\nwrong solutions that each check has caught")
    print("\n".join(f"  {count:4}  {name}" for name, count in sorted(checks.items())))
    print()
    for kind, verb in (("wrong", "caught, for the right reason"), ("right", "accepted with full points"),
                       ("cheat", "contained")):
        ours = [outcome for outcome in outcomes if outcome.kind == kind]
        good = sum(outcome.as_it_should_be for outcome in ours)
        print(f"{kind:6} {good:4} of {len(ours):4} {verb}" + (f" ({100 * good / len(ours):.0f} %)" if ours else ""))
