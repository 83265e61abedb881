"""The pages of a class: HTML for staff, Markdown for each submission, and a table for Canvas's gradebook."""

import hashlib
import os
import re
from pathlib import Path

from autograder import report
from autograder.class_table import Entry, common_reason, hand_columns, not_attempted, points_of
from autograder.grade import PartMark, Verdict
from autograder.pages import escape, page, table
from autograder.roster import Student
from autograder.tables import write_csv, write_text
from autograder.text import escape_markdown

BLANK = "\\_\\_\\_"  # to fill in by hand


def write(out: Path, entries: list[Entry], missing: list[Student]) -> None:
    """Write `class.html` and `students/*.md` into the folder `out`."""
    for entry in entries:
        write_text(out / student_page(entry), student_markdown(entry))
    write_text(out / "class.html", class_html(entries, missing))


def student_page(entry: Entry) -> str:
    """The Markdown file of a submission, below the folder of all."""
    name = re.sub(r"[^\w.-]", "_", entry.name[:80])
    unlike = name != entry.path.name or name.startswith(".")
    return f"students/{name}{'-' + hashlib.sha256(os.fsencode(entry.path.name)).hexdigest()[:8] if unlike else ''}.md"


def reasons(mark: dict) -> list[tuple[str, list[str]]]:
    """(title of a part, a line for each reason), as the command grade prints them; once if all checks share it."""
    if reason := common_reason(mark):
        return [("all checks", [reason])]
    found = []
    for part in mark["parts"]:
        if not part["manual"] and not not_attempted(part):
            again = PartMark(**{**part, "verdicts": [Verdict(**verdict) for verdict in part["verdicts"]]})
            found.append((part["title"], [line.strip() for line in report.failures(again, all_checks=False)]))
    return [(title, lines) for title, lines in found if lines]


def number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


# ------------------------------------------------------------------------------------------- for a student


def student_markdown(entry: Entry) -> str:
    """Points, reasons and marks by hand of one submission, without the lines for staff."""
    mark, handed_in = entry.mark, ", ".join(filter(None, (f"Handed in: {entry.name}", entry.owner.late)))
    lines = [f"# {escape_markdown(entry.students or entry.name)}", "", escape_markdown(handed_in)]
    if mark is None:
        lines += ["", f"Not graded: {escape_markdown(entry.results['output'])}"]
    else:
        lines += ["", "| part | points | of | |", "|---|--:|--:|---|", *points_markdown(entry), "", "## Reasons", ""]
        lines += [f"- {escape_markdown(title)}: {escape_markdown(line)}" for title, found in reasons(mark)
                  for line in found] or ["No check failed."]
        lines += [f"- submission rules: {escape_markdown(rule)}" for rule in mark["violations"]]
        lines += [f"- note: {escape_markdown(note)}" for note in mark["notes"]]
    lines += ["", "## Comment", "", escape_markdown(entry.comment)] if entry.comment else []
    return "\n".join(lines) + "\n"


def points_markdown(entry: Entry) -> list[str]:
    """The rows of the table of points."""
    mark, rows = entry.mark, []
    for part in mark["parts"]:
        if part["manual"]:
            points, remark = number(entry.by_hand.get(part["name"])) or BLANK, "by hand"
        else:
            points, remark = number(points_of(part)), "not attempted" if not_attempted(part) else ""
        bonus = "bonus" if part["bonus"] else ""
        if part["out_of"]:
            rows.append((part["title"], points, number(part["out_of"]), "; ".join(filter(None, (bonus, remark)))))
    if mark["penalty"]:
        rows.append(("submission rules", number(-mark["penalty"]), "", ""))
    open_parts = f"without {', '.join(entry.to_fill)}: {mark['points']:g}" if entry.to_fill else ""
    rows.append(("total", number(entry.total) or BLANK, "", open_parts))
    return [f"| {escape_markdown(title)} | {points} | {out_of} | {escape_markdown(remark)} |"
            for title, points, out_of, remark in rows]


# ------------------------------------------------------------------------------------------- for staff


