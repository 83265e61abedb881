"""Run every command of the sheet in a starter in which exactly the parts of its sheet are written, on little data."""

import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import NamedTuple

from autograder import rubric
from autograder.solution import StarterError, student_text


class Step(NamedTuple):
    """A command of main.py: its flags, files that it leaves in its run folder, words that it prints, its exit code."""

    flags: str
    files: tuple[str, ...]
    words: str
    code: int = 0
    killed: bool = False  # killed after its words are printed


TRAINED = "models/checkpoint.pth.tar", "models/model_best.pth.tar", "results.json", "curves.png"
SEEN = "results.json", "images/Org_Image_0000.png"
# In the order of the sheet; {last} is the checkpoint of an interrupted training, {best} that of a whole one.
STEPS = {
    "SimpleNet": Step("--epochs 1", TRAINED, "epoch 1/1 val"),
    "evaluation": Step("--resume {best} -e", ("results.json",), "with horizontal flip averaged"),
    "evaluation with -v": Step("--resume {best} -e -v", SEEN, "single view"),
    "interruption": Step("--epochs 20", ("models/checkpoint.pth.tar",), "epoch 2/20 train", code=-9, killed=True),
    "resuming": Step("--resume {last} --epochs 3", TRAINED, "epoch 3/3 val"),
    "own convolution": Step("--epochs 1 --use-custom-conv", TRAINED, "epoch 1/1 val"),
    "own network": Step("--epochs 1 --model customnet", TRAINED, "epoch 1/1 val"),
    "ResNet18 without a network": Step("--epochs 1 --use-resnet18", (), "cannot be downloaded", code=2),
    "vision transformer": Step("--epochs 1 --wd 0.05 --lr 0.01 --use-vit", TRAINED, "epoch 1/1 val"),
    "attack with -v": Step("--resume {best} -a -v", (*SEEN, "images/Adv_Image_0000.png", "attack.png"), "difference"),
    "adversarial training": Step("--epochs 1 --model adv-simplenet", TRAINED, "epoch 1/1 val"),
}
NO_SALIENCY = "note: no saliency maps"
TIMEOUT = 600  # seconds for one command


def every_command_works(tree: Path, year: int = 2025) -> None:
    """Write the parts of the sheet into a copy's student_code.py and run the commands. Raises StarterError."""
    with tempfile.TemporaryDirectory(prefix="sheet-") as folder:
        work = Path(folder) / "homework"
        work.mkdir()
        for name in ("code", "zip_submission.py", "writeup", "results"):
            copy(tree / name, work / name)
        (work / "code/student_code.py").write_text(student_text(year, written=True), encoding="utf-8")
        run(work, "demo data", "-m demo.data ../data/demo --train 40 --val 20")
        run(work, "test_conv.py", "test_conv.py")
        run(work, "check.py", "check.py")
        for name, step in STEPS.items():
            printed = run_step(work, name, step)
            if "-v" in step.flags.split():
                check_saliency(logs_of(work, name), printed, written="saliency" in rubric.manual(year))
        check_zip(work)


def copy(source: Path, target: Path) -> None:
    """Like `cp -r`, without caches."""
    paths = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in paths if source.is_dir() else [source]:
        copied = target / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())


def run(work: Path, name: str, command: str, code: int = 0, kill_at: str = "") -> str:
    """Run `python COMMAND` in code/ without a way into the network, and kill it when it prints `kill_at`.

    Returns what it printed. Raises StarterError.
    """
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **nowhere, "no_proxy": "", "TORCH_HOME": str(work / "no-weights")}
    with subprocess.Popen([sys.executable, "-B", *command.split()], cwd=work / "code", env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        timer = threading.Timer(TIMEOUT, process.kill)
        timer.start()
        printed = ""
        for line in process.stdout:
            printed += line
            if kill_at and kill_at in line:
                process.kill()
        timer.cancel()
    if process.returncode != code or "Traceback" in printed:
        raise StarterError(f"{name}: python {command} ends with exit code {process.returncode}, expected {code}: "
                           f"{printed.strip()[-800:]}")
    return printed


def run_step(work: Path, name: str, step: Step) -> str:
    """Run main.py; its run folder is in logs/NAME. Returns what it printed. Raises StarterError."""
    logs = logs_of(work, name)
    last, best = (next(iter(logs_of(work, of).glob(f"exp_*/models/{file}.pth.tar")), Path())
                  for of, file in (("interruption", "checkpoint"), ("SimpleNet", "model_best")))
    flags = step.flags.format(last=last, best=best)
    printed = run(work, name, f"main.py ../data/demo {flags} -b 20 -p 1 --logs {logs}", step.code,
                  kill_at=step.words if step.killed else "")
    if step.words not in printed:
        raise StarterError(f"{name}: prints no {step.words!r}: {printed[-800:]}")
    for file in step.files:
        if not list(logs.glob(f"exp_*/{file}")):
            raise StarterError(f"{name}: leaves no {file} in its run folder")
    events = b"".join(path.read_bytes() for path in logs.glob("exp_*/events.out.tfevents.*"))
    if step.files == TRAINED and b"data/training_loss" not in events:
        raise StarterError(f"{name}: TensorBoard's event file has no data/training_loss")
    return printed


def logs_of(work: Path, name: str) -> Path:
    return work / "logs" / name.replace(" ", "_")


def check_saliency(logs: Path, printed: str, written: bool) -> None:
    """Saliency that is not on the sheet is a note. Raises StarterError."""
    if (NO_SALIENCY in printed) == written or bool(list(logs.glob("exp_*/saliency.png"))) != written:
        raise StarterError(f"{logs.name}: {'no saliency.png' if written else f'should print {NO_SALIENCY!r}'}: "
                           f"{printed[-800:]}")


def check_zip(work: Path) -> None:
    """zip_submission.py packs the work, and names no part of the sheet as unwritten. Raises StarterError."""
    (work / "writeup/report.pdf").write_bytes(b"%PDF-1.4\n" + b"0" * 2000)
    printed = run(work, "zip_submission.py", "../zip_submission.py")
    unwritten = [line for line in printed.splitlines() if "not written yet" in line and "GradAttention" not in line]
    with zipfile.ZipFile(work / "submission.zip") as archive:
        names = set(archive.namelist())
    missing = {"code/student_code.py", "code/main.py", "writeup/report.pdf"} - names
    extra = [name for name in names if name.split("/")[0] not in ("code", "writeup", "results")]
    if unwritten or missing or extra:
        raise StarterError(f"zip_submission.py: {[*unwritten, *missing, *extra]}")
