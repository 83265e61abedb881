"""Decoded images on disk: made once, never stale, never half; and the batches that are made of them."""

import os
import pickle
import time

import numpy as np
import pytest
import torch
from conftest import write_scenes

import custom_transforms as T
from custom_dataloader import MiniPlacesLoader, open_split
from libs import decoded_cache
from libs.batch_transforms import BatchTransforms
from libs.decoded_cache import CacheUnwritable, decode
from libs.loaders import BatchLoader, EpochSampler, make_loader, open_loader
from student_code import get_train_transforms, get_val_transforms
from utils import BadInput, load_image, save_image

CPU = torch.device("cpu")


def split_of(folder, split="train", transforms=None) -> MiniPlacesLoader:
    usual = get_train_transforms() if split == "train" else get_val_transforms()
    return open_split(folder, split, transforms or usual)[0]


def folders(folder) -> set[str]:
    return {path.name for path in (folder / ".decoded").iterdir()}


def test_every_pixel_is_kept(fresh_scenes):
    dataset = split_of(fresh_scenes)
    images = decode(dataset)
    assert (len(images), images.one_size) == (12, True)
    for i in range(12):
        assert (images[i] == load_image(dataset.path(i))).all()


def test_images_of_many_sizes(fresh_scenes):
    dataset = split_of(fresh_scenes)
    shapes = [(128 + 3 * i, 200 - 5 * i) for i in range(12)]
    for i, shape in enumerate(shapes):
        save_image(dataset.path(i), np.full((*shape, 3), 20 * i, np.uint8))
    images = decode(split_of(fresh_scenes))
    assert [images[i].shape[:2] for i in range(12)] == shapes
    assert not images.one_size
    loader, _ = open_loader(split_of(fresh_scenes), 4, "auto", CPU, workers=0, train=True)
    assert [batch.shape for batch, _ in loader] == [(4, 3, 128, 128)] * 3


def test_decoding_happens_once(fresh_scenes, monkeypatch):
    decode(split_of(fresh_scenes))
    monkeypatch.setattr(decoded_cache, "_decode", lambda *_: pytest.fail("decoded again"))
    decode(split_of(fresh_scenes))


def test_a_cache_of_an_earlier_version_has_no_checksums(fresh_scenes, monkeypatch):
    """It is used as it is: decoding all of MiniPlaces again takes minutes."""
    images = decode(split_of(fresh_scenes))
    (images.folder / "sums.npy").unlink()
    monkeypatch.setattr(decoded_cache, "_decode", lambda *_: pytest.fail("decoded again"))
    assert (decode(split_of(fresh_scenes))[3] == images[3]).all()


@pytest.mark.parametrize("change", ["labels", "image", "time"])
def test_stale_pixels_are_not_used(fresh_scenes, change):
    before = decode(split_of(fresh_scenes)).folder.name
    path = split_of(fresh_scenes).path(5)
    if change == "labels":
        lines = (fresh_scenes / "train.txt").read_text().splitlines()
        (fresh_scenes / "train.txt").write_text("\n".join(lines[::-1]))
    elif change == "image":
        save_image(path, np.full((90, 90, 3), 7, np.uint8))
    else:
        os.utime(path, (1, 1))
    dataset = split_of(fresh_scenes)
    images = decode(dataset)
    assert images.folder.name != before
    assert folders(fresh_scenes) == {images.folder.name}, "the old ones are removed"
    assert all((images[i] == load_image(dataset.path(i))).all() for i in range(12))


def test_a_bad_image_leaves_nothing_behind(fresh_scenes):
    split_of(fresh_scenes).path(3).write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"train\.txt:4: .*not an image file"):
        decode(split_of(fresh_scenes))
    assert not (fresh_scenes / ".decoded").exists()


def test_an_interrupted_decoding_leaves_nothing_behind(fresh_scenes, monkeypatch):
    dataset = split_of(fresh_scenes)
    real, calls = dataset.load, []

    def stop(index):
        calls.append(index)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return real(index)

    monkeypatch.setattr(dataset, "load", stop)
    with pytest.raises(KeyboardInterrupt):
        decode(dataset)
    assert folders(fresh_scenes) == set()


