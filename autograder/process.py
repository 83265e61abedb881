"""One worker process and the conversation with it: questions with a deadline, restarts, what it left behind."""

import contextlib
import os
import select
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
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
LIMITS = {"CPU": 120, "DATA": 2 << 30, "FSIZE": 64 << 20, "CORE": 0, "NOFILE": 256}  # s, bytes, bytes, bytes, files
START, ANSWER = 60.0, 20.0  # seconds: to start and import torch; for one answer
KEPT = 4000  # bytes of what the worker prints


class Died(Exception):
    """The worker gave no answer; the message is the rest of a sentence that begins with what was asked."""


class StudentError(Exception):
    """Student code raised. `kind` is the exception's name, `where` the lines it passed through in their files."""

    def __init__(self, kind: str, text: str, where: list):
        super().__init__(f"{kind}: {text}")
        self.kind, self.text, self.where = kind, text, where


class Worker:
    """A process that has imported one submission's student_code.py. Use it as a context manager."""

    def __init__(self, code: Path, helpers: Path, forbid_convolution: bool, answer_s: float = ANSWER):
        self.answer_s, self.count = answer_s, 0
        self.scratch = tempfile.mkdtemp(prefix="grading-")
        self.printed = bytearray()
        environment = {**ONE_THREAD, "PATH": os.defpath, "LANG": "C.UTF-8", "HOME": self.scratch,
                       "TMPDIR": self.scratch}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            stderr=subprocess.PIPE, cwd=self.scratch, env=environment, start_new_session=True)
        threading.Thread(target=self._keep_what_it_prints, daemon=True).start()
        self.level = self._talk({"student": str(code), "helpers": str(helpers), "scratch": self.scratch,
                                 "readable": [str(code), str(helpers), *READABLE], "limits": LIMITS,
                                 "forbid_convolution": forbid_convolution}, {}, START)[0].get("level", {})

    def ask(self, task: str, arrays: dict[str, np.ndarray] | None = None, **settings) -> tuple[dict, dict]:
        """Facts and arrays for one task (worker/tasks.py). Raises StudentError, or Died."""
        self.count += 1
        head, results = self._talk({"id": self.count, "task": task, "settings": settings}, arrays or {}, self.answer_s)
        if head.get("id") != self.count:
            raise Died("was answered out of turn: something wrote into the grader's pipe")
        if "error" in head:
            error = head["error"]
            raise StudentError(str(error["type"])[:100], str(error["text"])[:1000], list(error["where"])[:3])
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

    def _reader(self, deadline: float):
        handle = self.process.stdout.fileno()

        def read(size: int) -> bytes:
            data = bytearray()
            while len(data) < size:
                if not select.select([handle], [], [], max(0, deadline - time.monotonic()))[0]:
                    raise TimeoutError
                piece = os.read(handle, min(size - len(data), 1 << 20))
                if not piece:
                    raise EOFError
                data += piece
            return bytes(data)

        return read

    def _obituary(self) -> str:
        code = self.process.wait(10)
        if code >= 0:
            return f"ended the process (exit code {code}) without an answer"
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        why = {"SIGKILL": ", perhaps for lack of memory", "SIGXCPU": ": too much processor time",
               "SIGXFSZ": ": too large a file"}.get(name, "")
        return f"ended the process ({name}{why}) without an answer"

    def _keep_what_it_prints(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while piece := self.process.stderr.read(1 << 16):
                self.printed = (self.printed + piece)[-KEPT:]

    def close(self) -> None:
        """End the process and everything that it started in its session, and remove its scratch folder."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

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
