"""The command similar: pairs of submissions that are alike, as text, CSV and HTML."""

import argparse
from pathlib import Path

from autograder import roster
from autograder.batch import find_submissions
from autograder.pages import escape, escape_source, page, table
from autograder.similar import Pair, Program, compare
from autograder.tables import write_csv, write_text
from autograder.text import printable

COLUMNS = ["similarity", "shared", "of", "first", "second", "functions", "why"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of submissions")
    parser.add_argument("--against", type=Path, action="append", default=[], metavar="DIR", help="folder of earlier "
                        "submissions, which are compared with those in DIR, not with each other; repeatable")
    parser.add_argument("--given", type=Path, action="append", default=[], metavar="PATH", help="further code that "
                        "students got and that does not count: a .py file, zip or folder; repeatable. The starters of "
                        "all years are known")
    parser.add_argument("--roster", type=Path, metavar="FILE", help="the class, as for batch: two of one team are not "
                        "listed")
    parser.add_argument("--least", type=share, default=0.4, metavar="S", help="list pairs of at least this similarity, "
                        "0 to 1 (default: 0.4)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the list as a table")
    parser.add_argument("--html", type=Path, metavar="DIR", help="also write a page for each listed pair, with the "
                        "functions that match side by side, and an index.html")


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return value


def list_pairs(args: argparse.Namespace) -> int:
    """Print and write the pairs. Returns 0, or 2 if a submission could not be compared."""
    teams = teams_of(args.folder, args.roster) if args.roster else {}
    pairs, programs = compare(args.folder, args.against, args.given, args.least)
    pairs = [pair for pair in pairs if not teams.get(pair.first.name, set()) & teams.get(pair.second.name, set())]
    print(f"{'similar':>7}  {'shared':>6}   of  pair")
    for pair in pairs:
        print(f"{pair.similarity:7.2f}  {pair.shared:6} {pair.size:4}  {pair.first.name}  {pair.second.name}")
    left_out = [program for program in programs if program.reason]
    for program in left_out:
        print(f"not compared: {program.name}: {program.reason}")
    print(f"{len(pairs)} pairs of at least {args.least:g}, of {len(programs) - len(left_out)} submissions; "
          f"{len(left_out)} not compared. A pair is no proof: look at its functions (--html)")
    if args.csv:
        write_csv(args.csv, COLUMNS, [*map(row, pairs), *({"first": program.name, "why": program.reason}
                                                         for program in left_out)])
    if args.html:
        write_pages(args.html, pairs, left_out)
    return 2 if left_out else 0


def teams_of(folder: Path, table: Path) -> dict[str, set[str]]:
    """The teams of each submission's owners, by the roster."""
    owners = roster.owners(find_submissions(folder, [table]), roster.read_roster(table))
    return {printable(path.name): {student.team for student in owner.students} - {""} for path, owner in owners.items()}


def row(pair: Pair) -> dict:
    functions = "; ".join(f"{first} = {second} ({alike:.2f})" for alike, first, second in pair.functions())
    return {"similarity": round(pair.similarity, 2), "shared": pair.shared, "of": pair.size, "functions": functions,
            "first": pair.first.name, "second": pair.second.name}


def write_pages(out: Path, pairs: list[Pair], left_out: list[Program]) -> None:
    """Write index.html and a page for each pair into the folder `out`."""
    rows = []
    for number, pair in enumerate(pairs, 1):
        write_text(out / f"pair-{number}.html", pair_page(pair))
        rows.append(("", [f'<a href="pair-{number}.html">{pair.similarity:.2f}</a>', str(pair.shared), str(pair.size),
                          escape(pair.first.name), escape(pair.second.name)]))
    body = table(["similarity", "shared", "of", "first", "second"], rows)
    body += "".join(f"<p>not compared: {escape(program.name)}: {escape(program.reason)}</p>" for program in left_out)
    write_text(out / "index.html", page("Similar submissions", body))


def pair_page(pair: Pair) -> str:
    """The functions of a pair that match, side by side."""
    rows = [("", [f"{alike:.2f}", side(pair.first, first), side(pair.second, second)])
            for alike, first, second in pair.functions()]
    note = (f"{pair.shared} of {pair.size} fingerprints of the smaller one are in the other one, names, constants and "
            "comments left out. Below: each function of the first and the one most like it, from 0.5 on.")
    return page(f"{pair.similarity:.2f}: {pair.first.name} and {pair.second.name}",
                f'<p class="note">{escape(note)}</p>\n{table(["similarity", pair.first.name, pair.second.name], rows)}')


def side(program: Program, function: str) -> str:
    return f"<b>{escape(function)}</b><pre>{escape_source(program.sources[function])}</pre>"
