"""Grade one submission: each part runs in its own worker process; the verdicts are made here."""

import hashlib
import secrets
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

import autograder.parts  # noqa: F401  (registers the checks)
from autograder import hand_in, rubric, syntax
from autograder.checks import Check, checks_of, consequences
from autograder.compare import CheckFailed, Remark
from autograder.intake import FolderSource, Submission, read_submission
from autograder.process import REPLY_TIMEOUT, GraderFailed, StudentError, Worker, WorkerDied
from autograder.solution import write_starter_files
from autograder.text import printable

MAX_WORKER_DEATHS = 3  # per part; then its remaining checks are not run
PART_SECONDS = 120.0  # for all checks of a part
TOO_SLOW = f"this part took longer than {PART_SECONDS:.0f} s"
NOTHING_ELSE = "does not count, since no check of the result passes"


@dataclass
class Verdict:
    """The result of one check; empty feedback means that it passed."""

    title: str
    points: float
    out_of: float
    feedback: str = ""


@dataclass
class PartMark:
    """The results of one part's checks."""

    name: str
    title: str
    out_of: float
    verdicts: list[Verdict] = field(default_factory=list)
    bonus: bool = False
    manual: bool = False
    seconds: float = 0.0

    @property
    def points(self) -> float:
        return round(sum(verdict.points for verdict in self.verdicts), 2)


@dataclass
class Mark:
    """The complete result of one submission."""

    name: str
    seed: int
    year: int = 2025  # of the sheet
    parts: list[PartMark] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)  # of the submission rules; see rubric.penalty
    notes: list[str] = field(default_factory=list)
    review: list[str] = field(default_factory=list)  # for staff only
    level: dict = field(default_factory=dict)  # isolation: name -> True, or why it is not in force
    seconds: float = 0.0

    @property
    def penalty(self) -> float:
        return rubric.penalty(len(self.violations))

    @property
    def points(self) -> float:
        return round(max(0.0, sum(part.points for part in self.parts) - self.penalty), 2)

    def to_dict(self) -> dict:
        return {**asdict(self), "points": self.points, "penalty": self.penalty}


def new_seed() -> int:
    return secrets.randbelow(2**31)


