"""What the tests share: a small folder of drawn scenes, and the driver as a function."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import main
from demo import data as demo_data
from libs import checkpoint, networks
from student_code import SimpleNet
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


def same(a, b) -> bool:
    """Bit for bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def newest_in(logs: Path) -> Path | None:
    """The checkpoint that --resume auto takes."""
    return checkpoint.newest(logs, networks.MODEL_NAMES)


CLOCKED = "seconds", "data_wait", "images_per_second", "data/epoch_time", "data/data_wait", "data/images_per_second"


def comparable(path) -> dict:
    """All of a checkpoint but for what a clock said."""
    state = torch.load(path, weights_only=True)
    for rows in (*state["history"], state["scalars"]):
        for name in CLOCKED:
            rows.pop(name, None)
    state["scalars"] = {tag: [(step, value) for step, value, _ in rows] for tag, rows in state["scalars"].items()}
    return state


@pytest.fixture(scope="session")
def trained():
    """A small SimpleNet that has learnt to tell stripes from checks, and 1,000 other images in [0, 1]."""
    torch.manual_seed(0)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 4
        rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        patterns = torch.stack([rows // 2 % 2, columns // 2 % 2, (rows + columns) // 2 % 2, rows // 4 % 2]).float()
        contrast = 0.05 + 0.25 * torch.rand(count, 1, 1, 1)
        clean = 0.5 + contrast * (patterns[labels][:, None] - 0.5) + 0.04 * torch.randn(count, 3, 16, 16)
        return clean.clamp(0, 1), labels

    model = SimpleNet(num_classes=4)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(60):
        images, labels = draw(64)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    images, labels = draw(1000)
    model.eval()
    accuracy = (model(images).argmax(1) == labels).float().mean()
    assert accuracy > 0.8, "or success says nothing"
    return model, images, labels


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """The tensors are tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
