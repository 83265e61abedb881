"""What the tests share: a small folder of drawn scenes, and the driver as a function."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import demo_data
import main
from utils import save_image

ROOT = Path(__file__).resolve().parent.parent
CODE = ROOT / "code"


def write_scenes(folder: Path, train: int, val: int, classes: int = 4, split_seed: int = 0) -> Path:
    """`train` and `val` drawn images of `classes` classes in MiniPlaces' layout."""
    for split, count in (("train", train), ("val", val)):
        lines = []
        for i in range(count):
            label = i % classes
            name = demo_data.SCENES[label].__name__
            path = f"train/{name[0]}/{name}/{i:08}.jpg" if split == "train" else f"val/{i:08}.jpg"
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            save_image(folder / "images" / path, demo_data.draw(label, split_seed, int(split == "val"), i))
            lines.append(f"{path} {label}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """24 training and 12 validation images of 4 classes. Read only."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), 24, 12)


@pytest.fixture
def fresh_scenes(tmp_path) -> Path:
    """The same, to be spoilt by a test."""
    return write_scenes(tmp_path / "scenes", 12, 6, classes=3)


@pytest.fixture
def drive(tmp_path, capsys):
    """Run main.py in this process: drive(folder, *flags) -> .out (printed), .folder (None if none was made), .code.

    On the CPU, without worker processes, in fp32, unless the flags say otherwise.
    """

    def run(folder, *flags, logs: Path = tmp_path / "logs"):
        before = set(logs.glob("exp_*"))
        code = 0
        try:
            main.main([str(folder), "-j", "0", "--gpu", "-1", "--amp", "off", "--logs", str(logs), *map(str, flags)])
        except SystemExit as stop:
            code = stop.code
            if isinstance(code, str):
                print(code)
                code = 1
        printed = capsys.readouterr()
        new = sorted(set(logs.glob("exp_*")) - before)
        return SimpleNamespace(out=printed.out + printed.err, folder=new[-1] if new else None, code=code)

    return run


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