def grade(path: Path, seed: int, only: list[str] | None = None, year: int = 2025,
          handed_in: bool = False, on_part_done: Callable[[Mark], None] = lambda mark: None) -> Mark:
    """Grade the zip or folder at `path`. Raises intake.CannotGrade and process.GraderFailed.

    `seed` draws the test cases. `only`: the parts to grade (default: all). `handed_in`: the folder is an unpacked zip,
    so that the rules for zips apply. `on_part_done` gets the result so far after each part.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="submission-") as folder:
        code, helpers = Path(folder) / "code", Path(folder) / "helpers"
        code.mkdir()
        submission = read_submission(path, code, write_starter_files(helpers, year))
        submission.is_zip |= handed_in
        mark = Mark(printable(submission.name), seed, year, notes=[printable(note) for note in submission.notes])
        submission.fatal = printable(submission.fatal)
        mark.violations = [] if only else [printable(rule) for rule in hand_in.violations(submission)]
        mark.review = [printable(line) for line in syntax.review(code)]
        for name in only or rubric.parts(year):
            if name not in rubric.parts(year):
                title = rubric.PARTS[name][1]
                mark.parts.append(manual_part(name, 0.0, title, f"given with the sheet of {year}: not graded"))
                continue
            mark.parts.append(grade_part(name, submission, helpers, mark))
            if year > 2023 and any(words in submission.fatal for words in FILE_OF_2023):
                older = grade(path, seed, only, 2023, handed_in, on_part_done)
                older.notes.append("student_code.py imports Attention or TransformerBlock from custom_blocks, as files "
                                   "until 2023 do: graded with --year 2023")
                return older
            mark.seconds = round(time.monotonic() - began, 1)
            on_part_done(mark)
        if not only:
            mark.parts += [manual_part(name, points, title) for name, (points, title) in rubric.manual(year).items()]
    on_part_done(mark)
    return mark


def manual_part(name: str, points: float, title: str, why: str = "") -> PartMark:
    """A part that is listed with 0 points, for staff to fill in."""
    why = why or ("graded by hand" if points else "read by hand: its points are in those of the part")
    return PartMark(name, title, points, [Verdict(why, 0.0, points)], manual=True)


def grade_part(name: str, submission: Submission, helpers: Path, mark: Mark) -> PartMark:
    """Run all checks of one part. They share a worker process, which is replaced only if it dies."""
    points, title = rubric.parts(mark.year)[name]
    began, part = time.monotonic(), PartMark(name, title, points, bonus=name in rubric.BONUS)
    checks = checks_of(name)
    with Session(submission, helpers, name, mark) as session:
        feedback = {check.run: submission.fatal or session.run(check) for check in checks}
        mark.level.update(session.level)
        if session.import_failed:  # it would fail in every part, possibly by a timeout
            submission.fatal = printable(session.stop_reason)
    if name == "convolution" and not submission.fatal:
        no_convolution = next(check.run for check in checks if check.title.startswith("no convolution"))
        feedback[no_convolution] = feedback[no_convolution] or convolution_feedback(submission)
    judge(part, checks, feedback, session.follows_from)
    part.seconds = round(time.monotonic() - began, 1)
    return part


def judge(part: PartMark, checks: list[Check], feedback: dict, follows_from: dict) -> None:
    """Add the verdicts of a part: its points are shared by weight among the checks."""
    excused = consequences({run: follows_from.get(run, ()) for run, text in feedback.items() if text})
    works = any(not feedback[check.run] for check in checks if not check.beside)
    for check in checks:
        excuse = works and check.run in excused
        text = "" if excuse else feedback[check.run] or ("" if works else NOTHING_ELSE)
        out_of = part.out_of * check.weight / sum(check.weight for check in checks)
        part.verdicts.append(Verdict(check.title, 0.0 if text else out_of, out_of, text))


def convolution_feedback(submission: Submission) -> str:
    """Feedback for convolution functions named in CustomConv2DFunction, whether or not they were called."""
    found = syntax.forbidden_convolutions(submission.tree) if submission.tree else []
    return "; ".join(f"student_code.py:{line} names {name}, a convolution function, which the sheet does not allow in "
                     "CustomConv2DFunction" for line, name in found[:3])


class Session:
    """Runs the checks of one part in a worker process, and restarts it when it dies."""

    def __init__(self, submission: Submission, helpers: Path, part: str, mark: Mark):
        self.submission, self.helpers, self.part, self.mark = submission, helpers, part, mark
        self.worker: Worker | None = None
        self.worker_deaths, self.level, self.stop_reason, self.import_failed = 0, {}, "", False
        self.follows_from: dict[Callable, tuple[Callable, ...]] = {}  # see compare.CheckFailed
        self.deadline = time.monotonic() + PART_SECONDS

    def run(self, check: Check) -> str:
        """Run one check. Returns its feedback, empty if it passed."""
        if self.stop_reason:
            return self.stop_reason
        name = zlib.crc32(f"{check.part}/{check.title}".encode())
        rng = np.random.default_rng([self.mark.seed, self.submission.digest, name])
        return printable(self._run_check(check, rng))

    def _run_check(self, check: Check, rng: np.random.Generator) -> str:
        try:
            check.run(self.ask, rng)
            return ""
        except Remark as remark:
            self.mark.notes.append(printable(f"{self.part}: {remark}"))
            return ""
        except CheckFailed as failed:
            self.follows_from[check.run] = failed.follows_from
            return str(failed)
        except StudentError as error:
            return exception_feedback(error, self.part)
        except WorkerDied as error:
            late = time.monotonic() > self.deadline
            return self._restart_worker(f"not finished: {TOO_SLOW}" if late else f"your code {error}")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
            return self._restart_worker(f"the result of your code cannot be used ({type(error).__name__}: {error})")

    def ask(self, task: str, arrays: dict | None = None, **settings) -> tuple[dict, dict]:
        if self.worker is None:
            self._start()
        return self.worker.ask(task, arrays, timeout=self._seconds_left(), **settings)

    def _seconds_left(self) -> float:
        """For the next reply: no check may outlast its part by many slow replies. Raises CheckFailed."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            self.stop_reason = f"not run: {TOO_SLOW}"
            raise CheckFailed(f"not finished: {TOO_SLOW}")
        return min(left, REPLY_TIMEOUT)

    def _start(self) -> None:
        try:
            self.worker = self._new_worker()
            self.level = self.worker.level
            self.worker.ask("load", timeout=self._seconds_left(), seed=self.mark.seed)
        except StudentError as error:
            self.import_failed = error.kind != "Forbidden"  # convolutions are disabled in this part only
            self.stop_reason = f"importing student_code.py {exception_feedback(error, self.part, importing=True)}"
            raise CheckFailed(self.stop_reason) from None
        except WorkerDied as error:
            self.import_failed = True
            self.stop_reason = f"importing student_code.py {error}"
            raise CheckFailed(self.stop_reason) from None

    def _new_worker(self) -> Worker:
        """A worker, at the second attempt if need be. Raises GraderFailed: the grader's failure is never a mark."""
        try:
            return Worker(self.submission.code, self.helpers, self.part)
        except GraderFailed:
            return Worker(self.submission.code, self.helpers, self.part)

    def _restart_worker(self, feedback: str) -> str:
        """Stop the worker, so that the next request starts another. Returns `feedback`."""
        self.close()
        self.worker_deaths += 1
        if self.worker_deaths >= MAX_WORKER_DEATHS:
            self.stop_reason = f"not run: {MAX_WORKER_DEATHS} checks of this part ended without a reply"
        return feedback

    def close(self) -> None:
        if self.worker is not None:
            self.worker.__exit__()
            self.worker = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


