"""Interrupted at any step and resumed equals never interrupted: tensors, history and TensorBoard's scalars."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import CODE, comparable, newest_in, same, write_scenes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main as driver
from libs import checkpoint
from libs.progress import Progress
from libs.run_folder import RunFolder
from utils import random_state, remove_stale_parts, set_random_state

RUN = "--epochs", 2, "-b", 8, "-p", 2
EVERY_STEP = "--checkpoint-minutes", 1e-9
CLOCKS = {"data/epoch_time", "data/data_wait", "data/images_per_second"}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Curves and confusion matrices take most of a short run."""
    monkeypatch.setattr(RunFolder, "figure", lambda *_: None)


class Crash(BaseException):
    """Ends a run as kill -9 does: nothing is saved on the way out."""


@pytest.fixture
def crash(monkeypatch):
    """crash(n): the n-th training step from now on ends the run before it is saved; crash(None): never."""
    real, left = Progress.update, []

    def update(self, images, **values):
        if "train" in self.title and left:
            left[0] -= 1
            if left[0] == 0:
                raise Crash
        return real(self, images, **values)

    monkeypatch.setattr(Progress, "update", update)
    return lambda step: left.__setitem__(slice(None), [step] if step else [])


@pytest.fixture(scope="module")
def straight(scenes, tmp_path_factory):
    """The folder of RUN, never interrupted."""
    logs = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "figure", lambda *_: None)
        driver.main([str(scenes), "-j", "0", "--gpu", "-1", "--amp", "off", "--logs", str(logs), *map(str, RUN)])
    return next(logs.glob("exp_*"))


def scalars(folder) -> dict:
    """All (step, value) of the event file by tag, but for what a clock said."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in set(events.Tags()["scalars"]) - CLOCKS}


def equal_runs(a, b) -> bool:
    files = [folder / "models" / name for folder in (a, b) for name in (checkpoint.LAST, checkpoint.BEST)]
    return (same(comparable(files[0]), comparable(files[2])) and same(comparable(files[1]), comparable(files[3]))
            and scalars(a) == scalars(b))


def last_of(run):
    return run.folder / "models" / checkpoint.LAST


def crashed_and_resumed(drive, crash, data, steps, flags):
    """Crash at each of `steps`, resuming with --resume auto in between; then finish."""
    for step in steps:
        crash(step)
        with pytest.raises(Crash):
            drive(data, *RUN, *EVERY_STEP, *flags, "--resume", "auto")
    crash(None)
    return drive(data, *RUN, *flags, "--resume", "auto")


@pytest.mark.parametrize(("flags", "steps"), [
    ("", (2, 3)),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("--cache off", (5,)), ("--cache off -j 2", (2, 3)), ("--amp bf16", (3, 2)), ("--use-vit --lr 0.001", (3, 2)),
        ("--recipe fast -b 8", (2, 3)), ("--model customnet --adversarial fast", (2, 3)),
        ("--model adv-simplenet", (2, 3)), ("--adversarial fast --epsilon 0.01", (5,))))])
def test_a_crash_at_any_step_changes_nothing(drive, crash, scenes, straight, tmp_path, flags, steps):
    flags = flags.split()
    expected = drive(scenes, *RUN, *flags, logs=tmp_path / "straight").folder if flags else straight
    resumed = crashed_and_resumed(drive, crash, scenes, steps, flags)
    assert resumed.code == 0, resumed.out
    assert equal_runs(resumed.folder, expected)


@pytest.mark.slow
def test_precision_is_restored(drive, crash, scenes, tmp_path):
    """Validation in fp32 after --amp bf16 made losses differ in the fifth digit."""
    straight = drive(scenes, *RUN, "--amp", "bf16", logs=tmp_path / "straight")
    crash(5)
    with pytest.raises(Crash):
        drive(scenes, *RUN, *EVERY_STEP, "--amp", "bf16")
    crash(None)
    driver.main([str(scenes), "-j", "0", "--gpu", "-1", "--logs", str(tmp_path / "logs"), "--resume", "auto"])
    assert equal_runs(newest_in(tmp_path / "logs").parents[1], straight.folder)


@pytest.mark.slow
def test_the_guard_of_adversarial_training_returns_to_the_same_epoch(drive, crash, scenes, tmp_path, monkeypatch):
    """An epoch that is interrupted, resumed, and then reverted."""
    monkeypatch.setattr("extras.adversarial_training.AdversarialTraining.robust_probes",
                        lambda guard: 2 if guard.best else 20)
    flags = "--adversarial", "fast", "--epochs", 3
    straight = drive(scenes, *RUN, *flags, logs=tmp_path / "straight")
    assert "catastrophic overfitting" in straight.out
    resumed = crashed_and_resumed(drive, crash, scenes, (5, 2), flags)
    assert "catastrophic overfitting" in resumed.out
    assert same(comparable(last_of(resumed)), comparable(last_of(straight)))


def killed(data, logs, flags: str, patience: float, start=(sys.executable,)) -> bool:
    """Run main.py, and kill -9 all of its processes up to `patience` seconds after a step. False if it ended before."""
    command = [*start, "main.py", str(data), *f"--resume auto --gpu -1 --logs {logs} -p 1 {flags}".split()]
    process = subprocess.Popen(command, cwd=CODE, stdout=subprocess.PIPE, text=True, start_new_session=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    with process:
        any(" train [" in line for line in process.stdout)
        time.sleep(random.SystemRandom().uniform(0, patience))
        for number in [*descendants(process.pid), process.pid] if process.poll() is None else []:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return process.wait() != 0


def descendants(process: int) -> list[int]:
    """The processes that it started, and theirs: torchrun's are not in its group."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [number for child in map(int, children) for number in (child, *descendants(child))]


