"""Grade one hand-in: run every part in its own worker, decide here."""

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
from autograder.checks import Check, checks_of
from autograder.compare import Wrong
from autograder.intake import FolderSource, Submission, take_in
from autograder.process import Died, StudentError, Worker
from autograder.solution import write_given
from autograder.text import printable

MAX_DEATHS = 3  # workers that a part may use up before its remaining checks are given up
PART_SECONDS = 120.0


@dataclass
class Verdict:
    """One check: its points, and what is wrong; no feedback means that all is right."""

    title: str
    points: float
    out_of: float
    feedback: str = ""


@dataclass
class PartMark:
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
    """Everything about one graded hand-in."""

    name: str
    seed: int
    parts: list[PartMark] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)  # of the hand-in rules, each worth HAND_IN_PENALTY
    notes: list[str] = field(default_factory=list)
    review: list[str] = field(default_factory=list)  # for staff only
    level: dict = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def penalty(self) -> float:
        return round(len(self.violations) * rubric.HAND_IN_PENALTY * rubric.REGULAR, 2)

    @property
    def points(self) -> float:
        return round(max(0.0, sum(part.points for part in self.parts) - self.penalty), 2)

    def table(self) -> dict:
        return {**asdict(self), "points": self.points}


def new_seed() -> int:
    return secrets.randbelow(2**31)


def grade(path: Path, seed: int, only: list[str] | None = None, year: int = 2025,
          handed_in: bool = False, tell: Callable[[Mark], None] = lambda mark: None) -> Mark:
    """Grade the zip or folder at `path`; `handed_in` says that a folder is an unpacked zip. Raises intake.CannotGrade.

    `only` names the parts that are wanted. `tell` is called after each part.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="handed-in-") as folder:
        code, helpers = Path(folder) / "code", Path(folder) / "helpers"
        code.mkdir()
        submission = take_in(path, code, write_given(helpers, blocks=year <= 2023))
        submission.is_zip |= handed_in
        mark = Mark(printable(submission.name), seed, notes=[printable(note) for note in submission.notes])
        submission.fatal = printable(submission.fatal)
        mark.violations = [] if only else [printable(rule) for rule in hand_in.violations(submission)]
        mark.review = [printable(line) for line in syntax.review(code)]
        for name in only or rubric.PARTS:
            if name in rubric.GIVEN_UNTIL_2023 and year <= 2023:
                mark.parts.append(by_hand(name, f"helper code in {year}: graded by hand"))
                continue
            mark.parts.append(grade_part(name, submission, helpers, mark))
            mark.seconds = round(time.monotonic() - began, 1)
            tell(mark)
        if not only:
            mark.parts += [by_hand(name, "graded by hand") for name in rubric.MANUAL]
    tell(mark)
    return mark


def by_hand(name: str, why: str) -> PartMark:
    points, title = {**rubric.PARTS, **rubric.MANUAL}[name]
    return PartMark(name, title, points, [Verdict(why, 0.0, points)], manual=True)


def grade_part(name: str, submission: Submission, helpers: Path, mark: Mark) -> PartMark:
    """All checks of one part, in one worker as long as it lives."""
    points, title = rubric.PARTS[name]
    began, part = time.monotonic(), PartMark(name, title, points, bonus=name in rubric.BONUS)
    checks = checks_of(name)
    share = points / sum(check.weight for check in checks)
    with Session(submission, helpers, name, mark) as session:
        for check in checks:
            feedback = submission.fatal or session.run(check)
            if name == "convolution" and check.title.startswith("no convolution") and not feedback:
                feedback = convolutions_named(submission)
            part.verdicts.append(Verdict(check.title, 0.0 if feedback else share * check.weight, share * check.weight,
                                         feedback))
        mark.level.update(session.level)
        if session.unimportable:  # the other parts need not wait for the same
            submission.fatal = printable(session.broken)
    part.seconds = round(time.monotonic() - began, 1)
    return part


def convolutions_named(submission: Submission) -> str:
    found = syntax.convolutions(submission.tree) if submission.tree else []
    return "; ".join(f"student_code.py:{line} names {name}, a convolution function, which the sheet does not allow in "
                     "CustomConv2DFunction" for line, name in found[:3])


class Session:
    """Runs checks in a worker, and starts another when one dies."""

    def __init__(self, submission: Submission, helpers: Path, part: str, mark: Mark):
        self.submission, self.helpers, self.part, self.mark = submission, helpers, part, mark
        self.worker: Worker | None = None
        self.deaths, self.level, self.broken, self.unimportable = 0, {}, "", False
        self.deadline = time.monotonic() + PART_SECONDS

    def run(self, check: Check) -> str:
        """The feedback of one check; nothing if it is passed."""
        if self.broken:
            return self.broken
        if time.monotonic() > self.deadline:
            return f"not run: this part took longer than {PART_SECONDS:.0f} s"
        rng = np.random.default_rng([self.mark.seed, zlib.crc32(f"{check.part}/{check.title}".encode())])
        feedback = self._judge(check, rng)
        return printable(feedback)

    def _judge(self, check: Check, rng: np.random.Generator) -> str:
        try:
            check.run(self.ask, rng)
            return ""
        except Wrong as wrong:
            return str(wrong)
        except StudentError as error:
            return raised(error)
        except Died as died:
            return self._bury(f"your code {died}")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
            return self._bury(f"the answer of your code cannot be used ({type(error).__name__}: {error})")

    def ask(self, task: str, arrays: dict | None = None, **settings) -> tuple[dict, dict]:
        if self.worker is None:
            self._start()
        return self.worker.ask(task, arrays, **settings)

    def _start(self) -> None:
        try:
            self.worker = Worker(self.submission.code, self.helpers, self.part)
            self.level = self.worker.level
            self.worker.ask("load", seed=self.mark.seed)
        except StudentError as error:
            self.unimportable = error.kind != "Forbidden"  # elsewhere than here, convolutions are there
            self.broken = f"importing student_code.py {raised(error, importing=True)}"
            raise Wrong(self.broken) from None
        except Died as died:
            self.unimportable = True
            self.broken = f"importing student_code.py {died}"
            raise Wrong(self.broken) from None

    def _bury(self, feedback: str) -> str:
        self.close()
        self.deaths += 1
        if self.deaths >= MAX_DEATHS:
            self.broken = f"not run: {MAX_DEATHS} checks of this part ended without an answer"
        return feedback

    def close(self) -> None:
        if self.worker is not None:
            self.worker.__exit__()
            self.worker = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


def raised(error: StudentError, importing: bool = False) -> str:
    """An exception of the student's code as a sentence, with the place in their file."""
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
    hint = next((f". {hint}" for words, hint in HINTS.items() if words in f"{error.kind}: {error.text}"), "")
    return f"raises {error.kind}: {error.text[:300]}{at}{f', in `{source[:100]}`' if source else ''}{hint}"


