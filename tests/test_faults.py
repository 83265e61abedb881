"""What machines and people do to a run, injected one by one: each ends in a sentence, or in nothing but a warning."""

import errno
import json
import os
import shutil
import signal
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import write_scenes
from torch.utils.data import get_worker_info

import main as driver
from custom_dataloader import MiniPlacesLoader
from libs import checkpoint, decoded_cache, events
from libs.faults import explain
from libs.progress import Progress
from libs.run_folder import RunFolder
from student_code import SimpleNet, get_train_transforms
from utils import BadInput, load_image, save_image

RUN = "--epochs", 2, "-b", 4, "-p", 1
EVERY_STEP = "--checkpoint-minutes", 1e-9
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Curves and confusion matrices take most of a short run."""
    monkeypatch.setattr(RunFolder, "figure", lambda *_: None)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("drawn"), 12, 6, classes=3)


@pytest.fixture
def fresh_scenes(drawn, tmp_path) -> Path:
    """A copy, to be spoilt by a test."""
    return Path(shutil.copytree(drawn, tmp_path / "scenes"))


def last_of(run) -> Path:
    return run.folder / "models" / checkpoint.LAST


def failing(real, *which: int):
    """`real`, whose calls of the numbers `which` find the disk full."""
    calls = []

    def function(*arguments, **named):
        calls.append(None)
        if len(calls) in which:
            raise FULL
        return real(*arguments, **named)

    return function


# ------------------------------------------------------------------------------------------------- disks


@pytest.mark.slow
def test_disk_full_while_decoding(drive, fresh_scenes, monkeypatch):
    monkeypatch.setattr(decoded_cache.np, "save", failing(np.save, 1, 2, 3, 4))
    run = drive(fresh_scenes, *RUN)
    assert (run.code, "per image, decoded in each epoch" in run.out) == (0, True)
    assert "decoded images cannot be cached there (No space left on device)" in run.out
    assert not list((fresh_scenes / ".decoded").iterdir())


@pytest.mark.slow
def test_a_data_folder_that_is_read_only(drive, fresh_scenes, monkeypatch):
    real = Path.mkdir

    def mkdir(self, *arguments, **named):
        if ".decoded" in self.parts:
            raise PermissionError(errno.EACCES, "Permission denied")
        real(self, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    run = drive(fresh_scenes, *RUN)
    assert (run.code, "cannot be cached there (Permission denied)" in run.out) == (0, True)


def test_a_logs_folder_that_is_read_only(drive, fresh_scenes, monkeypatch, tmp_path):
    real = Path.mkdir

    def mkdir(self, *arguments, **named):
        if self.name.startswith("exp_"):
            raise PermissionError(errno.EACCES, "Permission denied")
        real(self, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    run = drive(fresh_scenes, *RUN)
    assert (run.code, run.folder) == (2, None)
    assert f"--logs {tmp_path / 'logs'}: no folder can be created there (Permission denied)" in run.out


@pytest.mark.slow
def test_disk_full_once_while_saving(drive, fresh_scenes, monkeypatch):
    monkeypatch.setattr(torch, "save", failing(torch.save, 1))
    run = drive(fresh_scenes, *RUN)
    assert run.code == 0
    assert "warning: the checkpoint could not be written" in run.out
    assert "No space left on device" in run.out
    assert checkpoint.load(last_of(run))["epoch"] == 2


def test_disk_full_twice_while_saving(drive, fresh_scenes, monkeypatch):
    monkeypatch.setattr(torch, "save", failing(torch.save, 2, 3))
    run = drive(fresh_scenes, *RUN, *EVERY_STEP)
    assert run.code == 1
    assert "the checkpoint could not be written twice in a row" in run.out
    assert f"to continue: python main.py {fresh_scenes} --resume {last_of(run)}" in run.out
    assert checkpoint.load(last_of(run))["position"]["batches"] == 1, "the one from before is good"
    assert not list(run.folder.rglob("*.part"))


class FullDisk:
    """A file on a disk that is full after half a record, for the next `failures` writes."""

    def __init__(self, file, failures: int):
        self.file, self.failures = file, failures

    def write(self, data):
        if self.failures:
            self.failures -= 1
            self.file.write(data[: len(data) // 2])
            raise FULL
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("failures", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_disk_full_while_writing_events(drive, fresh_scenes, monkeypatch, failures):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    real = events.EventFile.custom_scalars

    def custom_scalars(self, layout):
        real(self, layout)
        self.file = FullDisk(self.file, failures)

    monkeypatch.setattr(events.EventFile, "custom_scalars", custom_scalars)
    run = drive(fresh_scenes, *RUN)
    assert "warning: TensorBoard's events could not be written" in run.out
    assert run.code == (0 if failures == 1 else 1)
    if failures == 1:
        read = EventAccumulator(str(run.folder)).Reload()
        assert [event.step for event in read.Scalars("data/training_loss")] == [1, 2, 3, 4, 5, 6], "none is lost"
    else:
        assert "TensorBoard's events could not be written twice in a row" in run.out


# ------------------------------------------------------------------------------------------- checkpoints


def test_another_network_and_another_number_of_classes_are_named(drive, fresh_scenes, tmp_path):
    content = {"model_arch": "vit", "settings": {}, "classes": list("abcde"), "state_dict": SimpleNet().state_dict()}
    torch.save(content, tmp_path / "c.pth.tar")
    run = drive(fresh_scenes, "-e", "--resume", tmp_path / "c.pth.tar", "--model", "simplenet")
    assert "(vit, 5 classes; this is simplenet, 3 classes): does not fit SimpleNet" in run.out


def test_a_checkpoint_that_names_the_one_before(drive, fresh_scenes):
    run = drive(fresh_scenes, *RUN)
    damaged = last_of(run).read_bytes()
    with zipfile.ZipFile(last_of(run)) as archive:
        record = max(archive.infolist(), key=lambda item: item.file_size)
    middle = record.header_offset + record.file_size // 2
    last_of(run).write_bytes(damaged[:middle] + bytes([damaged[middle] ^ 1]) + damaged[middle + 1 :])
    again = drive(fresh_scenes, "--resume", last_of(run), "--epochs", 3)
    assert again.code == 2
    assert f"This one is whole: {run.folder / 'models' / checkpoint.BEFORE}" in again.out


# ------------------------------------------------------------------------------------------------ images


@pytest.fixture
def vanishing(monkeypatch):
    """vanishing(function): it is called after the first training step."""
    real, files = Progress.update, []

    def update(self, images, **values):
        while files:
            files.pop()()
        return real(self, images, **values)

    monkeypatch.setattr(Progress, "update", update)
    return files.append


@pytest.mark.parametrize("how", ["vanishes", pytest.param("breaks", marks=pytest.mark.slow)])
@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_an_image_that_vanishes_or_breaks_during_training(drive, fresh_scenes, vanishing, how, policy):
    path = MiniPlacesLoader(fresh_scenes).path(5)
    vanishing(path.unlink if how == "vanishes" else lambda: path.write_bytes(b"half"))
    run = drive(fresh_scenes, *RUN, "--cache", "off", "--bad-images", policy)
    if policy == "fail":
        assert run.code == 1
        assert f"train.txt:6: {path}: " in run.out
    else:
        assert run.code == 0, run.out
        assert f"note: 1 images cannot be used and are left out: {path}" in run.out
        assert json.loads((run.folder / "results.json").read_text())["left_out"] == {"train": [str(path)], "val": []}


@pytest.mark.parametrize("cache", ["auto", pytest.param("off", marks=pytest.mark.slow)])
def test_images_that_are_bad_from_the_start(drive, fresh_scenes, cache):
    paths = [MiniPlacesLoader(fresh_scenes).path(2), MiniPlacesLoader(fresh_scenes, split="val").path(0)]
    paths[0].unlink()
    paths[1].write_bytes(b"\x89PNG and no more")
    skipping = drive(fresh_scenes, *RUN, "--cache", cache, "--bad-images", "skip")
    assert skipping.code == 0, skipping.out
    results = json.loads((skipping.folder / "results.json").read_text())
    assert results["left_out"] == {"train": [str(paths[0])], "val": [str(paths[1])]}
    assert sum(map(sum, results["last"]["confusion"])) == 5, "the sixth is not evaluated"
    strict = drive(fresh_scenes, *RUN, "--cache", cache)
    assert strict.code != 0
    assert f"train.txt:3: {paths[0]}: " in strict.out


@pytest.mark.slow
def test_a_bad_image_in_the_probe_set_of_adversarial_training(drive, fresh_scenes):
    """All twelve images are in it."""
    MiniPlacesLoader(fresh_scenes).path(4).unlink()
    run = drive(fresh_scenes, *RUN, "--adversarial", "fast", "--bad-images", "skip")
    assert run.code == 0, run.out


def test_a_cache_whose_bytes_were_flipped(drive, fresh_scenes):
    assert drive(fresh_scenes, *RUN).code == 0
    pixels, = (fresh_scenes / ".decoded").glob("train-*/pixels.bin")
    data = bytearray(pixels.read_bytes())
    data[len(data) // 3] ^= 4
    pixels.write_bytes(data)
    run = drive(fresh_scenes, *RUN)
    assert run.code == 1
    assert "is not what was decoded" in run.out
    assert drive(fresh_scenes, *RUN).code == 0, "the next start makes it again"


def write_odd(folder: Path) -> dict[str, Path]:
    """Images that are unusual, and valid."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    saved = {"grey.jpg": Image.fromarray(noise[..., 0]),
             "rgba.png": Image.fromarray(np.dstack([noise, noise[..., :1]])),
             "cmyk.jpg": Image.fromarray(noise).convert("CMYK"), "palette.png": Image.fromarray(noise).convert("P"),
             "one.png": Image.fromarray(noise[:1, :1]), "line.png": Image.fromarray(noise[:1]),
             "bit.png": Image.fromarray(noise[..., 0] > 100), "progressive.jpg": Image.fromarray(noise)}
    for name, image in saved.items():
        image.save(folder / name, **({"progressive": True} if name == "progressive.jpg" else {}))
    frames = [Image.fromarray(noise), Image.fromarray(255 - noise)]
    for name in ("animated.gif", "animated.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    cv2.imwrite(str(folder / "deep.png"), noise.astype(np.uint16) * 257)
    return {path.name: path for path in folder.iterdir()}


def test_odd_images_are_read_as_rgb(tmp_path):
    """16 bits, CMYK, RGBA, grey, palette, one bit, animated (its first frame), 1x1; and through the transforms."""
    for name, path in write_odd(tmp_path).items():
        image = load_image(path)
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3), name
        assert get_train_transforms()(image).shape == (3, 128, 128), name


