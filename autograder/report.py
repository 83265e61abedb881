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
    lines += broken_rules(mark)
    automatic = sum(part.out_of for part in mark.parts if not part.manual and not part.bonus)
    bonus = sum(part.out_of for part in mark.parts if part.bonus)
    hand = sum(part.out_of for part in mark.parts if part.manual)
    lines.append(f"{'total':<14}{mark.points:7.2f} {automatic:4g}" + (f"  and {bonus:g} bonus" if bonus else "")
                 + (f"; {hand:g} more are graded by hand" if hand else ""))
    lines += [f"note: {note}" for note in mark.notes]
    lines += [f"for staff: {line}" for line in mark.review]
    lines.append(f"seed {mark.seed}, {mark.seconds:.0f} s; {isolation(mark.level)}")
    return "\n".join(lines)


def broken_rules(mark: Mark) -> list[str]:
    """A line per broken rule of the hand-in, with what it costs."""
    costs = [rubric.penalty(number) - rubric.penalty(number + 1) for number in range(len(mark.violations))]
    return [f"{'submission':<14}{cost:7.2f}       {rule}{'' if cost else ' (the first one costs nothing)'}"
            for cost, rule in zip(costs, mark.violations)]


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


def gradescope(mark: Mark, visibility: str = "visible", late: str = "") -> dict:
    """results.json in Gradescope's format, a test for each check. Lines for staff are in `extra_data` only.

    `visibility`: of the tests. Gradescope hides the total, too, as long as one is hidden; then it is not in the output.
    """
    tests = [test for number, part in enumerate(mark.parts, 1) for test in tests_of(part, number)]
    if mark.violations:
        tests.append({"name": "submission rules", "number": str(len(mark.parts) + 1), "score": 0.0 - mark.penalty,
                      "max_score": 0, "status": "failed", "output_format": "text", "visibility": "visible",
                      "output": "\n".join(" ".join(line.split()) for line in broken_rules(mark))})
    manual = sum(part.manual for part in mark.parts)
    points = f"{mark.points:g} points, graded automatically; {manual} parts are graded by hand."
    head = [*[points] * (visibility == "visible"), *[late] * bool(late), f"Seed {mark.seed}.", *mark.notes]
    return {"score": mark.points, "execution_time": mark.seconds, "output": "\n".join(head), "output_format": "text",
            "test_output_format": "text", "visibility": "visible", "stdout_visibility": "hidden",
            "tests": [{**test, "visibility": visibility} for test in tests], "extra_data": {"mark": mark.to_dict()}}


def tests_of(part: PartMark, number: int) -> list[dict]:
    """A test for each check.

    A part graded by hand and a bonus that was not attempted have no score and no status: a score of 0 would be shown as
    failed.
    """
    entry = {"name": f"{part.title}{' (bonus)' if part.bonus else ''}", "number": str(number), "output_format": "text"}
    if part.manual:
        return [{**entry, "output": part.verdicts[0].title, "tags": ["manual"]}]
    if not_attempted(part.bonus, [verdict.feedback for verdict in part.verdicts]):
        return [{**entry, "output": f"not attempted: {part.verdicts[0].feedback}"}]
    return [{**entry, "name": f"{entry['name']}: {verdict.title}", "number": f"{number}.{place}",
             "score": round(verdict.points, 4), "max_score": round(verdict.out_of, 4),
             "status": "failed" if verdict.feedback else "passed", "output": verdict.feedback or "passed"}
            for place, verdict in enumerate(part.verdicts, 1)]


WITHOUT_ATTEMPT = ("is not written yet", "student_code.py has no ",
                   "in training mode SimpleNet makes only one forward pass")  # the file of 2024 as it was handed out


def not_attempted(bonus: bool, feedback: list[str]) -> bool:
    """Whether a part is a bonus that the student left out: then it is no failure."""
    return bonus and all(any(words in reason for words in WITHOUT_ATTEMPT) for reason in feedback)


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
