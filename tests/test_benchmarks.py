"""Every benchmark runs at a small size and writes its figures, whose values are not tested."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, write_scenes

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench_attack
import bench_checkpoint
import bench_conv
import bench_data
import bench_grade
import bench_time_to_accuracy
import bench_train
import bench_vit
import measure

pytestmark = pytest.mark.slow


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """Run a benchmark's main with flags; the JSON that it writes."""

    def run(module, *flags) -> dict:
        file = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, flags), "--json", str(file)])
        module.main()
        return json.loads(file.read_text())

    return run


def test_conv(figures, monkeypatch):
    monkeypatch.setattr(measure, "peak_memory", lambda *_: 100.0)
    found = figures(bench_conv, "--rounds", 1, "--batch", 1, "--device", "cpu")
    for conv in ("unfold", "flat"):
        for number_type in ("fp32", "bf16"):
            assert {"time_ratio", "best_ratio", "memory_ratio"} <= set(found[conv][number_type])
    assert found["flat"]["fp32"]["memory_ratio"] == 1.0
    assert {"date", "commit", "cpu", "torch", "command"} <= set(found["machine"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of a process")
def test_peak_memory_of_a_subprocess():
    """One image with the assignment's convolution: more than nothing, and less than a gigabyte."""
    flags = "--memory unfold fp32 kept --batch 1 --device cpu".split()
    done = subprocess.run([sys.executable, ROOT / "benchmarks/bench_conv.py", *flags], capture_output=True, text=True,
                          check=True)
    assert 4 < float(done.stdout) < 500


def test_checkpoint(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_checkpoint, "NETWORKS", ("simplenet", "vit"))
    found = figures(bench_checkpoint, "--rounds", 1, "--folder", tmp_path)
    assert found["simplenet"]["megabytes"] > 3
    assert set(found) >= {"simplenet", "vit", "machine"}


def test_data(figures, scenes):
    assert figures(bench_data, "--data", scenes, "--rounds", 1, "--batch", 8, "--device", "cpu")["speedup"] > 0


def test_time_to_accuracy(figures, tmp_path):
    history = [{"epoch": epoch, "val": {"top1": 10.0 * epoch, "top5": 50.0}} for epoch in (1, 2, 3)]
    (tmp_path / "results.json").write_text(json.dumps({"history": history}))
    found = figures(bench_time_to_accuracy, tmp_path / "results.json", "--data", write_scenes(tmp_path, 128, 4),
                    "--rounds", 1, "--batches", 4, "--targets", 15, 99)
    assert found["targets"]["15.0"]["epoch"] == 2
    assert found["targets"]["15.0"]["seconds"] == pytest.approx(sum(found["seconds_by_epoch"][:2]))
    assert found["targets"]["99.0"] is None
    assert found["size_by_epoch"] == [64, 96, 112]


def test_vit(figures):
    found = figures(bench_vit, "--rounds", 1, "--batch", 2, "--device", "cpu")
    assert {"time_ratio", "attention_ratio", "attend_ratio"} <= set(found) & set(found["bf16"])


def test_train(figures, scenes):
    found = figures(bench_train, "--data", scenes, "--rounds", 1, "--batch", 8, "--device", "cpu")
    assert found["speedup"] > 0
    assert 0 <= found["data_wait"] <= 1
    found = figures(bench_train, "--data", scenes, "--accuracy", "--epochs", 1, "--seeds", 2, "--batch", 8)
    assert {"difference", "deviation", "accuracy"} <= set(found)


def test_attack(figures, scenes, drive):
    pytest.importorskip("torchattacks")
    run = drive(scenes, "--epochs", 1, "-b", 8)
    saved = run.folder / "models/model_best.pth.tar"
    found = figures(bench_attack, "--data", scenes, "--resume", saved, "--images", 8, "--batch", 4, "--device",
                    "cpu")
    assert found["time_ratio"] > 0
    assert abs(found["robust_accuracy_difference"]) <= 100


def test_adversarial_training(figures, scenes):
    found = figures(bench_attack, "--data", scenes, "--train", "--epochs", 2, "--steps", 2, "--batch", 8)
    assert {"time_ratio", "robust_accuracy_difference"} <= set(found)


def test_grade(figures, monkeypatch):
    """Submissions with a syntax error, which are graded fast."""
    monkeypatch.setattr(bench_grade, "ENDINGS", ["\n)\n"])
    found = figures(bench_grade, "--rounds", 1, "--hand-ins", 2)
    assert found["batch_seconds"] > 0
    assert 10 < found["largest_process_mb"] < 2000