@pytest.mark.parametrize("damage", ["cut off", "pixels gone", "shapes gone", "shapes spoilt"])
def test_what_is_not_whole_is_made_again(fresh_scenes, damage):
    folder = decode(split_of(fresh_scenes)).folder
    if damage == "cut off":
        with (folder / "pixels.bin").open("r+b") as file:
            file.truncate(1000)
    elif damage == "shapes spoilt":
        (folder / "shapes.npy").write_bytes(b"nothing")
    else:
        (folder / ("pixels.bin" if damage == "pixels gone" else "shapes.npy")).unlink()
    dataset = split_of(fresh_scenes)
    assert (decode(dataset)[11] == load_image(dataset.path(11))).all()


def test_two_runs_that_decode_at_once(fresh_scenes, monkeypatch):
    """The slower one takes what the faster one has made."""
    real = decoded_cache.np.save

    def slowly(path, shapes):
        monkeypatch.setattr(decoded_cache.np, "save", real)
        decode(split_of(fresh_scenes).__class__(fresh_scenes))  # the other run, from begin to end
        real(path, shapes)

    monkeypatch.setattr(decoded_cache.np, "save", slowly)
    monkeypatch.setattr(decoded_cache.os, "getpid", iter(range(10**6)).__next__)
    assert len(decode(split_of(fresh_scenes))) == 12
    assert len(folders(fresh_scenes)) == 1


def test_what_a_killed_run_left_is_removed(fresh_scenes):
    for age, name in ((4000, ".train-0.1.part"), (10, ".train-0.2.part"), (4000, ".val-0.3.part")):
        (fresh_scenes / ".decoded" / name).mkdir(parents=True)
        file = fresh_scenes / ".decoded" / name / "pixels.bin"
        file.write_bytes(b"half")
        os.utime(file, (time.time() - age,) * 2)
    images = decode(split_of(fresh_scenes))
    assert folders(fresh_scenes) == {images.folder.name, ".train-0.2.part", ".val-0.3.part"}


def test_pixels_do_not_travel_to_other_processes(fresh_scenes):
    images = decode(split_of(fresh_scenes))
    sent = pickle.dumps(images)
    assert len(sent) < 1000
    assert (pickle.loads(sent)[3] == images[3]).all()


def test_only_a_few_images_wait_to_be_written(fresh_scenes, monkeypatch):
    dataset, loaded, most = split_of(fresh_scenes), [], []
    real_load, real_ahead = dataset.load, decoded_cache.prefetch

    def load(index):
        loaded.append(index)
        return real_load(index)

    def ahead(calls, threads):
        for number, image in enumerate(real_ahead(calls, threads)):
            time.sleep(0.01)
            most.append(len(loaded) - 12 - number)  # 12 were looked at for their size
            yield image

    monkeypatch.setattr(dataset, "load", load)
    monkeypatch.setattr(decoded_cache, "prefetch", ahead)
    monkeypatch.setattr(decoded_cache.hardware, "cores", lambda: 1)
    decode(dataset)
    assert max(most) <= 2 * 2 + 2


def test_no_room(fresh_scenes, monkeypatch, drive):
    """`auto` goes on without; `disk` says what is missing."""
    monkeypatch.setattr(decoded_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**30 + 1000}))
    with pytest.raises(CacheUnwritable, match=r"12 decoded images take 0\.0 GB, and 1\.1 GB of the disk are free"):
        decode(split_of(fresh_scenes))
    loader, how = open_loader(split_of(fresh_scenes), 4, "auto", CPU, workers=0, train=True)
    assert how.startswith("per image, decoded in each epoch: ")
    assert len(list(loader)) == 3
    assert "GB of the disk are free" in drive(fresh_scenes, "--cache", "disk", "--epochs", 1, "-b", 6).out


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(fresh_scenes):
    fresh_scenes.chmod(0o555)
    try:
        with pytest.raises(CacheUnwritable, match="cannot be cached there"):
            decode(split_of(fresh_scenes))
    finally:
        fresh_scenes.chmod(0o755)


def test_a_disk_that_fills_up(fresh_scenes, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded_cache.np, "save", full)
    with pytest.raises(CacheUnwritable, match=r"cannot be cached there \(No space left on device\)"):
        decode(split_of(fresh_scenes))
    assert folders(fresh_scenes) == set()


# ------------------------------------------------------------------------------------------------- batches


def loader_of(folder, split="train", **how) -> BatchLoader:
    dataset = split_of(folder, split)
    how = {"workers": 1, "train": split == "train"} | how
    return open_loader(dataset, 5, how.pop("cache", "auto"), CPU, **how)[0]


