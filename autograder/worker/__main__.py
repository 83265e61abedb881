"""One worker: python -s autograder/worker/__main__.py, with frames (wire.py) on stdin and stdout.

The first frame names the folders, the limits and the part that is graded; the answer to it says what
is in force. Each further frame is one task. What student code prints goes nowhere.
"""

import os
import sys
import traceback
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # in place of the folder of this script

from autograder import wire  # noqa: E402
from autograder.worker import graft, kernels, sandbox, tasks  # noqa: E402


def main() -> None:
    requests, replies = take_over_pipes()
    settings, _ = wire.unpack(requests)
    for folder in (settings["helpers"], settings["student"]):
        sys.path.append(folder)
    os.chdir(settings["scratch"])
    graft.fetch(settings["part"])
    if settings["part"] == "convolution":
        kernels.take_away()
    hide_the_grader()
    level = sandbox.confine(settings["readable"], [settings["scratch"], "/dev/null"], settings["limits"])
    replies.write(wire.pack({"level": level}, {}))
    warnings.simplefilter("ignore")
    while True:
        try:
            request, arrays = wire.unpack(requests)
        except EOFError:
            return
        replies.write(answer(request, arrays, settings["student"]))


def hide_the_grader() -> None:
    """Student code finds nothing of the grader by name, and may have modules of the same names."""
    sys.path.remove(str(ROOT))
    for name in [name for name in sys.modules if name.split(".")[0] == "autograder"]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")


def take_over_pipes():
    """The pipes of the grader as a read function and a stream, moved away from the numbers that print() writes to."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)

    def read(size: int) -> bytes:
        data = requests.read(size)
        if len(data) < size:
            raise EOFError
        return data

    return read, replies


def answer(request: dict, arrays: dict, student: str) -> bytes:
    """Run one task; an error of the student's is an answer as well."""
    try:
        facts, results = tasks.TASKS[request["task"]](arrays, **request["settings"])
        return wire.pack({"id": request["id"], "facts": facts}, results)
    except BaseException as error:
        return wire.pack({"id": request["id"], "error": describe(error, student)}, {})


def describe(error: BaseException, student: str) -> dict:
    """The error, and the last lines of the student's files that it passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(student)]
    where = [[Path(frame.filename).name, frame.lineno or 0, frame.line or ""] for frame in frames[-3:]]
    if isinstance(error, SyntaxError) and error.filename and str(error.filename).startswith(student):
        where = [[Path(error.filename).name, error.lineno or 0, (error.text or "").strip()]]
    return {"type": type(error).__name__, "text": str(error)[:1000], "where": where}


main()
