"""A mark for people to read and for Gradescope."""

import json
import os
from pathlib import Path

from autograder import rubric
from autograder.grade import Mark, PartMark
from autograder.text import general, printable


def show(mark: Mark, all_checks: bool = False) -> str:
    """The table of parts, a line for each failed check (or for each check), what staff should look at."""
    lines = [f"{'part':<14}{'points':>7}   of"]
    for part in mark.parts:
        lines.append(f"{part.name:<14}{part.points:7.2f} {part.out_of:4g}  "
                     f"{'bonus: ' if part.bonus else ''}{part.title}{' (graded by hand)' if part.manual else ''}")
        lines += [] if part.manual else failures(part, all_checks)
    each = rubric.HAND_IN_PENALTY * rubric.REGULAR
    lines += [f"{'hand-in':<14}{-each:7.2f}       {rule}" for rule in mark.violations]
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
    """A line for each reason that checks failed for, with their titles; one for all of them if it spoiled all."""
    failed = [verdict for verdict in part.verdicts if verdict.feedback]
    reasons = {verdict.feedback for verdict in failed}
    if len(reasons) == 1 and len(failed) == len(part.verdicts) > 1:
        return [f"    all checks: {reasons.pop()}"]
    lines = []
    for reason in dict.fromkeys(general(verdict.feedback) for verdict in failed):  # the first case stands for all
        same = [verdict for verdict in failed if general(verdict.feedback) == reason]
        titles = "; ".join(verdict.title for verdict in same)
        lines.append(f"    -{sum(verdict.out_of for verdict in same):.2f} {titles}: {same[0].feedback}")
    if all_checks:
        passed = [verdict for verdict in part.verdicts if not verdict.feedback]
        lines = [f"    +{verdict.points:.2f} {verdict.title}" for verdict in passed] + lines
    return lines


def isolation(level: dict) -> str:
    """Which of the walls around student code stood."""
    on = [name for name, state in level.items() if state is True]
    off = [f"{name} ({state})" for name, state in level.items() if state is not True]
    return f"isolation: {', '.join(on) or 'a process of its own and time limits'}" + (
        f"; NOT in force: {', '.join(off)}" if off else "")


def gradescope(mark: Mark) -> dict:
    """results.json as Gradescope documents it. What only staff may see is in `extra_data`."""
    tests = [test(part, number) for number, part in enumerate(mark.parts, 1)]
    if mark.violations:
        tests.append({"name": "hand-in rules", "number": str(len(tests) + 1), "score": -mark.penalty, "max_score": 0,
                      "status": "failed", "output": "\n".join(mark.violations), "output_format": "text",
                      "visibility": "visible"})
    head = [f"{mark.points:g} points by machine; {len([p for p in mark.parts if p.manual])} parts are graded by hand.",
            f"Seed {mark.seed}.", *mark.notes]
    return {"score": mark.points, "execution_time": mark.seconds, "output": "\n".join(head), "output_format": "text",
            "test_output_format": "text", "visibility": "visible", "stdout_visibility": "hidden", "tests": tests,
            "extra_data": {"mark": mark.table()}}


def test(part: PartMark, number: int) -> dict:
    failed = [line.strip() for line in failures(part, False)]
    entry = {"name": f"{part.name}: {part.title}{' (bonus)' if part.bonus else ''}", "number": str(number),
             "score": part.points, "max_score": part.out_of, "output_format": "text", "visibility": "visible"}
    if part.manual:
        return {**entry, "output": part.verdicts[0].title, "tags": ["manual"]}
    return {**entry, "status": "failed" if failed else "passed", "output": "\n".join(failed) or "all checks passed"}


def not_graded(name: str, reason: str, hand_in_at_fault: bool = False) -> dict:
    """results.json for a hand-in that there was nothing to grade of, or that is not finished."""
    said = {"score": 0, "output": reason, "output_format": "text", "visibility": "visible"}
    extra = {"not_graded": printable(name), "hand_in_at_fault": hand_in_at_fault}
    test = {**said, "name": "hand-in", "number": "1", "max_score": rubric.REGULAR, "status": "failed"}
    return {**said, "stdout_visibility": "hidden", "extra_data": extra, "tests": [test]}


def write_json(path: Path, content: dict) -> None:
    """Whole or not at all: a grader that is stopped leaves the results of the parts before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1, allow_nan=False))
    os.replace(part, path)
