"""Compare solutions with a base: JSON lines on stdin, a verdict for each on stdout. python -s -B, in a scratch folder.

A request is {part, base, folder, names}: the folders of two student_code.py, and for a rewriting what each parameter is
made of. Each solution runs in a forked, confined process of its own with a time limit. The verdict is "equal", "wrong"
or "crash" (every scenario raises), with the first difference.
"""

import importlib
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[0] = str(ROOT)

import torch  # noqa: E402
import torchvision.utils  # noqa: E402, F401  (what student_code imports, once for all forks)

from autograder.mutation.probe import compare, layers, models  # noqa: E402
from autograder.worker import sandbox  # noqa: E402

SCENARIOS = {**layers.SCENARIOS, **models.SCENARIOS}
LIMITS = {"CPU": 60, "DATA": 3 << 30, "FSIZE": 64 << 20, "CORE": 0, "NOFILE": 256}
SECONDS = 30.0


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    sys.path += settings["helpers"]
    importlib.import_module("cv2")
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # print() of a solution is no verdict
    bases: dict[str, compare.Expected] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["base"] not in bases:  # the base is the repository's own code: it runs here
            bases[request["base"]] = compare.Expected(SCENARIOS[request["part"]], request["base"])
        replies.write(json.dumps(in_fork(request, bases[request["base"]], settings["readable"])) + "\n")


def in_fork(request: dict, expected: compare.Expected, readable: list[str]) -> list:
    """Run one comparison in a child process. Returns [verdict, first difference]."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            warnings.simplefilter("ignore")
            sandbox.confine([request["folder"], *readable], [str(Path.cwd()), "/dev/null"], LIMITS)
            answer = compare.judge(expected, request["folder"], request.get("names"))
        except BaseException as error:
            answer = ["crash", f"import: {type(error).__name__}: {error}"[:300]]
        os.write(writer, json.dumps(answer).encode()[:60000])
        os._exit(0)
    os.close(writer)
    return _reply(child, reader)


def _reply(child: int, reader: int) -> list:
    """What the child wrote, or how it ended."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            with os.fdopen(reader, "rb") as stream:
                written = stream.read()
            return json.loads(written) if written else ["wrong", "the process ended"]
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    return ["wrong", f"took longer than {SECONDS:.0f} s"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
