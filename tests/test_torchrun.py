"""Several processes: the same result as one, one log, one checkpoint; a process that dies; another number of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from conftest import CODE, comparable, newest_in, same, write_scenes

from libs import checkpoint
from libs.hardware import Hardware
from libs.loaders import EpochSampler
from libs.training_state import average_progress

slow = pytest.mark.slow
FLAGS = "-j 0 --gpu -1 --amp off --epochs 3 -b 8 --lr 0.01 -p 1 --checkpoint-minutes 0.001".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """96 training images, and 13 for validation, which two processes cannot divide evenly."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), 96, 13)


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, "--"]


TWO = torchrun("--standalone", "--nproc-per-node=2")


def start(data, logs, *flags, run=TWO) -> subprocess.Popen:
    command = [*(run or [sys.executable]), "main.py", str(data), *FLAGS, "--logs", str(logs), *map(str, flags)]
    return subprocess.Popen(command, cwd=CODE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen) -> str:
    """All that it still prints."""
    printed, _ = process.communicate(timeout=300)
    return printed


def run(data, logs, *flags, run=TWO) -> str:
    process = start(data, logs, *flags, run=run)
    printed = finish(process)
    assert process.returncode == 0, printed
    return printed


def newest(logs):
    return newest_in(logs).parents[1]


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The folder of two processes that nothing interrupts."""
    logs = tmp_path_factory.mktemp("straight")
    run(data, logs)
    folder, = logs.glob("exp_*")
    return folder


def last(folder):
    return comparable(folder / "models" / checkpoint.LAST)


# --------------------------------------------------------------------------------------- without processes


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_number_of_processes_has_the_same_batches(world):
    """A resumed run may have another number: it goes on behind the same images."""
    def global_batches(count: int, size: int = 8) -> list[set]:
        ranks = [EpochSampler(45, seed=1, rank=rank, world=count).indices() for rank in range(count)]
        each = size // count
        return [{i for rank in ranks for i in rank[b * each : (b + 1) * each].tolist()} for b in range(45 // size)]

    assert global_batches(world) == global_batches(1)


def test_running_means_are_divided_among_processes():
    def one(total: float, count: int) -> dict:
        return {"images": count, "batches": 2, "waited": 0.0, "elapsed": 1.0, "meters": {"loss": (total, count)}}

    assert average_progress([one(8.0, 4), one(4.0, 4)], 1) == one(12.0, 8) | {"images": 8}
    assert average_progress([one(12.0, 8)], 2) == one(6.0, 4)


def test_one_process_asks_no_other():
    alone = Hardware(torch.device("cpu"))
    assert (alone.largest(7), alone.gather_objects("x")) == (7, ["x"])


# ------------------------------------------------------------------------------------------ with processes


@slow
def test_two_processes_end_where_one_does(data, straight, tmp_path):
    """Losses up to rounding; accuracies of evaluation and attack identical, over all images exactly once."""
    run(data, tmp_path / "one", run=None)
    one, two = last(newest(tmp_path / "one")), last(straight)
    for a, b in zip(one["history"], two["history"]):
        assert a["train"]["loss"] == pytest.approx(b["train"]["loss"], rel=1e-4)
        assert a["val"]["loss"] == pytest.approx(b["val"]["loss"], rel=1e-4)
    saved = straight / "models" / checkpoint.LAST
    for job in ("-e", "-a"):
        results = []
        for name, how in (("one", None), ("two", TWO)):
            logs = tmp_path / f"{job}{name}"
            run(data, logs, job, "--resume", saved, run=how)
            folder, = logs.glob("exp_*")
            results.append(json.loads((folder / "results.json").read_text()))
        for row in ("alone", "averaged_with_mirror_image") if job == "-e" else ("clean", "adversarial"):
            assert results[0][row]["confusion"] == results[1][row]["confusion"]
            assert sum(map(sum, results[1][row]["confusion"])) == 13
            assert results[0][row]["loss"] == pytest.approx(results[1][row]["loss"], rel=1e-5)


@slow
def test_two_nodes_have_one_log_and_one_checkpoint(data, straight, tmp_path):
    """Two torchruns on this machine, which find each other by address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [start(data, tmp_path, run=torchrun("--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}",
                                                "--master-addr=127.0.0.1", f"--master-port={port}"))
             for rank in (0, 1)]
    printed = [finish(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    folder, = tmp_path.glob("exp_*")
    assert same(last(folder), last(straight))
    assert "epoch 3/3 val" in printed[0]
    assert "epoch 3/3 val" not in printed[1]


def wait_for(process: subprocess.Popen, text: str) -> None:
    assert any(text in line for line in process.stdout), f"never printed {text!r}"


def worker_of(agent: int) -> int:
    """A process that torchrun started: the one of the highest rank."""
    with open(f"/proc/{agent}/task/{agent}/children") as children:  # noqa: PTH123
        return max(map(int, children.read().split()))


@slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_process_that_dies_ends_the_others_with_a_sentence(data, tmp_path):
    process = start(data, tmp_path, "--epochs", 500)
    wait_for(process, "train [3/")
    os.kill(worker_of(process.pid), signal.SIGKILL)
    died = time.monotonic()
    printed = finish(process)
    assert time.monotonic() - died < 60
    assert process.returncode != 0
    assert "main.py: error: another process of this run has ended" in printed
    assert newest_in(tmp_path) is not None


@slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_torchrun_starts_again_and_goes_on(data, straight, tmp_path):
    """--max-restarts with --resume auto: nobody has to look after the run."""
    process = start(data, tmp_path, "--resume", "auto",
                    run=torchrun("--standalone", "--nproc-per-node=2", "--max-restarts=2"))
    wait_for(process, "epoch 2/3 train [3/")
    os.kill(worker_of(process.pid), signal.SIGKILL)
    printed = finish(process)
    assert process.returncode == 0, printed
    assert len(list(tmp_path.glob("exp_*"))) == 2
    assert same(last(newest(tmp_path)), last(straight))


@slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_and_stops(data, straight, tmp_path, number):
    process = start(data, tmp_path, "--checkpoint-minutes", 9)
    wait_for(process, "epoch 1/3 train [3/")
    process.send_signal(number)
    printed = finish(process)
    assert process.returncode != 0
    assert "to continue: torchrun --nproc-per-node 2 -- main.py" in printed
    assert checkpoint.load(newest_in(tmp_path))["position"]["batches"] >= 3
    run(data, tmp_path, "--resume", "auto")
    assert same(last(newest(tmp_path)), last(straight))


@slow
@pytest.mark.parametrize(("before", "after"), [(TWO, None), (None, TWO)])
def test_another_number_of_processes_goes_on(data, straight, tmp_path, before, after):
    """The order of the images is the same; sums are added in another order."""
    process = start(data, tmp_path, run=before)
    wait_for(process, "epoch 2/3 train [3/")
    process.send_signal(signal.SIGTERM)
    finish(process)
    run(data, tmp_path, "--resume", "auto", run=after)
    resumed, expected = last(newest(tmp_path)), last(straight)
    for name, value in expected["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], value, rtol=1e-3, atol=1e-5)
    for a, b in zip(resumed["history"], expected["history"]):
        assert a["train"]["loss"] == pytest.approx(b["train"]["loss"], rel=1e-4)
