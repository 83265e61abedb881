"""One worker process and the conversation with it: questions with a deadline, restarts, what it left behind."""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from autograder import wire

WORKER = Path(__file__).resolve().parent / "worker" / "__main__.py"
# One thread, for the sandbox; the same order of sets for all.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
               "PATH": os.defpath, "LANG": "C.UTF-8"}
LIMITS = {"CPU": 120, "DATA": 2 << 30, "FSIZE": 64 << 20, "CORE": 0, "NOFILE": 256}  # s, bytes, bytes, bytes, files
START, ANSWER = 60.0, 20.0  # seconds: to start and import torch; for one answer
SCRATCH = 256 << 20  # bytes of files that a worker may write


class Died(Exception):
    """The worker gave no answer; the message is the rest of a sentence that begins with what was asked."""


class StudentError(Exception):
    """Student code raised. `kind` is the exception's name, `where` the lines it passed through in their files."""

    def __init__(self, kind: str, text: str, where: list):
        super().__init__(f"{kind}: {text}")
        self.kind, self.text, self.where = kind, text, where


def student_error(error: dict) -> StudentError:
    """What a worker says was raised. It may say anything."""
    try:
        where = [(str(name), int(line), str(text)) for name, line, text in error["where"][:3]]
        return StudentError(str(error["type"])[:100], str(error["text"])[:1000], where)
    except (KeyError, TypeError, ValueError) as wrong:
        raise Died(f"was answered by something that is no answer ({wrong})") from None


class Worker:
    """A process that has imported one submission's student_code.py. Use it as a context manager."""

    def __init__(self, code: Path, helpers: Path, part: str):
        self.count = 0
        self.scratch = tempfile.mkdtemp(prefix="grading-")
        environment = {**ENVIRONMENT, "HOME": self.scratch, "TMPDIR": self.scratch}
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-B", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            stderr=subprocess.DEVNULL, cwd=self.scratch, env=environment, start_new_session=True)
        self.arrived: queue.Queue[bytes] = queue.Queue(64)  # a thread reads: Windows cannot wait for a pipe otherwise
        self.rest = bytearray()
        threading.Thread(target=self._read_replies, daemon=True).start()
        try:
            self.level = self._start(code, helpers, part)
        except BaseException:
            self.close()
            raise

    def _start(self, code: Path, helpers: Path, part: str) -> dict:
        """Send the settings; what confines the worker comes back."""
        return self._talk({"student": str(code), "helpers": str(helpers), "scratch": self.scratch,
                           "readable": [str(code), str(helpers), *READABLE], "limits": LIMITS,
                           "part": part}, {}, START)[0].get("level", {})

    def ask(self, task: str, arrays: dict[str, np.ndarray] | None = None, **settings) -> tuple[dict, dict]:
        """Facts and arrays for one task (worker/tasks.py). Raises StudentError, or Died."""
        self.count += 1
        head, results = self._talk({"id": self.count, "task": task, "settings": settings}, arrays or {}, ANSWER)
        if head.get("id") != self.count:
            raise Died("was answered out of turn: something wrote into the grader's pipe")
        if "error" in head:
            raise student_error(head["error"])
        if not isinstance(head.get("facts"), dict):
            raise Died("was answered by something that is no answer")
        return head["facts"], results

    def _talk(self, head: dict, arrays: dict, seconds: float) -> tuple[dict, dict]:
        try:
            threading.Thread(target=self._write, args=(wire.pack(head, arrays),), daemon=True).start()
            return wire.unpack(self._reader(time.monotonic() + seconds))
        except TimeoutError:
            self.close()
            raise Died(f"took longer than {seconds:.0f} s and was stopped") from None
        except EOFError:
            raise Died(self._obituary()) from None
        except (wire.BadFrame, KeyError, TypeError) as error:
            self.close()
            raise Died(f"was answered by something that is no answer ({error})") from None

    def _write(self, frame: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is gone: the reader notices, and says how it ended
            self.process.stdin.write(frame)

    def _read_replies(self) -> None:
        """Into `arrived`, which has an end, so that a worker that writes for ever waits; at the end, nothing."""
        with contextlib.suppress(OSError, ValueError):
            while piece := self.process.stdout.read(1 << 20):
                self.arrived.put(piece)
        self.arrived.put(b"")

    def _reader(self, deadline: float):
        def read(size: int) -> bytes:
            while len(self.rest) < size:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                try:
                    piece = self.arrived.get(timeout=min(left, 1.0))
                except queue.Empty:
                    self._measure_scratch()
                    continue
                if not piece:
                    raise EOFError
                self.rest += piece
            data, self.rest = bytes(self.rest[:size]), self.rest[size:]
            return data

        return read

    def _measure_scratch(self) -> None:
        """A limit for each file is none for all of them."""
        total = 0
        for parent, _, files in os.walk(self.scratch):
            for name in files:
                with contextlib.suppress(OSError):  # gone meanwhile
                    total += (Path(parent) / name).stat().st_size
        if total > SCRATCH:
            self.close()
            raise Died(f"wrote more than {SCRATCH >> 20} MB of files and was stopped")

    def _obituary(self) -> str:
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return "closed the grader's pipe and went on"
        if code >= 0:
            return f"ended the process (exit code {code}) without an answer"
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        why = {"SIGKILL": ", perhaps for lack of memory", "SIGXCPU": ": too much processor time",
               "SIGXFSZ": ": too large a file"}.get(name, "")
        return f"ended the process ({name}{why}) without an answer"

    def close(self) -> None:
        """End the process and everything that it started in its session, and remove its scratch folder."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(queue.Empty):  # the thread that reads may wait for room
            while True:
                self.arrived.get_nowait()
        try:
            shutil.rmtree(self.scratch, ignore_errors=True)
        except RecursionError:  # a thousand folders, one in the other
            subprocess.run(["rm", "-rf", self.scratch])

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()


def _readable() -> list[str]:
    """What Python and torch read: themselves, the system's libraries, what the machine is."""
    python = {sys.prefix, sys.base_prefix, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))}
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime",
              "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu", "/dev/null", "/dev/urandom")
    return sorted(python) + list(system)


READABLE = _readable()
