"""Grade mutants and rewritings: selftest --mutants, selftest --rewrites. The held-out half gives counts only."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from autograder.grade import grade, new_seed
from autograder.mutation import mutants, rewrites
from autograder.mutation.bases import PARTS, bases, reference_text, splice
from autograder.mutation.sift import Question, allowed, is_allowed, sift
from autograder.process import GraderFailed


class Result(NamedTuple):
    part: str
    half: str
    verdict: str  # of the sifting: wrong, crash, equal, allowed
    lost: bool | None = None  # whether it lost points; None: not graded
    text: str = ""  # for the development half


def run(args) -> int:
    """Grade what `args` asks for. Returns 0 if every wrong solution lost points and no right one did, else 1."""
    seed, began = new_seed() if args.seed is None else args.seed, time.monotonic()
    halves = [args.half] if args.half else list(mutants.HALVES)
    print(f"seed {seed}, {' and '.join(halves)} half, {args.jobs} in parallel")
    measure = measure_mutants if args.mutants else measure_rewrites
    status = [measure(args, seed, half) for half in halves]
    print(f"{time.monotonic() - began:.0f} s")
    return max(status)


def measure_mutants(args, seed: int, half: str) -> int:
    drawn = mutants.draw_all(half, args.only)
    known = {(base.part, base.name): base for part in PARTS for base in bases(part)}
    files = [{"student_code.py": splice(mutant.source)} for mutant in drawn]
    questions = [Question(mutant.part, splice(known[mutant.part, mutant.base].source), text)
                 for mutant, text in zip(drawn, files)]
    entries = allowed()
    verdicts = ["allowed" if verdict == "wrong" and is_allowed(mutant, entries) else verdict
                for mutant, (verdict, _) in zip(drawn, sift(questions, args.jobs))]
    chosen = limit([i for i, verdict in enumerate(verdicts) if verdict in ("wrong", "crash")], args.limit,
                   lambda i: drawn[i].source)
    lost = dict(zip(chosen, in_parallel(lambda i: loses_points(drawn[i].part, files[i], seed)[0], chosen, args.jobs)))
    results = [Result(mutant.part, half, verdict, lost.get(i)) for i, (mutant, verdict) in
               enumerate(zip(drawn, verdicts))]
    if half == "development":
        for i in chosen:
            if lost[i] is not True:
                mutant = drawn[i]
                print(f"\nMISSED: {mutant.describe()}\n{mutant.diff(known[mutant.part, mutant.base])}")
    print(f"\n{half} half\n" + table(results))
    return int(not all(lost.values()))


def measure_rewrites(args, seed: int, half: str) -> int:
    made = [one for one in rewrites.make_all(args.only) if one.half == half]
    verdicts = [verdict for verdict, _ in sift([one.question(reference_text()) for one in made], args.jobs)]
    usable = [i for i, one in enumerate(made) if verdicts[i] == "equal" or one.free]
    chosen = limit(usable, args.limit, lambda i: made[i].name)
    found = dict(zip(chosen, in_parallel(lambda i: loses_points(made[i].part, made[i].files, seed), chosen,
                                         args.jobs)))
    if half == "development":
        for i in chosen:
            if found[i][0] is not False:
                print(f"\nLOST POINTS: {made[i].part}: {made[i].name}\n{found[i][1]}")
        for i, one in enumerate(made):
            if i not in usable:
                print(f"\nNOT EQUAL to the reference, left out: {one.part}: {one.name}")
    print(
        f"\n{half} half, right solutions\n{'part':14}{'made':>6}{'graded':>8}{'full points':>13}{'95 % interval':>18}"
    )
    for part in (*PARTS, "all"):
        ours = [i for i in chosen if part in (made[i].part, "all")]
        good = sum(found[i][0] is False for i in ours)
        total = sum(part in (one.part, "all") for one in made)
        if total:
            print(f"{part:14}{total:6}{len(ours):8}{good:13}{interval(good, len(ours)):>18}")
    return int(any(lost is not False for lost, _ in found.values()))


def limit(chosen: list[int], count: int | None, text: Callable[[int], str]) -> list[int]:
    """At most `count`, a random sample that is the same each time: by a hash of the text."""
    ordered = sorted(chosen, key=lambda i: mutants.digest("sample", text(i)))
    return sorted(ordered[:count])


def in_parallel(function: Callable, items: list, jobs: int) -> list:
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(function, items))


def loses_points(part: str, files: dict[str, str], seed: int) -> tuple[bool | None, str]:
    """Whether a solution (file name -> text) loses points in its part, and why. (None, why): it could not be graded."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        code = Path(folder) / "submission" / "code"
        code.mkdir(parents=True)
        for name, text in files.items():
            (code / name).write_text(text, encoding="utf-8")
        try:
            verdicts = grade(code.parent, seed, [part]).parts[0].verdicts
        except GraderFailed as error:
            return None, str(error)
    reasons = [f"    {verdict.title}: {verdict.feedback}" for verdict in verdicts if verdict.feedback]
    return bool(reasons), "\n".join(reasons)


def table(results: list[Result]) -> str:
    """Counts per part: how many were drawn, what the sifting says, and how many of the wrong ones lost points."""
    lines = [f"{'part':14}{'drawn':>6}{'equal':>7}{'allowed':>9}{'crash':>7}{'caught':>8}{'wrong':>7}{'graded':>8}"
             f"{'caught':>8}{'share':>8}{'95 % interval':>18}"]
    for part in (*PARTS, "all"):
        ours = [result for result in results if part in (result.part, "all")]
        count = Counter(result.verdict for result in ours)
        crashes = sum(result.lost is True for result in ours if result.verdict == "crash")
        wrong = [result.lost for result in ours if result.verdict == "wrong" and result.lost is not None]
        if ours:
            share = f"{100 * sum(wrong) / len(wrong):.1f} %" if wrong else ""
            lines.append(
                f"{part:14}{len(ours):6}{count['equal']:7}{count['allowed']:9}{count['crash']:7}{crashes:8}"
                f"{count['wrong']:7}{len(wrong):8}{sum(wrong):8}{share:>8}{interval(sum(wrong), len(wrong)):>18}"
            )
    return "\n".join(lines)


def interval(good: int, of: int) -> str:
    """Wilson's 95 % interval of a share, in per cent."""
    if not of:
        return ""
    z, p = 1.959964, good / of
    middle, half = p + z * z / (2 * of), z * (p * (1 - p) / of + z * z / (4 * of * of)) ** 0.5
    low, high = ((middle + side * half) / (1 + z * z / of) for side in (-1, 1))
    return f"{100 * max(low, 0):.1f} to {100 * min(high, 1):.1f} %"
