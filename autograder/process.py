"""One worker process: requests with a timeout, resource limits, exit status, cleanup."""

import contextlib
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

import numpy as np

from autograder import wire

WORKER = Path(__file__).resolve().parent / "worker" / "__main__.py"
# One thread, because Landlock must be set before a second one starts; a fixed hash seed for reproducible set order.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0",
               "TORCHDYNAMO_DISABLE": "1", "PATH": os.defpath, "LANG": "C.UTF-8"}
# RLIMIT_*: seconds, bytes, bytes, bytes, files
RESOURCE_LIMITS = {"CPU": 120, "DATA": 2 << 30, "FSIZE": 64 << 20, "CORE": 0, "NOFILE": 256}
START_TIMEOUT, REPLY_TIMEOUT = 60.0, 20.0  # seconds: start and import torch; one reply
MAX_SCRATCH, MAX_THREADS = 256 << 20, 64  # bytes, all files in the scratch folder together; threads


class WorkerDied(Exception):
    """The worker gave no valid reply. The message completes "your code ..."."""


class GraderFailed(Exception):
    """The grader itself failed, before any student code ran: no result, and not the submission's fault."""


class StudentError(Exception):
    """Student code raised. `kind`: exception class; `where`: (file, line, source) frames in the student's files."""

    def __init__(self, kind: str, text: str, where: list):
        super().__init__(f"{kind}: {text}")
        self.kind, self.text, self.where = kind, text, where


def parse_student_error(error: dict) -> StudentError:
    """The exception that an (untrusted) error reply describes. Raises WorkerDied if it is malformed."""
    try:
        where = [(str(name), int(line), str(text)) for name, line, text in error["where"][:3]]
        return StudentError(str(error["type"])[:100], str(error["text"])[:1000], where)
    except (KeyError, TypeError, ValueError, OverflowError) as wrong:  # int() of an infinite line number overflows
        raise WorkerDied(f"sent a malformed reply ({wrong})") from None


