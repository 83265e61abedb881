"""What staff see of a class: each submission with its owner and hand marks, the rows of the table, the summary."""

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from autograder import report, rubric
from autograder.roster import Owner, Student
from autograder.text import escape_markdown, normalize, printable

COLUMNS = ["name", "student", "id", "email", "late", "late_days", "status", "total", "points", *rubric.PARTS]
LAST_COLUMNS = ["hand-in", "seed", "seconds", "review", "isolation", "failed", "why", "comment"]


@dataclass
class Entry:
    """One submission: its result, whose it is, and the marks given by hand."""

    path: Path
    results: dict  # the content of results.json
    owner: Owner = field(default_factory=Owner)
    by_hand: dict[str, float] = field(default_factory=dict)  # part -> points
    comment: str = ""

    @property
    def name(self) -> str:
        return printable(self.path.name)

    @property
    def mark(self) -> dict | None:
        """The mark as grade.Mark.to_dict gives it; None if the submission was not graded."""
        return self.results["extra_data"].get("mark")

    @property
    def students(self) -> str:
        return " and ".join(student.name or student.id or student.email for student in self.owner.students)

    @property
    def hand_parts(self) -> list[dict]:
        """The parts with points that staff give."""
        return [part for part in self.mark["parts"] if part["manual"] and part["out_of"]] if self.mark else []

    @property
    def to_fill(self) -> list[str]:
        return [part["name"] for part in self.hand_parts if part["name"] not in self.by_hand]

    @property
    def total(self) -> float | None:
        """All points, without those off for broken rules; None as long as a mark by hand is missing."""
        if self.mark is None or self.to_fill:
            return None
        automatic = sum(verdict["points"] for _, verdict in verdicts(self.mark))
        return round(max(0.0, automatic + sum(self.by_hand.values()) - self.mark["penalty"]), 2)


def row(entry: Entry) -> dict:
    """One row of the CSV table; what is not known is an empty cell."""
    students, mark = entry.owner.students, entry.mark
    cells = {"name": entry.name, "student": entry.students, "comment": entry.comment, "late": entry.owner.late,
             **{name: " ".join(filter(None, (getattr(student, name) for student in students)))
                for name in ("id", "email", "late_days")}, **entry.by_hand}
    if mark is None:
        return {**cells, "status": "not graded", "why": "; ".join(filter(None, (entry.results["output"],
                                                                               entry.owner.problem)))}
    parts = {part["name"]: points_of(part) for part in mark["parts"] if not part["manual"]}
    reasons, failed = common_reason(mark), failed_checks(mark)
    return {**cells, "status": "graded", "points": mark["points"], **parts, "hand-in": -mark["penalty"] or "",
            "total": "" if entry.total is None else entry.total, "seed": mark["seed"], "seconds": mark["seconds"],
            "review": len(mark["review"]), "isolation": report.isolation(mark["level"]).removeprefix("isolation: "),
            "failed": "; ".join(failed),
            "why": "; ".join(filter(None, [reasons, *mark["violations"], *mark["notes"], entry.owner.problem]))}


def missing_row(student: Student) -> dict:
    """The row of a student of the roster without a submission."""
    return {"student": student.name or student.id or student.email, "id": student.id, "email": student.email,
            "late_days": student.late_days, "status": "no submission"}


def columns(entries: list[Entry]) -> list[str]:
    """The columns of the table, with one for each part that is graded by hand in any submission."""
    return [*COLUMNS, *[name for name in hand_columns(entries) if name not in COLUMNS], *LAST_COLUMNS]


def hand_columns(entries: list[Entry]) -> dict[str, dict]:
    """{part: its entry in a mark} of all parts that staff give points for."""
    return {part["name"]: part for entry in entries for part in entry.hand_parts}


def verdicts(mark: dict):
    return ((part, verdict) for part in mark["parts"] if not part["manual"] for verdict in part["verdicts"])


def points_of(part: dict) -> float:
    return round(sum(verdict["points"] for verdict in part["verdicts"]), 2)


def not_attempted(part: dict) -> bool:
    """Whether a part is a bonus that the student left out: then it is no failure."""
    return report.not_attempted(part["bonus"], [verdict["feedback"] for verdict in part["verdicts"]])


def failures(mark: dict):
    """(part, verdict) of the failed checks, those of a bonus that was not attempted left out."""
    return ((part, verdict) for part, verdict in verdicts(mark) if verdict["feedback"] and not not_attempted(part))


def common_reason(mark: dict) -> str:
    """The reason that all checks share, as an error of syntax is; else an empty string."""
    feedback = {verdict["feedback"] for _, verdict in verdicts(mark)}
    return feedback.pop() if len(feedback) == 1 else ""


def failed_checks(mark: dict) -> list[str]:
    """`part: check` for each failed check; `part: all checks`, or only "all checks", where none passed."""
    if common_reason(mark):
        return ["all checks"]
    found: dict[str, list[str]] = defaultdict(list)
    for part, verdict in failures(mark):
        found[part["name"]].append(verdict["title"])
    sizes = {part["name"]: len(part["verdicts"]) for part in mark["parts"]}
    return [f"{name}: {title}" for name, titles in found.items()
            for title in (["all checks"] if len(titles) == sizes[name] > 1 else titles)]


def failure_reasons(mark: dict) -> set[str]:
    """The distinct reasons of one submission, once per part, or a single one if all checks failed for it."""
    if reason := common_reason(mark):
        return {f"all parts: {normalize(reason)}"}
    return {f"{part['name']}: {normalize(verdict['feedback'])}" for part, verdict in failures(mark)}


def class_summary(entries: list[Entry]) -> str:
    """Markdown: points, how many passed each check, the most frequent failures with examples."""
    graded = [entry for entry in entries if entry.mark]
    lines = ["# The class", "", f"{len(graded)} graded, {len(entries) - len(graded)} not graded."]
    if graded:
        points = [entry.mark["points"] for entry in graded]
        lines += [f"Automatic points: median {statistics.median(points):g}, from {min(points):g} to "
                  f"{max(points):g}.", "",
                  "| check | passed | of |", "|---|---|---|"]
        passed, attempts, reasons = Counter(), Counter(), defaultdict(list)
        for entry in graded:
            for part, verdict in verdicts(entry.mark):
                passed[f"{part['name']}: {verdict['title']}"] += not verdict["feedback"]
                attempts[f"{part['name']}: {verdict['title']}"] += not not_attempted(part)
            for sentence in failure_reasons(entry.mark):
                reasons[sentence].append(escape_markdown(entry.name))
        lines += [f"| {title} | {count} | {attempts[title]} |" for title, count in passed.items()]
        lines += ["", "## Most frequent failures", ""]
        lines += [f"- {len(names)} x {escape_markdown(sentence)} (e.g. {', '.join(names[:3])})"
                  for sentence, names in sorted(reasons.items(), key=lambda item: -len(item[1]))[:20]]
    if ungraded := [entry for entry in entries if not entry.mark]:
        lines += ["", "## Not graded", "", *[f"- {escape_markdown(entry.name)}: "
                                             f"{escape_markdown(entry.results['output'])}" for entry in ungraded]]
    return "\n".join(lines) + "\n"
