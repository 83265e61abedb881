"""The drawn scenes: the same for the same seed, whole or not there, told apart by more than a mean colour."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from custom_dataloader import MiniPlacesLoader, class_names
from demo import data as demo_data


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    assert demo_data.make(folder, 80, 40)
    return folder


def digest(folder) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    content = b"".join(p.relative_to(folder).as_posix().encode() + p.read_bytes() for p in files)
    return hashlib.sha256(content).hexdigest()


def test_miniplaces_layout(small):
    train, val = (MiniPlacesLoader(small, num_classes=10, split=split) for split in ("train", "val"))
    assert (len(train), len(val)) == (80, 40)
    train.check_images(), val.check_images()
    assert set(Counter(train.targets).values()) == {8}
    assert train[0][0].shape == (128, 128, 3)
    assert class_names(small) == [scene.__name__ for scene in demo_data.SCENES]
    assert len(demo_data.SCENES) >= 8
    assert train.names[0] == "train/b/bedroom/00000001.jpg"
    assert val.names[0] == "val/00000001.jpg"


def test_the_same_seed_draws_the_same_files(small, tmp_path):
    demo_data.make(tmp_path / "again", 80, 40)
    assert digest(tmp_path / "again") == digest(small)
    demo_data.make(tmp_path / "other", 80, 40, seed=1)
    assert digest(tmp_path / "other") != digest(small)


def test_a_second_call_does_nothing_and_other_settings_draw_anew(tmp_path):
    folder = tmp_path / "demo"
    assert demo_data.make(folder, 20, 10)
    before = (folder / "train.txt").stat().st_mtime_ns
    assert not demo_data.make(folder, 20, 10)
    assert (folder / "train.txt").stat().st_mtime_ns == before
    assert demo_data.make(folder, 30, 10)
    assert len(MiniPlacesLoader(folder)) == 30
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_somebody_elses_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.txt").write_text("precious")
    with pytest.raises(SystemExit):
        demo_data.main([str(tmp_path / "mine")])
    assert "is there and is not the demo data" in capsys.readouterr().err
    assert (tmp_path / "mine" / "train.txt").read_text() == "precious"


def test_a_mean_colour_does_not_give_the_class_away():
    images = [(demo_data.draw(label, 9, label, i), label) for label in range(10) for i in range(24)]
    features = np.array([image.reshape(-1, 3).mean(0) for image, _ in images])
    labels = np.array([label for _, label in images])
    first = np.arange(len(images)) % 2 == 0
    model = LogisticRegression(max_iter=2000).fit(features[first] / 255, labels[first])
    assert model.score(features[~first] / 255, labels[~first]) < 0.4


def test_images_of_a_class_differ():
    for label in range(10):
        a, b = (demo_data.draw(label, 0, 0, i).astype(float) for i in range(2))
        assert np.abs(a - b).mean() > 10