class Worker:
    """A sandboxed process that runs one submission's code; a context manager.

    `code` and `helpers` are the folders of the student's and the starter's modules, `part` the part that is graded.
    Raises GraderFailed if the process does not start and confine itself: student code is imported only later.
    """

    def __init__(self, code: Path, helpers: Path, part: str):
        self.count, self.key = 0, secrets.token_bytes(32)
        self.scratch = tempfile.mkdtemp(prefix="grading-")
        environment = {**ENVIRONMENT, "HOME": self.scratch, "TMPDIR": self.scratch}
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-B", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            stderr=subprocess.DEVNULL, cwd=self.scratch, env=environment, start_new_session=True)
        self.chunks: queue.Queue[bytes] = queue.Queue(64)  # filled by a thread: Windows has no select() on pipes
        self.buffer = bytearray()
        threading.Thread(target=self._read_replies, daemon=True).start()
        try:
            self.level = self._start(code, helpers, part)
        except WorkerDied as error:
            self.close()
            raise GraderFailed(f"the worker process of the grader {error}, before any student code ran. Do this "
                               f"Python's torch and NumPy work? {sys.executable} -m autograder doctor tells") from None
        except BaseException:
            self.close()
            raise

    def _start(self, code: Path, helpers: Path, part: str) -> dict:
        """Send the settings. Returns the isolation level: name -> True, or why it is not in force."""
        return self._exchange({"student": str(code), "helpers": str(helpers), "scratch": self.scratch,
                               "readable": [str(code), str(helpers), *READABLE_PATHS], "limits": RESOURCE_LIMITS,
                               "part": part, "key": self.key.hex()}, {}, START_TIMEOUT)[0].get("level", {})

    def ask(self, task: str, arrays: dict[str, np.ndarray] | None = None, timeout: float = REPLY_TIMEOUT,
            **settings) -> tuple[dict, dict]:
        """Run a task of worker/tasks.py. Returns facts (JSON) and arrays. Raises StudentError, WorkerDied."""
        self.count += 1
        request = {"id": self.count, "task": task, "settings": settings}
        head, results = self._exchange(request, arrays or {}, timeout)
        if head.get("id") != self.count:
            raise WorkerDied("sent a reply with the wrong id: something wrote into the grader's pipe")
        if "error" in head:
            raise parse_student_error(head["error"])
        if not isinstance(head.get("facts"), dict):
            raise WorkerDied("sent a malformed reply")
        return head["facts"], results

    def _exchange(self, head: dict, arrays: dict, timeout: float) -> tuple[dict, dict]:
        """Send a frame and wait for the reply. Raises WorkerDied."""
        try:
            threading.Thread(target=self._write, args=(wire.pack(head, arrays),), daemon=True).start()
            reply = wire.unpack_signed(self._reader(time.monotonic() + timeout), self.key)
            self._check_usage()
            return reply
        except TimeoutError:
            self.close()
            raise WorkerDied(f"took longer than {timeout:.0f} s and was stopped") from None
        except EOFError:
            raise WorkerDied(self._exit_reason()) from None
        except (wire.BadFrame, KeyError, TypeError) as error:
            self.close()
            raise WorkerDied(f"sent a malformed reply ({error})") from None

    def _write(self, frame: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has exited: the reader reports how
            self.process.stdin.write(frame)

    def _read_replies(self) -> None:
        """Copy stdout into the bounded queue `chunks`, so that endless output blocks the worker; b"" marks EOF."""
        with contextlib.suppress(OSError, ValueError):
            while chunk := self.process.stdout.read(1 << 20):
                self.chunks.put(chunk)
        self.chunks.put(b"")

    def _reader(self, deadline: float):
        def read(size: int) -> bytes:
            while len(self.buffer) < size:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                try:
                    chunk = self.chunks.get(timeout=min(left, 1.0))
                except queue.Empty:
                    self._check_usage()
                    continue
                if not chunk:
                    raise EOFError
                self.buffer += chunk
            data, self.buffer = bytes(self.buffer[:size]), self.buffer[size:]
            return data

        return read

    def _check_usage(self) -> None:
        """Stop the worker if it has too many threads or files: rlimits count threads by user, and each file alone."""
        threads, size = self._threads(), self._scratch_size()
        if threads > MAX_THREADS:
            self._stop(f"started {threads} threads, more than {MAX_THREADS}, and was stopped")
        if size > MAX_SCRATCH:
            self._stop(f"wrote more than {MAX_SCRATCH >> 20} MB of files and was stopped")

    def _stop(self, reason: str) -> NoReturn:
        self.close()
        raise WorkerDied(reason)

    def _threads(self) -> int:
        """The worker's threads; 0 where the system does not tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:")), 0)

    def _scratch_size(self) -> int:
        """Bytes in the scratch folder, from which the sandbox lets nothing be deleted."""
        try:
            folders = os.walk(self.scratch, onerror=_raise)
            files = [os.lstat(Path(parent) / name) for parent, _, names in folders for name in names]
            return sum(max(file.st_size, 512 * getattr(file, "st_blocks", 0)) for file in files)
        except FileNotFoundError:  # without the sandbox: deleted meanwhile
            return 0
        except (OSError, RecursionError):  # nested a thousand deep
            self._stop("made folders that cannot be listed and was stopped")

    def _exit_reason(self) -> str:
        """How the process ended, from its exit status, to complete "your code ..."."""
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return "closed the grader's pipe and kept running"
        if code >= 0:
            return f"ended the process (exit status {code}) without a reply"
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        why = {"SIGKILL": ", perhaps for lack of memory", "SIGXCPU": ": too much processor time",
               "SIGXFSZ": ": too large a file"}.get(name, "")
        return f"ended the process ({name}{why}) without a reply"

    def close(self) -> None:
        """Kill the process group and remove the scratch folder."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(queue.Empty):  # unblock the reader thread
            while True:
                self.chunks.get_nowait()
        try:
            shutil.rmtree(self.scratch, ignore_errors=True)
        except RecursionError:  # folders nested a thousand deep
            subprocess.run(["rm", "-rf", self.scratch])

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()


def _raise(error: OSError) -> None:
    raise error


def _readable_paths() -> list[str]:
    """Paths that Python and torch need: their installation, shared libraries, hardware information."""
    python = {sys.prefix, sys.base_prefix, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))}
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime",
              "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu", "/dev/null", "/dev/urandom")
    return sorted(python) + list(system)


READABLE_PATHS = _readable_paths()