def finish(data, logs, flags: str, start=(sys.executable,)):
    """Run to the end without being killed. Returns the newest run folder."""
    command = [*start, "main.py", str(data), *f"--resume auto --gpu -1 --logs {logs} -p 1 {flags}".split()]
    done = subprocess.run(command, cwd=CODE, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return max(logs.glob("exp_*"), key=lambda folder: (folder / "results.json").exists())


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_run_goes_on_from_inside_its_epoch(drive, scenes, tmp_path):
    """kill -9 from outside, once; the slow tests do it twenty times."""
    flags = "--epochs 400 -b 8 -j 0 --amp off --checkpoint-minutes 0.0001"
    assert killed(scenes, tmp_path / "logs", flags, 0.3)
    saved = checkpoint.load(newest_in(tmp_path / "logs"))
    assert saved["epoch"] or saved["position"]


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize(("flags", "start", "kills"), [
    ("--amp off -j 1", (sys.executable,), 20), ("--amp off --cache off -j 2", (sys.executable,), 5),
    ("--amp bf16 -j 0", (sys.executable,), 5), ("--amp off --model adv-simplenet", (sys.executable,), 5),
    ("--amp off -j 0", TORCHRUN, 5), ("--amp bf16 -j 0", TORCHRUN, 5),
    ("--amp off --model customnet --adversarial fast -j 0", TORCHRUN, 3)])
def test_killed_again_and_again_ends_the_same(tmp_path, flags, start, kills):
    """kill -9 of all processes at random moments, another start after each."""
    flags = f"{flags} --epochs 12 -b 8 --lr 0.01 --checkpoint-minutes 0.003"
    data = write_scenes(tmp_path / "scenes", 96, 12)
    straight = finish(data, tmp_path / "straight", flags, start)
    died = sum(killed(data, tmp_path / "logs", flags, 0.4, start) for _ in range(kills))
    assert died > 0.6 * kills, "it ended too early for that"
    assert equal_runs(finish(data, tmp_path / "logs", flags, start), straight)
    assert not list((tmp_path / "logs").rglob(".*.part"))


def test_random_states_return():
    """Of Python, NumPy and torch, after a way through a file."""
    def draw():
        return random.random(), random.gauss(0, 1), torch.rand(3).tolist(), torch.randn(2).tolist()

    cpu = torch.device("cpu")
    random.gauss(0, 1)  # keeps the second of the pair
    state = random_state(cpu)
    first = draw()
    set_random_state(state, cpu)
    assert draw() == first


# ------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(drive, scenes, straight, monkeypatch, number, code):
    real, calls = Progress.update, []

    def update(self, images, **values):
        calls.append(self.title)
        if len(calls) == 2:
            signal.raise_signal(number)
        return real(self, images, **values)

    monkeypatch.setattr(Progress, "update", update)
    before = signal.getsignal(number)
    stopped = drive(scenes, *RUN)
    assert stopped.code == code
    assert len(calls) == 2, "the step was not the last"
    assert f"0 of 2 epochs are done; to continue: python main.py {scenes} --resume {last_of(stopped)}" in stopped.out
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    resumed = drive(scenes, "--resume", last_of(stopped))
    assert equal_runs(resumed.folder, straight)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes(scenes, tmp_path, number, code):
    """As a terminal sends Ctrl-C, and a scheduler SIGTERM: the loader's processes stay until the step is finished."""
    flags = f"--cache off -j 2 --amp off -b 8 --epochs 400 -p 1 --gpu -1 --logs {tmp_path}".split()
    process = subprocess.Popen([sys.executable, "main.py", str(scenes), *flags], cwd=CODE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, start_new_session=True)
    with process:
        assert any("epoch 2/400 train [2/" in line for line in process.stdout)
        os.killpg(process.pid, number)
        printed = process.stdout.read()
    assert process.returncode == code
    assert "to continue: python main.py" in printed
    assert "Traceback" not in printed


def test_a_second_sigint_leaves_at_once(drive, scenes, monkeypatch):
    calls = []

    def update(self, images, **values):
        calls.append(images)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr(Progress, "update", update)
    stopped = drive(scenes, *RUN)
    assert (stopped.code, len(calls)) == (130, 1)
    assert "nothing is saved yet" in stopped.out


# ----------------------------------------------------------------------------------- which one, and how


def test_auto_takes_the_newest_good_one(drive, scenes, tmp_path):
    logs = tmp_path / "logs"
    nothing = drive(scenes, "--resume", "auto", "-e")
    assert (nothing.code, f"there is no checkpoint in {logs}" in nothing.out) == (2, True)
    first = drive(scenes, "--epochs", 2, "-b", 24, "--resume", "auto", "--warmup", 1)
    assert first.code == 0
    older = first.folder.parent / "exp_0/models" / checkpoint.LAST
    checkpoint.copy(last_of(first), older)
    os.utime(older, (1, 1))
    checkpoint.save(logs / "exp_lab/models", {"state_dict": {}, "model_arch": "mish-plain"}, is_best=False)
    assert newest_in(logs) == last_of(first), "a lab's network is not for main.py"
    assert checkpoint.newest(logs, ["vit"]) is None
    last_of(first).write_bytes(b"PK\3\4 half")
    assert newest_in(logs) == first.folder / "models" / checkpoint.BEFORE, "the one before"
    (first.folder / "models" / checkpoint.BEFORE).unlink()
    assert newest_in(logs) == older
    assert f"parameters, from {older}" in drive(scenes, "--resume", "auto", "-e").out


def test_a_checkpoint_is_newer_than_the_one_it_continues(tmp_path):
    """Even if the clock was set back in between."""
    ahead = time.time() + 3600
    checkpoint.save(tmp_path, {"state_dict": {}}, is_best=False, newer_than=ahead)
    assert (tmp_path / checkpoint.LAST).stat().st_mtime > ahead


@pytest.mark.slow
def test_another_batch_size_begins_the_epoch_again(drive, crash, scenes):
    crash(3)
    with pytest.raises(Crash):
        drive(scenes, *RUN, *EVERY_STEP)
    crash(None)
    resumed = drive(scenes, "--resume", "auto", "-b", 12)
    assert "the epoch that was interrupted begins again" in resumed.out
    assert [row["epoch"] for row in comparable(last_of(resumed))["history"]] == [1, 2]


def test_changed_labels_are_noticed(drive, crash, fresh_scenes):
    crash(2)
    with pytest.raises(Crash):
        drive(fresh_scenes, "--epochs", 1, "-b", 4, *EVERY_STEP)
    crash(None)
    lines = (fresh_scenes / "train.txt").read_text().splitlines()
    (fresh_scenes / "train.txt").write_text("\n".join(lines[:-1]))
    changed = drive(fresh_scenes, "--resume", "auto")
    assert (changed.code, "have changed since: 12 images" in changed.out, "11 images" in changed.out) == (2, True, True)


def test_parts_of_killed_processes_are_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {number: f".checkpoint.pth.tar.{number}.part" for number in (gone.pid, os.getppid())}
    for name in names.values():
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / name).write_bytes(b"half")
    remove_stale_parts(tmp_path)
    assert len(list(tmp_path.rglob("*.part"))) == 2, "written just now, perhaps by another machine"
    for path in tmp_path.rglob("*.part"):
        os.utime(path, (time.time() - 5,) * 2)
    remove_stale_parts(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.part")] == [names[os.getppid()]], "that of a living process stays"
