"""A grading result as a text table and as Gradescope's results.json."""

import json
import os
from pathlib import Path

from autograder import rubric
from autograder.grade import Mark, PartMark
from autograder.text import normalize, printable


def show(mark: Mark, all_checks: bool = False) -> str:
    """The table of parts with a line per failed check (`all_checks`: per check), notes, and lines for staff."""
    lines = [f"{'part':<14}{'points':>7}   of"]
    for part in mark.parts:
        lines.append(f"{part.name:<14}{part.points:7.2f} {part.out_of:4g}  "
                     f"{'bonus: ' if part.bonus else ''}{part.title}{' (graded by hand)' if part.manual else ''}")
        lines += [] if part.manual else failures(part, all_checks)
    each = rubric.RULE_PENALTY * rubric.REGULAR
    lines += [f"{'submission':<14}{-each:7.2f}       {rule}" for rule in mark.violations]
    automatic = sum(part.out_of for part in mark.parts if not part.manual and not part.bonus)
    bonus = sum(part.out_of for part in mark.parts if part.bonus)
    hand = sum(part.out_of for part in mark.parts if part.manual)
    lines.append(f"{'total':<14}{mark.points:7.2f} {automatic:4g}" + (f"  and {bonus:g} bonus" if bonus else "")
                 + (f"; {hand:g} more are graded by hand" if hand else ""))
    lines += [f"note: {note}" for note in mark.notes]
    lines += [f"for staff: {line}" for line in mark.review]
    lines.append(f"seed {mark.seed}, {mark.seconds:.0f} s; {isolation(mark.level)}")
    return "\n".join(lines)


def failures(part: PartMark, all_checks: bool) -> list[str]:
    """A line per distinct reason, with the titles of the checks that failed for it; one line if all checks share it."""
    failed = [verdict for verdict in part.verdicts if verdict.feedback]
    reasons = {verdict.feedback for verdict in failed}
    if len(reasons) == 1 and len(failed) == len(part.verdicts) > 1:
        return [f"    all checks: {reasons.pop()}"]
    lines = []
    for reason in dict.fromkeys(normalize(verdict.feedback) for verdict in failed):  # one line per kind of mistake
        same = [verdict for verdict in failed if normalize(verdict.feedback) == reason]
        titles = "; ".join(verdict.title for verdict in same)
        lines.append(f"    -{sum(verdict.out_of for verdict in same):.2f} {titles}: {same[0].feedback}")
    if all_checks:
        passed = [verdict for verdict in part.verdicts if not verdict.feedback]
        lines = [f"    +{verdict.points:.2f} {verdict.title}" for verdict in passed] + lines
    return lines


def isolation(level: dict) -> str:
    """Which parts of the sandbox were in force, and why the others were not."""
    on = [name for name, state in level.items() if state is True]
    off = [f"{name} ({state})" for name, state in level.items() if state is not True]
    return f"isolation: {', '.join(on) or 'separate process and timeouts'}" + (
        f"; NOT in force: {', '.join(off)}" if off else "")


def gradescope(mark: Mark) -> dict:
    """results.json in Gradescope's format. Lines for staff are in `extra_data` only."""
    tests = [test(part, number) for number, part in enumerate(mark.parts, 1)]
    if mark.violations:
        tests.append({"name": "submission rules", "number": str(len(tests) + 1), "score": -mark.penalty, "max_score": 0,
                      "status": "failed", "output": "\n".join(mark.violations), "output_format": "text",
                      "visibility": "visible"})
    manual = sum(part.manual for part in mark.parts)
    head = [f"{mark.points:g} points, graded automatically; {manual} parts are graded by hand.",
            f"Seed {mark.seed}.", *mark.notes]
    return {"score": mark.points, "execution_time": mark.seconds, "output": "\n".join(head), "output_format": "text",
            "test_output_format": "text", "visibility": "visible", "stdout_visibility": "hidden", "tests": tests,
            "extra_data": {"mark": mark.to_dict()}}


def test(part: PartMark, number: int) -> dict:
    failed = [line.strip() for line in failures(part, False)]
    entry = {"name": f"{part.name}: {part.title}{' (bonus)' if part.bonus else ''}", "number": str(number),
             "score": part.points, "max_score": part.out_of, "output_format": "text", "visibility": "visible"}
    if part.manual:
        return {**entry, "output": part.verdicts[0].title, "tags": ["manual"]}
    return {**entry, "status": "failed" if failed else "passed", "output": "\n".join(failed) or "all checks passed"}


def not_graded(name: str, reason: str, hand_in_at_fault: bool = False) -> dict:
    """results.json for a submission that was not graded, with 0 points and the reason."""
    said = {"score": 0, "output": reason, "output_format": "text", "visibility": "visible"}
    extra = {"not_graded": printable(name), "hand_in_at_fault": hand_in_at_fault}
    test = {**said, "name": "submission", "number": "1", "max_score": rubric.REGULAR, "status": "failed"}
    return {**said, "stdout_visibility": "hidden", "extra_data": extra, "tests": [test]}


def write_json(path: Path, content: dict) -> None:
    """Write JSON atomically, so that an interrupted grader leaves the results of the previous parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False))
    os.replace(part, path)