def exception_feedback(error: StudentError, part: str, importing: bool = False) -> str:
    """The feedback for an exception of the student's code: what was raised, where, and a hint if there is one."""
    place = [f"{name}:{line}" for name, line, _ in error.where if name == "student_code.py"]
    at = f" ({place[-1]})" if place else ""
    if error.kind == "NotImplementedError":
        return f"is not written yet{at}: {error.text}" if error.text else f"is not written yet{at}"
    if error.kind == "Missing":
        return error.text
    if error.kind == "Forbidden" and importing:
        return (f"uses a convolution function{at}: {error.text}. Tests of your own belong under if __name__ == "
                "'__main__':")
    if error.kind == "Forbidden":
        return f"uses a convolution function{at}: {error.text}"
    source = next((text for name, _, text in reversed(error.where) if name == "student_code.py" and text), "")
    hints = {**HINTS, **HINTS_FOR.get(part, {})}
    hint = next((f". {hint}" for words, hint in hints.items() if words in f"{error.kind}: {error.text}"), "")
    return f"raises {error.kind}: {error.text[:300]}{at}{f', in `{source[:100]}`' if source else ''}{hint}"


FILE_OF_2023 = ("cannot import name 'Attention' from 'custom_blocks'",
                "cannot import name 'TransformerBlock' from 'custom_blocks'")
HINTS = {
    "view size is not compatible": "A gradient or a permuted tensor need not be contiguous: reshape() where view() "
                                   "cannot",
    "is a view and is being modified inplace": "The output of forward is a view, which a following "
                                               "ReLU(inplace=True) may not modify: return a new tensor, as "
                                               ".clone() or .contiguous() make",
    "returned an incorrect number of gradients": "backward returns one gradient for each argument of forward: five, of "
                                                 "which the last two are None",
    "missing 1 required positional argument: 'normalize'": "Is it called while importing?",
    "No module named": "The grader has Python's standard library, torch, torchvision, numpy, OpenCV and the files of "
                       "code/; put your own modules into code/",
}
HINTS_FOR = {"adversarial": {
    "maximum recursion depth": "Does forward call the attack, which calls forward, which calls the attack? Attack "
                               "only if self.training, and in evaluation mode"}}


def fingerprint(path: Path) -> str:
    """SHA-256 of a zip's content, or of the names, sizes and modification times of a folder's files."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = [(str(name), size, (path / name).stat().st_mtime_ns) for name, size in FolderSource(path).files.items()]
    return hashlib.sha256(repr(files).encode()).hexdigest()
