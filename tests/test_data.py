"""From a folder to batches: every way a folder can be wrong has its sentence, with file and line."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
import torchvision
from conftest import write_scenes

from custom_dataloader import MiniPlacesLoader, class_names, open_split, read_labels, short_name
from libs.loaders import EpochSampler, make_loader
from student_code import get_train_transforms, get_val_transforms
from utils import BadInput, load_image, save_image, writing


def test_labels_with_blanks_tabs_spaces_and_windows_line_ends(tmp_path):
    """Fault 8 of the stock scaffold: a blank line or a tab ended in an error without file or line."""
    path = tmp_path / "train.txt"
    path.write_bytes(b"\xef\xbb\xbfa/x.jpg 0\r\n\r\nb/my file.jpg\t12\r\n   \r\nc.jpg   3  ")
    assert read_labels(path) == [("a/x.jpg", 0, 1), ("b/my file.jpg", 12, 3), ("c.jpg", 3, 5)]


@pytest.mark.parametrize(("text", "message"), [
    ("a.jpg 0\nb.jpg\n", r"train\.txt:2: expected 'path label'.*'b\.jpg'"),
    ("a.jpg 0\n\nb.jpg one\n", r"train\.txt:3: expected 'path label'"),
    ("a.jpg -1\n", r"train\.txt:1: expected"),
    ("a.jpg 5\n", r"train\.txt:1: label 5 is outside 0\.\.4"),
    ("\n\n", r"train\.txt: the label file is empty")])
def test_bad_label_files_name_file_and_line(tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(BadInput, match=message):
        MiniPlacesLoader(tmp_path, num_classes=5)


def test_a_missing_label_file_and_a_binary_one(tmp_path):
    with pytest.raises(BadInput, match=r"val\.txt: there is no such file"):
        MiniPlacesLoader(tmp_path, split="val")
    (tmp_path / "val.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BadInput, match="not a text file"):
        MiniPlacesLoader(tmp_path, split="val")


def spoil(folder, number, content):
    path = folder / "images" / (folder / "train.txt").read_text().splitlines()[number].split()[0]
    path.unlink() if content is None else path.write_bytes(content)
    return path


@pytest.mark.parametrize(("content", "flaw"), [
    (None, "the file is missing"), (b"", "the file is empty"), (b"just text, named .jpg", "not an image file")])
def test_bad_images_are_found_before_training(fresh_scenes, content, flaw):
    path = spoil(fresh_scenes, 4, content)
    with pytest.raises(BadInput, match=rf"1 of 12 images cannot be used\n.*train\.txt:5: .*{path.name}: {flaw}"):
        MiniPlacesLoader(fresh_scenes).check_images()


def test_a_jpeg_that_is_cut_off(fresh_scenes):
    """OpenCV would fill the rest with grey and say nothing to the program."""
    path = spoil(fresh_scenes, 4, None)
    whole = (path.parent / sorted(p.name for p in path.parent.iterdir())[0]).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    dataset = MiniPlacesLoader(fresh_scenes)
    with pytest.raises(BadInput, match="the JPEG is truncated"):
        dataset.check_images()
    with pytest.raises(BadInput, match=r"train\.txt:5: .*truncated"):
        dataset[4]


def test_many_bad_images_are_counted_and_five_are_named(fresh_scenes):
    for number in range(8):
        spoil(fresh_scenes, number, None)
    with pytest.raises(BadInput) as caught:
        MiniPlacesLoader(fresh_scenes).check_images()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("8 of 12")
    assert len(lines) == 7
    assert lines[-1] == "... and 3 more"


def test_images_come_back_as_they_were_written(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    save_image(tmp_path / "größe.png", image)
    assert np.array_equal(load_image(tmp_path / "größe.png"), image)
    assert [p.name for p in tmp_path.iterdir()] == ["größe.png"]
    with pytest.raises(BadInput, match="cannot be read"):
        load_image(tmp_path / "nothing.png")


def test_writing_leaves_nothing_half_written(tmp_path):
    (tmp_path / "f").write_text("old")
    with pytest.raises(RuntimeError), writing(tmp_path / "f") as part:
        part.write_text("ha")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "old"


# --------------------------------------------------------------------------------------- names and kinds


def test_names_from_categories_or_from_the_paths(tmp_path):
    folder = write_scenes(tmp_path, 4, 4)
    assert class_names(folder) == ["bedroom", "bridge", "coast", "corridor"]
    (folder / "categories.txt").write_text("/a/abbey 0\n/b/bow_window/indoor 1\n/c/coast 2\n/d/dam 3\n/e/elevator 4\n")
    assert class_names(folder) == ["abbey", "bow_window/indoor", "coast", "dam", "elevator"]
    assert short_name("/a/abbey") == "abbey"
    (folder / "categories.txt").unlink()
    (folder / "train.txt").write_text("x.jpg 0\ny.jpg 6\n")
    assert class_names(folder) == [str(i) for i in range(7)]


def test_flat_paths_have_numbers_for_names(tmp_path):
    folder = write_scenes(tmp_path, 4, 4)
    (folder / "train.txt").write_text("train/1.jpg 0\ntrain/2.jpg 1\nq.jpg 2\n")
    assert class_names(folder) == ["0", "1", "2"]


def test_a_label_that_no_class_has(tmp_path):
    folder = write_scenes(tmp_path, 4, 4)
    with (folder / "val.txt").open("a") as file:
        file.write("val/00000000.jpg 999\n")
    with pytest.raises(BadInput, match=r"val\.txt:5: label 999 is outside 0\.\.3"):
        open_split(folder, "val")
    (folder / "train.txt").write_text("train/b/x.jpg 1000000000\n")
    with pytest.raises(BadInput, match=r"train\.txt:1: label 1000000000 is outside"):
        open_split(folder, "train")


def test_a_jpeg_with_things_behind_its_end(fresh_scenes):
    path = fresh_scenes / "images" / "val" / "00000000.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    save_image(path, noise)
    assert path.stat().st_size > 2**17
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert load_image(path).shape == (600, 600, 3)


def test_a_folder_that_is_nothing(tmp_path):
    with pytest.raises(BadInput, match="there is no such folder"):
        open_split(tmp_path / "nowhere", "train")
    with pytest.raises(BadInput, match="has no known data set"):
        open_split(tmp_path, "train")
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(BadInput, match="MNIST is incomplete"):
        open_split(tmp_path, "train")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("inside", [".", "MNIST", "MNIST/raw"])
def test_mnist(tmp_path, inside):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("t10k", 20)):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(rng.integers(0, 10, count, dtype=np.uint8)))
    dataset, names = open_split(tmp_path / inside, "val", get_val_transforms())
    image, label = dataset[3]
    assert (len(dataset), len(names), image.shape, type(label)) == (20, 10, (3, 128, 128), int)
    assert torch.allclose(*(image[i] * s + m for i, s, m in ((0, 0.229, 0.485), (1, 0.224, 0.456))), atol=1e-5)


def test_cifar10(tmp_path, monkeypatch):
    """Made here, so without the checksums that torchvision asks of the real files."""
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta",
                        lambda self: setattr(self, "classes", [f"class {i}" for i in range(10)]))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(batch))
    train, names = open_split(tmp_path, "train")
    val, _ = open_split(folder, "val")
    assert (len(train), len(val), len(names)) == (20, 4, 10)
    assert train[0][0].shape == (32, 32, 3)


def test_oxford_pets(tmp_path):
    root = tmp_path / "oxford-iiit-pet"
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    for split, count in (("trainval", 4), ("test", 2)):
        rows = []
        for i in range(count):
            save_image(root / "images" / f"great_dane_{split}{i}.jpg", np.zeros((40, 50, 3), np.uint8))
            rows.append(f"great_dane_{split}{i} {i % 2 + 1} 1 1\n")
        (root / "annotations" / f"{split}.txt").write_text("".join(rows))
    dataset, _ = open_split(tmp_path, "train", get_train_transforms())
    assert len(dataset) == 4
    assert dataset[1][0].shape == (3, 128, 128)
    assert dataset[1][1] == 1


def test_a_broken_pet_is_named(tmp_path):
    test_oxford_pets(tmp_path)
    (tmp_path / "oxford-iiit-pet" / "images" / "great_dane_test1.jpg").write_text("text")
    dataset, _ = open_split(tmp_path, "val")
    with pytest.raises(BadInput, match=r"OxfordIIITPet in .*: image 1: .*great_dane_test1\.jpg"):
        dataset[1]


def test_an_mnist_of_empty_files_is_not_whole(tmp_path):
    """torchvision only looks whether the files are there; its reader then fails in ways of its own."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{stem}-{kind}-ubyte").write_bytes(b"")
    with pytest.raises(BadInput, match="MNIST is incomplete"):
        open_split(tmp_path, "train")


