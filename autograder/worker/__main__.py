"""The worker process: python -s autograder/worker/__main__.py, with frames (wire.py) on stdin and stdout.

The first frame holds the settings (folders, limits, part, key); the reply is the isolation level. Each further frame is
one task. Output of student code is discarded.
"""

import os
import sys
import traceback
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # instead of this script's folder

from autograder import wire  # noqa: E402
from autograder.worker import graft, kernels, sandbox, tasks  # noqa: E402


def main() -> None:
    requests, replies = redirect_stdio()
    settings, _ = wire.unpack(requests)
    for folder in (settings["helpers"], settings["student"]):
        sys.path.append(folder)
    os.chdir(settings["scratch"])
    graft.load_replacements(settings["part"])
    if settings["part"] == "convolution":
        kernels.disable_convolutions()
    sign = wire.signer(bytes.fromhex(settings.pop("key")))
    hide_grader()
    level = sandbox.confine(settings["readable"], [settings["scratch"], "/dev/null"], settings["limits"])
    replies.write(sign(wire.pack({"level": level}, {})))
    warnings.simplefilter("ignore")
    while True:
        try:
            request, arrays = wire.unpack(requests)
        except EOFError:
            return
        replies.write(sign(answer(request, arrays, settings["student"])))


def hide_grader() -> None:
    """Remove the grader from sys.path and sys.modules: not importable, and its module names are free."""
    sys.path.remove(str(ROOT))
    for name in [name for name in sys.modules if name.split(".")[0] == "autograder"]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")


def redirect_stdio():
    """Move the pipes to other file descriptors, so that print() cannot write to them. Returns read(n) and a stream."""
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
    """Run one task. Returns the reply as a frame; an exception becomes an error reply."""
    try:
        facts, results = tasks.TASKS[request["task"]](arrays, **request["settings"])
        return wire.pack({"id": request["id"], "facts": facts}, results)
    except BaseException as error:
        return wire.pack({"id": request["id"], "error": describe(error, student)}, {})


def describe(error: BaseException, student: str) -> dict:
    """The exception's type and text, and its last three frames in the student's files."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(student)]
    where = [[Path(frame.filename).name, frame.lineno or 0, frame.line or ""] for frame in frames[-3:]]
    if isinstance(error, SyntaxError) and error.filename and str(error.filename).startswith(student):
        where = [[Path(error.filename).name, error.lineno or 0, (error.text or "").strip()]]
    return {"type": type(error).__name__, "text": str(error)[:1000], "where": where}


main()
