"""Whatever a label file, an image, a checkpoint or a command line contains, it is used or named in a sentence.

FUZZ_CASES=10000 python -m pytest tests/test_fuzz.py    runs more cases than `make test` does
"""

import os
import random

import cv2
import numpy as np
import pytest
import torch
from test_checkpoint_schema import FOREIGN, places, replaced, use, whole, without

from custom_dataloader import class_names, open_split, read_labels
from libs import arguments, checkpoint
from utils import BadInput, image_file_flaw, load_image

CASES = int(os.environ.get("FUZZ_CASES", "20"))


@pytest.fixture(params=range(4))
def rng(request) -> random.Random:
    return random.Random(f"{request.node.name} {request.param}")


def mutated(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """Bytes changed, removed, doubled or cut off, a few times."""
    data = bytearray(data)
    for _ in range(rng.randint(0, most)):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 8, 64))
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at:at] = rng.randbytes(length)
        else:
            del data[at if rng.random() < 0.3 else len(data) :]
    return bytes(data)


def named(error: BaseException, *names: str) -> None:
    """The sentence has one of `names` in it, and can be read."""
    assert any(name in str(error) for name in names), error
    assert len(str(error)) < 30_000  # five paths, which may be long


PIECES = ["train/a/abbey/1.jpg 0\n", "val/1.jpg 71\n", "\n", "\t", " ", "0", "-1", "1e3", "9" * 20, "a b c 3\r\n",
          "\ufeff", "\x00", "\u0661", "../../etc/passwd 1\n", "x" * 5000, " 1\n", "\x85", "\u2028", "ü 2\n", "/a/b 0\n"]


def test_label_files(rng, tmp_path):
    for _ in range(CASES):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 8)))
        for name in ("train.txt", "val.txt", *(["categories.txt"] if rng.random() < 0.3 else [])):
            (tmp_path / name).write_bytes(mutated(rng, text.encode()))
        for read in (lambda: read_labels(tmp_path / "train.txt", 100), lambda: class_names(tmp_path),
                     lambda: open_split(tmp_path, "val")[0].check_images()):
            try:
                read()
            except BadInput as error:
                named(error, "train.txt", "val.txt", "categories.txt")
        (tmp_path / "categories.txt").unlink(missing_ok=True)


def encoded() -> list[bytes]:
    image = np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8)
    kinds = [(kind, image) for kind in (".jpg", ".png", ".bmp", ".tiff", ".webp")]
    kinds += [(".png", image[..., 0]), (".png", image.astype(np.uint16) * 257)]
    return [cv2.imencode(kind, pixels)[1].tobytes() for kind, pixels in kinds]


def test_image_bytes(rng, tmp_path):
    path, images = tmp_path / "image.jpg", encoded()
    for _ in range(CASES):
        path.write_bytes(mutated(rng, rng.choice(images)))
        assert image_file_flaw(path) is None or isinstance(image_file_flaw(path), str)
        try:
            image = load_image(path)
        except BadInput as error:
            named(error, str(path))
        else:
            assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)


def test_the_insides_of_checkpoints(rng):
    saved = whole()
    all_places = list(places(saved))
    for _ in range(CASES):
        content = saved
        for _ in range(rng.randint(1, 3)):
            path = rng.choice(all_places)
            try:
                content = (without(content, path) if path and rng.random() < 0.2 else
                           replaced(content, path, rng.choice(FOREIGN)))
            except (KeyError, IndexError, TypeError, RuntimeError):
                continue  # that place is gone
        try:
            use(content)
        except BadInput as error:
            named(error, "is", "should", "match")


def test_the_bytes_of_checkpoints(rng, tmp_path):
    path = tmp_path / checkpoint.LAST
    torch.save({"state_dict": {"weight": torch.arange(500.0)}, "epoch": 3}, path)
    data, truth = path.read_bytes(), torch.arange(500.0)
    for _ in range(CASES):
        path.write_bytes(mutated(rng, data))
        try:
            loaded = checkpoint.load(path)
        except BadInput as error:
            named(error, str(path))
        else:
            assert torch.equal(loaded["state_dict"]["weight"], truth)
            assert loaded["epoch"] == 3


VALUES = ["0", "1", "-1", "2.5", "nan", "inf", "1e400", "", "x", "None", "true", "auto", "off", "fast", "unfold", "vit",
          "9" * 400, "/nowhere", "a\nb", "\u0663", "0x10", "1_0", " 3", "--", "-", "=", "%s", "@file"]


def test_flags(rng, capsys):
    flags = [option for action in arguments.get_args_parser()._actions for option in action.option_strings
             if action.dest != "help"]
    for _ in range(CASES):
        words = ["data"] if rng.random() < 0.9 else []
        for _ in range(rng.randint(0, 5)):
            flag, value = rng.choice(flags), rng.choice(VALUES)
            words += rng.choice(([flag], [flag, value], [f"{flag}={value}"], [value]))
        try:
            parsed = arguments.parse_args(words)
        except SystemExit as stop:
            assert stop.code == 2
            assert "main.py: error: " in capsys.readouterr().err
        else:
            assert parsed.mode in ("train", "evaluate", "attack")