HINTS = {
    "view size is not compatible": "A gradient or a permuted tensor need not be contiguous: reshape() where view() "
                                   "cannot",
    "is a view and is being modified inplace": "The output of forward is a view, which ReLU(inplace=True) behind it "
                                               "may not write into: return a tensor of its own, as .clone() or "
                                               "contiguous() make",
    "returned an incorrect number of gradients": "backward returns one value for each argument of forward: five, of "
                                                 "which the last two are None",
    "maximum recursion depth": "Does forward call the attack, which calls forward, which calls the attack? Attack "
                               "only if self.training, and in evaluation mode",
    "cannot import name 'Attention' from 'custom_blocks'": "Attention has been yours to write since 2024; staff grade "
                                                           "files of before with --year 2023",
    "cannot import name 'TransformerBlock' from 'custom_blocks'": "TransformerBlock is in student_code.py since 2025; "
                                                                  "staff grade files of before with --year 2023",
    "missing 1 required positional argument: 'normalize'": "Is it called while importing?",
    "No module named": "The grader has Python's standard library, torch, torchvision, numpy, OpenCV and the files of "
                       "code/; bring your own modules along in code/",
}


def fingerprint(path: Path) -> str:
    """What identifies a hand-in: the zip's content, or the names, sizes and times of a folder's files."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = [(str(name), size, (path / name).stat().st_mtime_ns) for name, size in FolderSource(path).files.items()]
    return hashlib.sha256(repr(files).encode()).hexdigest()
