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
    try:
        mark = grade(args.path, seed, args.part, args.year, args.handed_in, lambda mark: write(report.gradescope(mark)))
    except CannotGrade as error:
        write(report.not_graded(args.path.name, printable(error), hand_in_at_fault=True))
        raise
    except GraderFailed as error:
        write(report.not_graded(args.path.name, f"could not be graded: {printable(error)}"))
        raise
    print(report.show(mark, args.all))
    return 0


def grade_class(args: argparse.Namespace) -> int:
    seed = new_seed() if args.seed is None else args.seed
    print(f"seed {seed}, {args.jobs} in parallel")
    rows = batch.grade_all(args.folder, args.csv, args.jobs, {"seed": seed, "year": args.year})
    print(f"{args.csv}; class summary: {args.csv.with_suffix('.md')}; results.json: {args.csv.with_suffix('.marks')}/")
    return 0 if all(row["status"] == "graded" for row in rows) else 2


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m autograder", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add_command(name: str, run, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    def seed_and_year(to: argparse.ArgumentParser) -> None:
        to.add_argument("--seed", type=natural, metavar="N", help="seed of the test cases, printed with the result "
                                                                  "(default: random)")
        to.add_argument("--year", type=int, choices=range(2022, 2026), default=2025, help="year of the assignment; in "
                        "2022 and 2023 Attention and TransformerBlock were helper code (default: 2025)")

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
    seed_and_year(one)

    many = add_command("batch", grade_class, "grade every zip and folder in a folder")
    many.add_argument("folder", type=Path, metavar="DIR", help="folder of submissions")
    many.add_argument("--csv", type=Path, required=True, metavar="FILE", help="table to write, a row per submission; a "
                      "summary (.md) and each results.json (.marks/) go beside it")
    jobs(many)
    seed_and_year(many)

    add_command("doctor", doctor.examine, "try what the sandbox enforces on this machine")

    bundle = add_command("gradescope", gradescope.build, "build the autograder zip for Gradescope")
    bundle.add_argument("out", type=Path, metavar="OUT.zip", help="file to write")
    seed_and_year(bundle)

    students = add_command("starter", make_starter, "build the starter for students, a folder and a zip")
    students.add_argument("out", type=Path, metavar="OUT", help="folder to write; OUT.zip is written beside it")
    students.add_argument("--quick", action="store_true", help="skip the checks that run the starter")

    own = add_command("selftest", run_selftest, "grade wrong, unusual and hostile solutions and compare the results "
                                                "with the expected ones")
    jobs(own)
    own.add_argument("--quick", action="store_true", help="every sixth solution only")
    own.add_argument("--only", metavar="WORD", help="only solutions with WORD in their part or name")
    own.add_argument("--seed", type=natural, metavar="N", help="seed of the test cases (default: random)")
    return parser


def make_starter(args: argparse.Namespace) -> int:
    starter.make(args.out, thorough=not args.quick)
    print(f"{args.out}/ and {args.out}.zip")
    return 0


def run_selftest(args: argparse.Namespace) -> int:
    from autograder import selftest  # not in the Gradescope bundle
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