def test_order_labels_and_length_are_those_of_the_plain_loader(scenes):
    for split, train in (("train", True), ("val", False)):
        fast = loader_of(scenes, split, seed=3)
        plain = make_loader(split_of(scenes, split), 5, workers=0, seed=3, train=train)
        assert isinstance(fast, BatchLoader)
        assert len(fast) == len(plain)
        for epoch in (0, 1):
            fast.sampler.epoch = plain.sampler.epoch = epoch
            assert [labels.tolist() for _, labels in fast] == [labels.tolist() for _, labels in plain]


def test_validation_batches_have_the_same_bits(scenes):
    plain = make_loader(split_of(scenes, "val"), 5, workers=0)
    for (fast, _), (slow, _) in zip(loader_of(scenes, "val"), plain):
        assert torch.equal(fast, slow)


def test_any_number_of_threads_and_processes_gives_the_same(scenes):
    batches = {workers: [images for images, _ in loader_of(scenes, workers=workers)] for workers in (0, 1)}
    assert all(map(torch.equal, *batches.values()))
    dataset = split_of(scenes)
    threaded = BatchLoader(dataset, decode(dataset), BatchTransforms.of(dataset.transforms),
                           EpochSampler(24), 5, drop_last=True, threads=3)
    assert all(map(torch.equal, [images for images, _ in threaded], batches[0]))
    halves = [torch.cat([labels for _, labels in loader_of(scenes, rank=rank, world=2)]) for rank in (0, 1)]
    assert [len(half) for half in halves] == [10, 10]


def test_batches_made_where_the_pixels_lie(scenes):
    """The path of a GPU, here on the CPU: the same views, up to rounding."""
    dataset = split_of(scenes)
    transforms = BatchTransforms.of(dataset.transforms)
    there = BatchLoader(dataset, decode(dataset), transforms, EpochSampler(24), 5, drop_last=True, device=CPU)
    for (a, labels), (b, same_labels) in zip(there, loader_of(scenes)):
        assert labels.tolist() == same_labels.tolist()
        assert (a - b).abs().mean() < 0.01
        assert (a - b).abs().max() < 0.25  # 14 of 255 levels at an edge: OpenCV places pixels to 1/32 only


def test_leaving_in_the_middle_and_errors_inside(scenes, monkeypatch):
    loader = loader_of(scenes)
    next(iter(loader))
    assert len(list(loader)) == 4
    monkeypatch.setattr(loader.transforms, "on_cpu", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(loader)


def test_loading_leaves_the_random_state_alone(scenes):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(loader_of(scenes))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


class Posterise:
    """A student's own transform, which even writes into its image."""

    def __call__(self, image):
        image //= 64
        image *= 64
        return image


def test_a_students_own_transforms_still_work(scenes):
    own = T.Compose([Posterise(), *get_train_transforms().transforms])
    loader, how = open_loader(split_of(scenes, transforms=own), 5, "auto", CPU, workers=0, train=True)
    plain = make_loader(split_of(scenes, transforms=own), 5, workers=0, train=True)
    assert "per image, since these transforms are not all from custom_transforms" in how
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(loader, plain))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(loader, plain)), "the pixels on disk were written to"


def test_a_run_says_how_it_makes_its_training_batches(drive, fresh_scenes, monkeypatch):
    own = T.Compose([Posterise(), *get_train_transforms().transforms])
    monkeypatch.setattr("student_code.get_train_transforms", lambda: own)
    run = drive(fresh_scenes, "--epochs", 2, "-b", 6)
    assert "per image, since these transforms are not all from custom_transforms" in run.out
    monkeypatch.undo()
    saved = run.folder / "models/checkpoint.pth.tar"
    state = torch.load(saved, weights_only=True)
    torch.save(state | {"epoch": 1}, saved)
    assert "this run used another kind of data loader before" in drive(fresh_scenes, "--resume", saved).out


def test_choices(scenes, tmp_path, drive):
    run = drive(scenes, "--cache", "off", "--epochs", 1, "-b", 8)
    assert "per image, decoded in each epoch" in run.out
    fresh = write_scenes(tmp_path / "fresh", 12, 6)
    assert "decoded once, 1 MB in" in drive(fresh, "--epochs", 1, "-b", 6).out
    assert len(folders(fresh)) == 2
    assert "--cache gpu needs a CUDA GPU, and this run uses cpu" in drive(scenes, "--cache", "gpu").out
    assert "--cache gpu is for training" in drive(scenes, "--cache", "gpu", "-e", "--resume", "x").out
    with pytest.raises(BadInput, match="--cache disk: only images in MiniPlaces' layout"):
        open_loader(torch.utils.data.TensorDataset(torch.zeros(4)), 2, "disk", CPU, workers=0)
