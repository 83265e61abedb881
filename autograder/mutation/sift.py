"""Sift solutions by what they compute: "wrong", "crash", or "equal" to a correct one, by running both (`probe/`).

The rule. A solution is wrong if it differs beyond rounding from the correct one that it was made from, with equal
weights, in float32, in anything that the sheet's training uses: outputs, gradients of parameters and inputs, both
modes, batches of one, odd batches and sizes, large numbers, another call before or between, save and reload, steps of
an optimiser, and what must be left as it was (inputs, modes, gradients, global settings). Not compared, because the
sheet leaves them free: the initial weights and the order of making them, the random stream of stochastic depth (the set
of results and their frequencies are compared), errors for invalid arguments, half precision, second derivatives, image
sizes other than img_size, and in adversarial training the number and size of the steps (whether each image is attacked
within bounds and downhill is compared). Where the sheet's words allow a difference, `equivalent.txt` says so with the
reason.

A solution that raises in every scenario is a crash: wrong, but easy. Verdicts are kept in a folder for temporary files,
by a hash of both sources and of the probe.
"""

import getpass
import hashlib
import json
import os
import queue
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from autograder.process import ENVIRONMENT, READABLE_PATHS
from autograder.solution import write_starter_files

HERE = Path(__file__).resolve().parent
PROBE = HERE / "probe" / "__main__.py"
PROBE_TEXT = "".join(path.read_text(encoding="utf-8") for path in sorted((HERE / "probe").glob("*.py")))


class Question(NamedTuple):
    """Is the solution `files` (file name -> text) the same as the correct student_code.py `base`?"""

    part: str
    base: str
    files: dict[str, str]
    names: dict[str, str] | None = None  # what a rewriting's parameters are made of: probe/compare.py

    @property
    def key(self) -> str:
        content = json.dumps([self.part, self.base, self.files, self.names, PROBE_TEXT], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


class Probe:
    """A process that answers questions, one after the other. A context manager."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="sift-")
        self.helpers, self.scratch = Path(self.folder.name) / "helpers", Path(self.folder.name) / "scratch"
        self.scratch.mkdir()
        write_starter_files(self.helpers)
        self.count = 0
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-B", str(PROBE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, cwd=self.scratch, env={**ENVIRONMENT, "TMPDIR": str(self.scratch)})
        self._send({"helpers": [str(self.helpers)], "readable": [str(self.helpers), *READABLE_PATHS]})

    def ask(self, question: Question) -> list[str]:
        """[verdict, first difference]. Raises RuntimeError if the probe itself ends."""
        self.count += 1
        base = self._write(f"base-{hashlib.sha256(question.base.encode()).hexdigest()[:16]}-{question.part}",
                           {"student_code.py": question.base})
        self._send({"part": question.part, "base": base, "folder": self._write(str(self.count), question.files),
                    "names": question.names})
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the probe of {question.part} ended, status {self.process.wait()}: its base fails?")
        return json.loads(line)

    def _write(self, name: str, files: dict[str, str]) -> str:
        folder = Path(self.folder.name) / name
        folder.mkdir(exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        return str(folder)

    def _send(self, request: dict) -> None:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()


def sift(questions: list[Question], jobs: int = 1, progress: Callable[[int], None] = lambda left: None) -> list:
    """[verdict, first difference] of each question, from the kept ones where there are any."""
    answers = {question.key: kept(question.key) for question in questions}
    waiting: queue.SimpleQueue[Question] = queue.SimpleQueue()
    for question in {question.key: question for question in questions if answers[question.key] is None}.values():
        waiting.put(question)

    def work(_) -> None:
        if waiting.empty():
            return
        with Probe() as probe:
            while True:
                try:
                    question = waiting.get_nowait()
                except queue.Empty:
                    return
                answers[question.key] = probe.ask(question)
                keep(question.key, answers[question.key])
                progress(waiting.qsize())

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, range(jobs)))
    return [answers[question.key] for question in questions]


def store() -> Path:
    folder = Path(tempfile.gettempdir()) / f"autograder-sift-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def kept(key: str) -> list[str] | None:
    path = store() / f"{key}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def keep(key: str, answer: list[str]) -> None:
    path = store() / f"{key}.json"
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(answer), encoding="utf-8")
    os.replace(part, path)


class Allowed(NamedTuple):
    """Patterns (fnmatch) of mutants that the sheet's words allow."""

    part: str
    operator: str
    line: str
    what: str
    reason: str


def allowed() -> list[Allowed]:
    """The entries of equivalent.txt: part | operator | line | what | reason."""
    lines = (HERE / "equivalent.txt").read_text(encoding="utf-8").splitlines()
    return [Allowed(*(word.strip() for word in line.split("|", 4))) for line in lines
            if line.strip() and not line.startswith("#")]


def is_allowed(mutant, entries: list[Allowed]) -> bool:
    return any(fnmatchcase(mutant.part, entry.part) and fnmatchcase(mutant.operator, entry.operator)
               and fnmatchcase(mutant.line, entry.line) and fnmatchcase(mutant.what, entry.what) for entry in entries)
