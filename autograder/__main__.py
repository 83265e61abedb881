"""python -m autograder COMMAND, from the root of the repository: grade, batch, doctor, gradescope, starter, selftest.

Exit code 0 if everything was graded, 2 if something could not be.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from autograder import batch, doctor, gradescope, report, rubric, starter
from autograder.grade import grade, new_seed
from autograder.intake import CannotGrade
from autograder.text import printable


def main(argv: list[str] | None = None) -> int:
    args = get_args_parser().parse_args(argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception: workers and folders are cleared away
    try:
        return args.run(args)
    except (CannotGrade, starter.StarterError) as error:
        print(f"autograder: error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was graded so far is kept", file=sys.stderr)
        return 130


def grade_one(args: argparse.Namespace) -> int:
    seed = new_seed() if args.seed is None else args.seed
    write = lambda content: report.write_json(args.json, content) if args.json else None  # noqa: E731
    write(report.not_graded(args.path.name, "the grader was stopped before the first part was done"))
    try:
        mark = grade(args.path, seed, args.part, args.year, args.handed_in, lambda mark: write(report.gradescope(mark)))
    except CannotGrade as error:
        write(report.not_graded(args.path.name, printable(error), hand_in_at_fault=True))
        raise
    print(report.show(mark, args.all))
    return 0


def grade_class(args: argparse.Namespace) -> int:
    seed = new_seed() if args.seed is None else args.seed
    print(f"seed {seed}, {args.jobs} at a time")
    rows = batch.grade_all(args.folder, args.csv, args.jobs, {"seed": seed, "year": args.year})
    print(f"{args.csv}; about the class: {args.csv.with_suffix('.md')}; each result: {args.csv.with_suffix('.marks')}/")
    return 0 if all(row["status"] == "graded" for row in rows) else 2


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m autograder", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    def seed_and_year(to: argparse.ArgumentParser) -> None:
        to.add_argument("--seed", type=natural, metavar="N", help="draws the cases; printed, so that a mark can be "
                                                                  "reproduced (default: a new one)")
        to.add_argument("--year", type=int, choices=range(2022, 2026), default=2025, help="2022 and 2023: "
                        "Attention and TransformerBlock were helper code (default: 2025)")

    one = command("grade", grade_one, "grade a zip or a folder")
    one.add_argument("path", type=Path, metavar="PATH", help="a zip, or a folder with code/ in it")
    one.add_argument("--json", type=Path, metavar="FILE", help="write Gradescope's results.json as well")
    one.add_argument("--part", action="append", choices=list(rubric.PARTS), help="this part only; may be given again")
    one.add_argument("--all", action="store_true", help="show passed checks as well")
    one.add_argument("--handed-in", action="store_true", help="PATH is an unpacked zip: data, logs and models must "
                                                              "not be in it")
    seed_and_year(one)

    many = command("batch", grade_class, "grade all zips and folders in a folder")
    many.add_argument("folder", type=Path, metavar="DIR")
    many.add_argument("--csv", type=Path, required=True, metavar="FILE", help="a row for each; FILE.md and "
                                                                              "FILE.marks/ beside")
    many.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, metavar="N", help="at a time (default: "
                                                                                              "one a core)")
    seed_and_year(many)

    command("doctor", doctor.examine, "say what this machine can enforce, by trying it")

    bundle = command("gradescope", gradescope.build, "make the zip that Gradescope's autograder configuration wants")
    bundle.add_argument("out", type=Path, metavar="OUT.zip")
    seed_and_year(bundle)

    hand_out = command("starter", make_starter, "make the starter for students, a folder and a zip")
    hand_out.add_argument("out", type=Path, metavar="OUT", help="the folder; OUT.zip is written beside it")
    hand_out.add_argument("--quick", action="store_true", help="leave out the checks that run the starter")

    own = command("selftest", test_itself, "grade wrong, unusual and hostile solutions, and see whether the grader is "
                                           "right")
    own.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, metavar="N", help="at a time (default: one "
                                                                                             "a core)")
    own.add_argument("--quick", action="store_true", help="every sixth only")
    own.add_argument("--only", metavar="WORD", help="those with this in their name")
    own.add_argument("--seed", type=natural, metavar="N", help="(default: a new one)")
    return parser


def make_starter(args: argparse.Namespace) -> int:
    starter.make(args.out, thorough=not args.quick)
    print(f"{args.out}/ and {args.out}.zip")
    return 0


def test_itself(args: argparse.Namespace) -> int:
    from autograder import selftest  # its wrong and right solutions are not in Gradescope's bundle
    return selftest.run(args)


def natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def positive(text: str) -> int:
    if natural(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
