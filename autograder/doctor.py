"""What the sandbox enforces on this machine: a worker attempts each forbidden operation and reports the outcome."""

import json
import platform
import sys
import tempfile
from pathlib import Path

from autograder import report
from autograder.process import StudentError, Worker, WorkerDied
from autograder.solution import ROOT, write_starter_files

ATTEMPTS = '''
import ctypes, json, os, resource, signal, socket, subprocess, sys, torch
from pathlib import Path

def write_outside(): Path({outside!r}).write_text("x")
def read_the_grader(): Path({grader!r}).read_text()
def open_a_connection(): socket.socket(socket.AF_INET, socket.SOCK_STREAM)
def start_a_program(): subprocess.run(["/bin/true"], check=True)
def fork(): os.fork() or os._exit(0)
def signal_the_grader(): os.kill(os.getppid(), 0)
def raise_its_limits(): resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))
def take_three_gigabytes(): bytearray(3 << 30)
def delete_a_file():
    Path("own").write_text("x")
    Path("own").unlink()
def write_100_megabytes():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("large", "wb") as file: file.truncate(100 << 20)
def use_a_convolution(): torch.nn.functional.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1))

found = {{}}
for attempt in (write_outside, read_the_grader, open_a_connection, start_a_program, fork, signal_the_grader,
                raise_its_limits, take_three_gigabytes, delete_a_file, write_100_megabytes, use_a_convolution):
    try:
        attempt()
        found[attempt.__name__] = "possible"
    except BaseException as error:
        found[attempt.__name__] = "refused: " + type(error).__name__
raise RuntimeError(json.dumps(found))
'''


def examine(args=None) -> int:
    """Print the isolation level and the outcome of each attempt. Returns 0, or 2 if the worker died."""
    print(f"Python {platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        code, outside = Path(folder) / "code", Path(folder) / "outside"
        code.mkdir()
        (code / "student_code.py").write_text(ATTEMPTS.format(outside=str(outside),
                                                              grader=str(ROOT / "autograder/grade.py")))
        write_starter_files(Path(folder) / "helpers")
        try:
            with Worker(code, Path(folder) / "helpers", part="convolution") as worker:
                print(report.isolation(worker.level))
                worker.ask("load", seed=0)
        except StudentError as error:
            found = json.loads(error.text)
        except WorkerDied as died:
            print(f"the worker {died}")
            return 2
    for name, outcome in found.items():
        print(f"  {name.replace('_', ' '):<24}{outcome}")
    possible = [name for name, outcome in found.items() if outcome == "possible"]
    print("all of these are refused to student code" if not possible else
          f"student code could: {', '.join(name.replace('_', ' ') for name in possible)}. Grade untrusted submissions "
          "on Linux 5.13 or newer, or in a disposable container")
    return 0


if __name__ == "__main__":
    sys.exit(examine())
