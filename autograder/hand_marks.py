"""Marks that staff give by hand, from a table with a row for each submission and a column for each part."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from autograder.class_table import Entry, hand_columns
from autograder.intake import CannotGrade
from autograder.roster import Owner
from autograder.tables import read_csv, write_csv
from autograder.text import printable

OTHER_COLUMNS = {"name", "student", "comment"}


@dataclass
class HandMark:
    """A row: points for the parts of one submission."""

    line: int
    path: Path
    points: dict[str, float] = field(default_factory=dict)
    comment: str = ""


def read_marks(table: Path, owners: dict[Path, Owner]) -> list[HandMark]:
    """The rows of `table`. A submission is named by its file or by a student's id, login, e-mail address or name.

    Raises CannotGrade, with file and line, for a name that is unknown, or a mark that is not a number of at least 0.
    """
    columns, rows = read_csv(table)
    if "name" not in columns:
        raise CannotGrade(f"{table}:1: there is no column name; the first line is name,PART,...,comment")
    known, found = names_of(owners), {}
    for line, row in rows:
        name = row.get("name", "")
        fitting = known.get(name.casefold(), set())
        if len(fitting) != 1:
            near = get_close_matches(name.casefold(), known, 1)
            raise CannotGrade(f"{table}:{line}: {printable(name)!r} names {len(fitting) or 'no'} submission"
                              f"{'s' * bool(fitting)} here{f'; is it {near[0]!r}?' if near and not fitting else ''}")
        mark = HandMark(line, *fitting, {part: number(table, line, part, cell) for part, cell in row.items()
                                         if cell and part not in OTHER_COLUMNS}, row.get("comment", ""))
        if mark.path in found:
            raise CannotGrade(f"{table}:{line}: {printable(name)!r} is in line {found[mark.path].line}, too")
        found[mark.path] = mark
    return list(found.values())


def names_of(owners: dict[Path, Owner]) -> dict[str, set[Path]]:
    """What a submission may be called in the table, in lower case -> the submissions that are."""
    known: dict[str, set[Path]] = {}
    for path, owner in owners.items():
        words = {printable(path.name), path.name.removesuffix(".zip")}
        for student in owner.students:
            words |= {student.id, student.login, student.email, student.name}
        for word in words - {""}:
            known.setdefault(word.casefold(), set()).add(path)
    return known


def number(table: Path, line: int, part: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise CannotGrade(f"{table}:{line}: {part} is {cell!r}, not a number of at least 0")
    return value


def merge(table: Path, marks: list[HandMark], entries: list[Entry]) -> None:
    """Put the marks into the entries. Raises CannotGrade for a part that is not graded by hand, or too many points."""
    by_path, parts = {entry.path: entry for entry in entries}, hand_columns(entries)
    for mark in marks:
        for part, points in mark.points.items():
            if part not in parts:
                raise CannotGrade(f"{table}:{mark.line}: {part!r} is no part that is graded by hand; these are: "
                                  f"{', '.join(parts) or 'none'}")
            if points > parts[part]["out_of"]:
                raise CannotGrade(f"{table}:{mark.line}: {part} is {points:g}, more than its {parts[part]['out_of']:g}")
        by_path[mark.path].by_hand, by_path[mark.path].comment = mark.points, printable(mark.comment)


def write_template(table: Path, entries: list[Entry]) -> None:
    """Write the table to fill in, a row for each graded submission, unless it is there."""
    if not table.exists():
        write_csv(table, ["name", "student", *hand_columns(entries), "comment"],
                  [{"name": entry.name, "student": entry.students} for entry in entries if entry.mark])