def test_images_too_large_to_decode_are_named(tmp_path):
    header = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    (tmp_path / "huge.png").write_bytes(header[:16] + (10**6).to_bytes(4, "big") * 2 + header[24:])
    with pytest.raises(BadInput, match=r"huge\.png: "):
        load_image(tmp_path / "huge.png")


@pytest.mark.slow
def test_an_image_of_20000_by_20000(drive, fresh_scenes):
    path = MiniPlacesLoader(fresh_scenes).path(1)
    save_image(path.with_suffix(".png"), np.full((20_000, 20_000, 3), 90, np.uint8))
    path.with_suffix(".png").rename(path)
    assert drive(fresh_scenes, *RUN).code == 0


# --------------------------------------------------------------------------- memory, processes, numbers


def test_a_loader_process_that_is_killed(drive, fresh_scenes, monkeypatch):
    real = MiniPlacesLoader.load

    def load(self, index):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, index)

    monkeypatch.setattr(MiniPlacesLoader, "load", load)
    run = drive(fresh_scenes, *RUN, "--cache", "off", "-j", 1)
    assert run.code == 1
    assert "a process of the data loader was killed or ended" in run.out
    assert "Traceback" not in run.out


@pytest.mark.parametrize("step", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_loss_that_is_not_a_number_never_replaces_a_good_checkpoint(drive, fresh_scenes, monkeypatch, step):
    real, calls = SimpleNet.forward, []

    def forward(self, x):
        calls.extend([None] * self.training)
        return real(self, x) * (torch.nan if self.training and len(calls) == step else 1)

    monkeypatch.setattr(SimpleNet, "forward", forward)
    run = drive(fresh_scenes, *RUN, *EVERY_STEP)
    assert run.code == 1
    assert f"the loss is nan after {(step - 1) % 3 + 1} batches: the training has diverged" in run.out
    assert "this step's rate was" in run.out
    assert f"--resume {last_of(run)}" in run.out
    saved = checkpoint.load(last_of(run))
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    assert saved["epoch"] == (step - 1) // 3


def test_weights_that_are_not_finite_are_not_saved(drive, fresh_scenes, monkeypatch):
    """The loss of the step that spoilt them was a number."""
    real, calls = Progress.update, []

    def update(self, images, **values):
        calls.append(None)
        if len(calls) == 2:
            next(loaded.parameters()).data.fill_(torch.inf)
        return real(self, images, **values)

    monkeypatch.setattr(Progress, "update", update)
    made, loaded = SimpleNet.__init__, None

    def init(self, *arguments, **named):
        nonlocal loaded
        made(self, *arguments, **named)
        loaded = self

    monkeypatch.setattr(SimpleNet, "__init__", init)
    run = drive(fresh_scenes, *RUN, *EVERY_STEP)
    assert (run.code, "the weights are not all finite after 2 batches" in run.out) == (1, True)
    assert checkpoint.load(last_of(run))["position"]["batches"] == 1


def test_out_of_memory_names_a_batch_size_to_try(drive, fresh_scenes, monkeypatch):
    def forward(self, x):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return x.mean() * torch.ones(1, 3, requires_grad=True)

    monkeypatch.setattr(SimpleNet, "forward", forward)
    run = drive(fresh_scenes, *RUN)
    assert (run.code, "out of memory on the GPU with --batch-size 4. Try --batch-size 2" in run.out) == (1, True)


@pytest.mark.parametrize(("error", "world", "sentence"), [
    (torch.OutOfMemoryError("x"), 4, "Try --batch-size 4"), (MemoryError(), 1, "Try --batch-size 5"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "on this machine"),
    (RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:2"), 2, "another process of this run has ended"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.txt"), 1, "x.txt: No such file"),
    (RuntimeError("The size of tensor a must match"), 2, None), (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, None)])
def test_errors_of_the_machine_have_sentences(error, world, sentence):
    told = explain(error, 10, world)
    assert told is sentence if sentence is None else sentence in told


# ------------------------------------------------------------------------------------------------ clocks


@pytest.mark.slow
def test_a_clock_that_goes_backwards(drive, fresh_scenes, monkeypatch):
    now = iter(range(2 * 10**9, 0, -3600))
    monkeypatch.setattr(driver.sys.modules["time"], "time", lambda: float(next(now)))
    run = drive(fresh_scenes, *RUN)
    assert run.code == 0
    assert checkpoint.load(last_of(run))["epoch"] == 2


def test_two_runs_started_in_one_second(tmp_path, monkeypatch):
    monkeypatch.setattr("libs.run_folder.time.strftime", lambda _: "exp_now")
    for number in range(3):
        with RunFolder(tmp_path) as folder:
            folder.scalars(1, {"x": number})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exp_now", "exp_now_1", "exp_now_2"]