def class_html(entries: list[Entry], missing: list[Student]) -> str:
    """A table with a row for each submission, and one for each student of the roster without any."""
    graded = [entry for entry in entries if entry.mark]
    automatic = list(dict.fromkeys(part["name"] for entry in graded for part in entry.mark["parts"]
                                   if not part["manual"]))
    by_hand = [name for name in hand_columns(entries) if name not in automatic]
    columns = ["student", "id", "submission", "late", "late days", "total", "automatic", *automatic, *by_hand, "rules",
               "reasons and notes"]
    rows = [html_row(entry, [*automatic, *by_hand]) for entry in entries]
    rows += [("missing", [escape(student.name), escape(student.id or student.email), "", "", escape(student.late_days),
                          *[""] * (len(columns) - 6), "no submission"]) for student in missing]
    to_fill = sum(bool(entry.to_fill) for entry in graded)
    head = [f"{len(graded)} graded, {len(entries) - len(graded)} not graded, {len(missing)} of the roster without a "
            "submission."]
    head += [f"{to_fill} lack marks by hand and have no total yet (yellow)."] if to_fill else []
    return page("The class", f'<p class="note">{escape(" ".join(head))} A click on a column sorts by it.</p>\n'
                             f"{table(columns, rows)}")


def html_row(entry: Entry, parts: list[str]) -> tuple[str, list[str]]:
    """The class and the cells of one submission."""
    students, mark = entry.owner.students, entry.mark
    whose = [entry.students, " ".join(student.id or student.email for student in students)]
    days = " ".join(filter(None, (student.late_days for student in students)))
    link = f'<a href="{escape(student_page(entry))}">{escape(entry.name)}</a>'
    first = [*map(escape, whose), link, escape(entry.owner.late), escape(days)]
    if mark is None:
        return "failed", [*first, "", "", *[escape(number(entry.by_hand.get(part))) for part in parts], "",
                          details("not graded", [entry.results["output"], entry.owner.problem])]
    points = {part["name"]: points_of(part) for part in mark["parts"] if not part["manual"]
              and not not_attempted(part)} | entry.by_hand
    lost = [f"{title}: {line}" for title, lines in reasons(mark) for line in lines]
    lines = [*lost, *mark["violations"], *[f"note: {note}" for note in mark["notes"]], entry.owner.problem,
             *[f"for staff: {line}" for line in mark["review"]], entry.comment and f"comment: {entry.comment}"]
    title = common_reason(mark)[:100] or (f"{len(lost)} reasons" if lost else "")
    return "open" if entry.to_fill else "", [
        *first, number(entry.total), number(mark["points"]), *[number(points.get(part)) for part in parts],
        number(-mark["penalty"] or None), details(title, lines)]


def details(title: str, lines: list[str]) -> str:
    """Lines that unfold below a title."""
    text = "<br>".join(escape(line) for line in lines if line)
    return f"<details><summary>{escape(title or 'notes')}</summary><div>{text}</div></details>" if text else ""


# ------------------------------------------------------------------------------------------- for Canvas


def write_canvas(path: Path, assignment: str, entries: list[Entry], students: list[Student]) -> list[str]:
    """Write a table that Canvas's gradebook imports, with the totals in the column `assignment`.

    A student without exactly one submission, or whose total lacks marks by hand, gets an empty cell, which leaves
    Canvas's as it is. Returns why, a line for each.
    """
    totals, why = {}, []
    for entry in entries:
        for student in entry.owner.students:
            totals.setdefault(student.id or student.login or student.name, []).append(entry)
    rows = []
    for student in students:
        found = totals.get(student.id or student.login or student.name, [])
        found = [entry for entry in found if entry.mark] or found  # Canvas has a row for each file, a PDF too
        mark = found[0].total if len(found) == 1 else None
        rows.append({"Student": student.name, "ID": student.id, "SIS Login ID": student.login,
                     "Section": student.section, assignment: "" if mark is None else mark})
        if mark is None:
            why.append(f"{student.name or student.id}: " + (
                "no submission" if not found else f"{len(found)} submissions" if len(found) > 1 else
                f"marks by hand are missing: {', '.join(found[0].to_fill)}" if found[0].mark else "not graded"))
    write_csv(path, ["Student", "ID", "SIS Login ID", "Section", assignment], rows)
    return why
