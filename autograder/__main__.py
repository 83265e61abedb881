"""python -m autograder COMMAND, from the root of the repository.

Exit code 0 if everything was graded, 2 if something could not be.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from autograder import classroom, doctor, gradescope, report, rubric, similar_pages, starter
from autograder.grade import grade, new_seed
from autograder.intake import CannotGrade
from autograder.process import GraderFailed
from autograder.text import printable


def main(argv: list[str] | None = None) -> int:
    args = get_args_parser().parse_args(argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # raises, so that workers and folders are cleaned up
    try:
        return args.run(args)
    except (CannotGrade, GraderFailed, starter.StarterError) as error:
        print(f"autograder: error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; results so far are kept", file=sys.stderr)
        return 130


def grade_one(args: argparse.Namespace) -> int:
    seed = new_seed() if args.seed is None else args.seed
    write = lambda content: report.write_json(args.json, content) if args.json else None  # noqa: E731
    write(report.not_graded(args.path.name, "the grader was stopped before the first part was graded"))
    late = gradescope.late_note(args.metadata) if args.metadata else ""
    try:
        mark = grade(args.path, seed, args.part, args.year, args.handed_in,
                     lambda mark: write(report.gradescope(mark, args.visibility, late)))
    except CannotGrade as error:
        write(report.not_graded(args.path.name, printable(error), hand_in_at_fault=True))
        raise
    except GraderFailed as error:
        write(report.not_graded(args.path.name, f"could not be graded: {printable(error)}"))
        raise
    print(report.show(mark, args.all), *filter(None, [late]), sep="\n")
    return 0


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m autograder", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add_command(name: str, run, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    def sheet_of(to: argparse.ArgumentParser) -> None:
        to.add_argument("--year", type=int, choices=list(rubric.YEARS), default=2025, help="year of the sheet: which "
                        "parts it gives, asks for and marks, by rubric.py (default: 2025)")

    def seed_and_year(to: argparse.ArgumentParser) -> None:
        to.add_argument("--seed", type=natural, metavar="N", help="seed of the test cases, printed with the result "
                                                                  "(default: random)")
        sheet_of(to)

    def jobs(to: argparse.ArgumentParser) -> None:
        to.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, metavar="N", help="number of submissions "
                        "graded in parallel (default: number of cores)")

    one = add_command("grade", grade_one, "grade a zip or a folder")
    one.add_argument("path", type=Path, metavar="PATH", help="a zip, or a folder with code/ in it")
    one.add_argument("--json", type=Path, metavar="FILE", help="also write Gradescope's results.json")
    one.add_argument("--part", action="append", choices=list(rubric.PARTS), help="grade this part only; repeatable")
    one.add_argument("--all", action="store_true", help="also show passed checks")
    one.add_argument("--handed-in", action="store_true", help="PATH is an unpacked zip: data, logs and models in it "
                                                              "break the submission rules")
    one.add_argument("--visibility", choices=gradescope.VISIBILITIES, default="visible", help="of the checks in "
                     "results.json (default: visible)")
    one.add_argument("--metadata", type=Path, metavar="FILE", help="Gradescope's submission_metadata.json: a late "
                     "submission gets a note")
    seed_and_year(one)

    many = add_command("batch", classroom.grade_class, "grade every zip and folder in a folder")
    classroom.add_arguments(many)
    jobs(many)
    seed_and_year(many)

    alike = add_command("similar", similar_pages.list_pairs, "list pairs of submissions whose code is alike")
    similar_pages.add_arguments(alike)

    add_command("doctor", doctor.examine, "try what the sandbox enforces on this machine")

    bundle = add_command("gradescope", gradescope.build, "build the autograder zip for Gradescope")
    bundle.add_argument("out", type=Path, metavar="OUT.zip", help="file to write")
    bundle.add_argument("--visibility", choices=gradescope.VISIBILITIES, default="visible", help="when students see "
                        "the checks; with any but visible, Gradescope hides their total as well (default: visible)")
    seed_and_year(bundle)

    students = add_command("starter", make_starter, "build the starter for students, a folder and a zip")
    students.add_argument("out", type=Path, metavar="OUT", default=Path("starter"), nargs="?",
                          help="folder to write; OUT.zip is written beside it (default: starter)")
    students.add_argument("--quick", action="store_true", help="skip the checks that run the starter")
    sheet_of(students)

    own = add_command("selftest", run_selftest, "grade wrong, unusual and hostile solutions and compare the results "
                                                "with the expected ones")
    jobs(own)
    own.add_argument("--quick", action="store_true", help="every sixth solution only")
    own.add_argument("--only", metavar="WORD", help="only solutions with WORD in their part or name")
    kind = own.add_mutually_exclusive_group()
    kind.add_argument("--mutants", action="store_true", help="grade mutants of the reference instead; their share that "
                      "loses points is the figure in README")
    kind.add_argument("--rewrites", action="store_true", help="grade right solutions, rewritten at random, instead")
    own.add_argument(
        "--half",
        choices=("development", "held-out"),
        help="half of the mutants or rewritings: missed ones are shown for the development half only (default: both)",
    )
    own.add_argument("--limit", type=positive, metavar="N", help="grade a fixed random sample of N in each half")
    own.add_argument("--seed", type=natural, metavar="N", help="seed of the test cases (default: random)")
    return parser


def make_starter(args: argparse.Namespace) -> int:
    starter.make(args.out, not args.quick, args.year)
    print(f"{args.out}/ and {args.out}.zip")
    return 0


def run_selftest(args: argparse.Namespace) -> int:
    if args.mutants or args.rewrites:
        from autograder.mutation import measure  # neither this nor selftest is in the Gradescope bundle
        return measure.run(args)
    from autograder import selftest
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
