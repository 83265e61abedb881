"""What a result depends on (command, commit, versions, processor), peak memory, and JSON that carries them."""

import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision

from libs import hardware
from utils import writing

ROOT = Path(__file__).resolve().parents[2]
FAST_INSTRUCTIONS = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}


def provenance() -> dict:
    """How to repeat a result: command, commit, date, versions, processor and GPU."""
    return {"command": _command(), "commit": _commit(), "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "python": platform.python_version(), "torch": str(torch.__version__),
            "torchvision": torchvision.__version__, "numpy": np.__version__, "opencv": cv2.__version__,
            "cpu": next(_cpuinfo("model name"), platform.processor()), "cores": hardware.cores(),
            "instructions": sorted(FAST_INSTRUCTIONS & set(next(_cpuinfo("flags"), "").split())),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def _command() -> str:
    """The command line; of absolute paths only the last part, since the rest is this machine's."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)  # python -m labs -> labs.__main__
    script = f"-m {module.removesuffix('.__main__')}" if module else _from_code(Path(sys.argv[0]))
    return " ".join(["python", script, *(Path(word).name if word.startswith("/") else word for word in sys.argv[1:])])


def _from_code(script: Path) -> str:
    script = script.resolve()
    return str(script.relative_to(ROOT)) if script.is_relative_to(ROOT / "benchmarks") else script.name


def _commit() -> str | None:
    """Commit of this code, with "+" if it was changed since; None outside a git checkout."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpuinfo(field: str):
    """The values of a field of Linux's /proc/cpuinfo; none elsewhere."""
    path = Path(os.sep, "proc", "cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return (line.split(":", 1)[1].strip() for line in lines if line.startswith(field))


def memory_mb(device: torch.device | str = "cpu", peak: bool = True) -> float | None:
    """MB taken by this process (`peak`: at most, so far), or allocated on a CUDA device; None where it is unknown."""
    if torch.device(device).type == "cuda":
        return (torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated)(device) / 2**20
    status = Path(os.sep, "proc", "self", "status")  # Linux; getrusage would count memory that the parent had taken
    if not status.exists():
        return None
    field = "VmHWM" if peak else "VmRSS"
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field)) / 1024


def write_json(path: Path, content: dict) -> None:
    """Write `content` atomically; NaN and infinity, which JSON does not have, become null."""
    with writing(path) as part:
        part.write_text(json.dumps(_finite(content), indent=1) + "\n", encoding="utf-8")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