def test_a_compressed_mnist_is_not_taken_for_a_whole_one(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(BadInput, match="incomplete"):
        open_split(tmp_path, "train")


# ----------------------------------------------------------------------------------------------- batches


def batches(dataset, epoch, **settings):
    loader = make_loader(dataset, 5, **settings)
    loader.sampler.epoch = epoch
    return list(loader)


def test_an_epoch_is_the_same_for_any_number_of_workers(scenes):
    dataset = MiniPlacesLoader(scenes, transforms=get_train_transforms())
    one = batches(dataset, 3, workers=0, seed=7, train=True)
    two = batches(dataset, 3, workers=2, seed=7, train=True)
    other = batches(dataset, 4, workers=0, seed=7, train=True)
    assert len(one) == 24 // 5
    for a, b in zip(one, two):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert not torch.equal(one[0][0], other[0][0])


def test_loading_does_not_disturb_the_random_state(scenes):
    dataset = MiniPlacesLoader(scenes, transforms=get_train_transforms())
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    batches(dataset, 0, workers=0, train=True)
    assert torch.equal(torch.rand(3), expected)


def test_validation_keeps_every_image_and_its_order(scenes):
    dataset = MiniPlacesLoader(scenes, split="val", transforms=get_val_transforms())
    labels = torch.cat([labels for _, labels in batches(dataset, 0, workers=0)])
    assert labels.tolist() == dataset.targets


def test_processes_share_an_epoch(scenes):
    dataset = MiniPlacesLoader(scenes, transforms=lambda image: image.mean())
    shares = [[label for _, labels in batches(dataset, 2, workers=0, rank=r, world=2) for label in labels.tolist()]
              for r in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(dataset.targets)


def test_processes_take_the_same_number_of_steps():
    """With 47 images one process had a step more than the other, which then waited for ever."""
    shares = [EpochSampler(47, rank=r, world=2) for r in range(2)]
    assert [len(s) for s in shares] == [len(list(s)) for s in shares] == [23, 23]
    whole = [EpochSampler(47, shuffle=False, rank=r, world=2) for r in range(2)]
    assert [len(list(s)) for s in whole] == [len(s) for s in whole] == [24, 23]


def test_a_bad_image_met_by_a_worker_keeps_its_name(fresh_scenes):
    path = spoil(fresh_scenes, 0, b"\xff\xd8 nothing \xff\xd9")
    dataset = MiniPlacesLoader(fresh_scenes, transforms=get_val_transforms())
    with pytest.raises(BadInput, match=rf"train\.txt:1: .*{path.name}: not an image that OpenCV can decode"):
        list(make_loader(dataset, 4, workers=1))
