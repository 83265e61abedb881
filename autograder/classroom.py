"""The command batch: grade a class, with the roster and the marks by hand that staff have."""

import argparse
from pathlib import Path

from autograder import batch, class_pages, class_table, hand_marks, roster
from autograder.grade import new_seed
from autograder.intake import CannotGrade
from autograder.tables import write_csv, write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of submissions, as downloaded from Canvas or "
                        "exported from Gradescope, or with any names")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="DIR", help="folder to write: class.html, a page for each "
                       "submission (students/), marks.csv, marks.md (summary), each results.json (marks.marks/), and "
                       "manual.csv to fill in")
    where.add_argument("--csv", type=Path, metavar="FILE", help="write only the table, its summary (.md) and each "
                       "results.json (.marks/)")
    parser.add_argument("--manual", type=Path, metavar="FILE", help="marks by hand: a CSV with the columns name, one "
                        "for each part graded by hand, comment")
    parser.add_argument("--roster", type=Path, metavar="FILE", help="the class: a CSV with the columns name, id, "
                        "email, login, section, team, late_days (all but one may be left out), or a table exported "
                        "from Canvas's gradebook or Gradescope")
    parser.add_argument("--canvas", metavar="COLUMN", help="with --out: also write canvas.csv for Canvas's gradebook; "
                        "COLUMN is the assignment's as it stands there, e.g. 'Homework 2 (4711)'")


def grade_class(args: argparse.Namespace) -> int:
    """Grade `args.folder`. Raises CannotGrade, before anything is graded if a table of staff's has an error."""
    if args.canvas and not args.out:
        raise CannotGrade("--canvas writes canvas.csv into the folder that --out names: give --out, not --csv")
    table = args.csv or args.out / "marks.csv"
    summary = table.with_suffix(".md")
    own = [args.out, table, summary, batch.marks_folder(table), args.manual, args.roster]
    paths = batch.find_submissions(args.folder, [path for path in own if path])
    students = roster.read_roster(args.roster) if args.roster else None
    owners = roster.owners(paths, students)
    by_hand = hand_marks.read_marks(args.manual, owners) if args.manual else []
    seed = next((seed for seed in (args.seed, batch.seed_before(table)) if seed is not None), new_seed())
    print(f"seed {seed}, {args.jobs} in parallel")
    entries = batch.grade_all(owners, table, args.jobs, {"seed": seed, "year": args.year})
    hand_marks.merge(args.manual, by_hand, entries)
    missing = roster.missing(students or [], owners)
    write_csv(table, class_table.columns(entries), [*map(class_table.row, entries),
                                                    *map(class_table.missing_row, missing)])
    write_text(summary, class_table.class_summary(entries))
    print(f"{table}; summary: {summary}; results.json: {batch.marks_folder(table)}/")
    if args.out:
        write_pages(args, entries, missing, students)
    return 0 if all(entry.mark for entry in entries) else 2


def write_pages(args: argparse.Namespace, entries: list[class_table.Entry], missing: list[roster.Student],
                students: list[roster.Student] | None) -> None:
    class_pages.write(args.out, entries, missing)
    print(f"{args.out / 'class.html'}; a page for each submission: {args.out / 'students'}/")
    template = args.out / "manual.csv"
    hand_marks.write_template(template, entries)
    if to_fill := sum(bool(entry.to_fill) for entry in entries):
        print(f"{to_fill} without a total: marks by hand are missing. Fill in {template} and give it with --manual")
    if args.canvas:
        listed = [student for entry in entries for student in entry.owner.students] if students is None else students
        for line in class_pages.write_canvas(args.out / "canvas.csv", args.canvas, entries, listed):
            print(f"no mark in canvas.csv: {line}")
        print(args.out / "canvas.csv")
