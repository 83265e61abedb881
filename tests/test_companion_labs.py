"""The labs of the companion assignments on small generated data; their parts against oracles."""

import csv
import json
import re
import shutil
import struct
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import CODE
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from demo import data as demo_data
from labs import __main__ as labs
from labs import common, training
from labs.cnn_hw3 import cifar_resnet, evasion, mnist_cnn, mytorch
from labs.cnn_hw3.model import ResNet, class_activation_maps
from labs.cnn_hw3.mytorch_lab import max_difference
from labs.cnn_hw3.train import TRAIN, VAL, MnistCNN
from labs.cs5787 import fooling, imagenet, mish_cnn, transfer
from libs import networks
from utils import BadInput, save_image


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A folder with MNIST/raw of 600 + 120 images: noise with a bar, whose position depends on the digit."""
    folder, rng = tmp_path_factory.mktemp("mnist"), np.random.default_rng(0)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 600), ("t10k", 120)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels):
            image[4 : 24, 2 + 2 * label : 5 + 2 * label] = rng.integers(120, 255)
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """40 + 20 images of 32 x 32, four classes, in MiniPlaces' layout."""
    folder = tmp_path_factory.mktemp("tiny")
    for split, count in (("train", 40), ("val", 20)):
        lines = []
        for i in range(count):
            path = f"{split}/{demo_data.SCENES[i % 4].__name__}/{i}.png"
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            drawn = demo_data.draw(i % 4, 0, int(split == "val"), i)
            save_image(folder / "images" / path, cv2.resize(drawn, (32, 32), interpolation=cv2.INTER_AREA))
            lines.append(f"{path} {i % 4}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def lab(tmp_path, capsys):
    """lab(name, *flags) -> rows of its CSV, content of its JSON, its output; its figures are in tmp_path."""

    def run(name, *flags, table=None):
        labs.main([name, *map(str, flags), "--out", str(tmp_path), "--gpu", "-1"])
        table = table or name
        with (tmp_path / f"{table}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(tmp_path.glob("*.png"))
        return rows, json.loads((tmp_path / f"{table}.json").read_text()), capsys.readouterr().out

    return run


# ------------------------------------------------------------------- CNN Homework 3, deliverable 1: own layers


def test_own_layers_agree_with_torchs(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        labs.main(["mytorch", "test", "--out", str(tmp_path)])
    assert stop.value.code == 0
    assert "78 settings" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "mytorch.json").read_text())["settings"]) == 78


def test_the_comparison_detects_a_wrong_layer():
    ours, theirs = mytorch.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 2, 6, 6)
    assert max_difference(ours, theirs, x) < 1e-5
    ours.weight.data = ours.weight.data.flip(-1)
    assert max_difference(ours, theirs, x) > 0.01
    assert max_difference(mytorch.MaxPool2d(2, 1), nn.MaxPool2d(2), x) == float("inf")


def test_own_layers_use_no_convolution_and_no_pooling():
    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.add(func.__name__)
            return func(*args, **(kwargs or {}))

    with Names() as names:
        x = torch.randn(2, 3, 9, 9, requires_grad=True)
        mytorch.MaxPool2d(3, 2, 1)(mytorch.Conv2d(3, 4, 3, 2, 1)(x)).sum().backward()
    assert names.seen
    assert not [name for name in names.seen if "conv" in name or "pool" in name]


def test_ties_send_the_gradient_to_the_first():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    ours, = torch.autograd.grad(mytorch.MaxPool2d(2)(x).sum(), x)
    theirs, = torch.autograd.grad(nn.MaxPool2d(2)(x).sum(), x)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("job", "sentence"), [
    (lambda: mytorch.conv2d(torch.ones(1, 2, 5, 5), torch.ones(1, 3, 3, 3)), "does not have the channels"),
    (lambda: mytorch.conv2d(torch.ones(1, 3, 2, 5), torch.ones(1, 3, 3, 3)), "larger than the input"),
    (lambda: mytorch.MaxPool2d(2, padding=2), "more than half of the kernel")])
def test_wrong_sizes(job, sentence):
    with pytest.raises(ValueError, match=sentence):
        job()


# ------------------------------------------------------------------------------------ deliverable 2: MNIST


def test_mnist_cnn(lab, mnist):
    rows, content, _ = lab("mnist_cnn", mnist, "--epochs", 2, "--train-batch", 20)
    assert [row["layers"] for row in rows] == ["own layers", "torch's layers"]
    assert float(rows[0]["val accuracy"]) > 90
    assert rows[0]["val accuracy"] == rows[1]["val accuracy"], "the same network, the same seed"
    assert len(content["histories"]["own layers"]) == 2


def test_mnist_cnn_uses_own_layers_only():
    kinds = {type(module) for module in MnistCNN().modules() if not list(module.children())}
    assert kinds == {mytorch.Conv2d, mytorch.MaxPool2d, nn.ReLU, nn.Linear}


def test_mnist_that_cannot_be_downloaded(tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr(mnist_cnn, "MNIST", refuse)
    with pytest.raises(SystemExit):
        labs.main(["mnist_cnn", str(tmp_path), "--gpu", "-1"])
    assert "MNIST/raw: is not there, and the download failed (no network)" in capsys.readouterr().err


def test_a_truncated_mnist_file(mnist, tmp_path, capsys):
    shutil.copytree(mnist, tmp_path / "cut")
    file = tmp_path / "cut/MNIST/raw/t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(SystemExit):
        labs.main(["mnist_cnn", str(tmp_path / "cut"), "--gpu", "-1", "--out", str(tmp_path)])
    assert "MNIST/raw: cannot be read (" in capsys.readouterr().err


def test_quick_runs_do_not_overwrite_results(tmp_path):
    seen, parser = [], common.parser("x", "", data=False, trains={"epochs": 1, "lr": 1.0})
    parser.add_argument("--quick", action="store_true")
    parser.set_defaults(out=tmp_path / "out", logs=tmp_path / "logs")
    for flags in ([], ["--quick"], ["--quick", "--out", str(tmp_path / "mine")]):
        lab = SimpleNamespace(get_args_parser=lambda: parser, run=lambda args: seen.append((args.out, args.logs)))
        common.run("x", lab, flags)
    assert seen == [(tmp_path / "out", tmp_path / "logs"), (tmp_path / "out/quick", tmp_path / "logs/quick"),
                    (tmp_path / "mine", tmp_path / "logs/quick")]


def test_each_epoch_has_other_augmentations_and_another_order(tiny, tmp_path):
    import argparse

    args = argparse.Namespace(data=str(tiny), train_batch=40, workers=0, seed=0, logs=tmp_path, epochs=2, lr=0.1)
    train, val, names = cifar_resnet.open_cifar(args)
    seen, model = [], ResNet(len(names), (4, 4, 4, 4))
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()) if module.training else None)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training.train_network(args, "x", model, train, val, training.Hardware(torch.device("cpu")), optimizer, 2)
    assert not torch.equal(*(images.sum((1, 2, 3)).sort().values for images in seen))


def test_an_interrupted_training_of_a_lab_is_resumed_exactly(tmp_path):
    images, labels = torch.randn(20, 1, 28, 28), torch.arange(20) % 10

    def train(stop_after: int | None, resume=None):
        args = SimpleNamespace(logs=tmp_path, epochs=3, lr=0.1, train_batch=8, seed=0, resume=resume)
        torch.manual_seed(0)
        model = MnistCNN(nn.Conv2d, nn.MaxPool2d)
        batches = training.TensorBatches(images, labels, 8, shuffle=True)
        model.register_forward_pre_hook(lambda module, _: stop_if(module, stop_after, batches.sampler.epoch))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        return training.train_network(args, "mnist-own", model, batches, training.TensorBatches(images, labels, 8),
                                      training.Hardware(torch.device("cpu")), optimizer, 3, warmup=1)

    def stop_if(module, after, epoch):
        if module.training and epoch == after:
            raise KeyboardInterrupt

    whole = torch.load(train(None)[1], weights_only=True)
    before = set(tmp_path.glob("exp_*"))
    with pytest.raises(KeyboardInterrupt):
        train(2)
    stopped, = set(tmp_path.glob("exp_*")) - before
    history, path = train(None, str(stopped / "models/checkpoint.pth.tar"))
    assert len(history) == 3
    resumed = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(resumed[name], value) for name, value in whole["state_dict"].items())


def test_tensor_batches_cover_all_images():
    images = torch.arange(10.0)[:, None]
    shuffled = [labels.tolist() for _, labels in training.TensorBatches(images, torch.arange(10), 4, shuffle=True)]
    assert [len(batch) for batch in shuffled] == [4, 4]
    in_order = training.TensorBatches(images, torch.arange(10), 4)
    assert len(in_order) == 3
    assert torch.equal(torch.cat([x for x, _ in in_order]), images)


# ------------------------------------------------------------------ deliverables 3 to 5: ResNet for CIFAR-10


def test_the_resnet_is_the_assignments():
    network = ResNet()
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.bias is None for conv in convolutions)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == len(convolutions)
    assert [block.shortcut[0].kernel_size for block in network.blocks] == [(1, 1)] * 3
    assert network.blocks(network.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 256, 4, 4)
    assert network.pool.kernel_size == 4
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    for conv in convolutions:
        fan = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.15), "He initialisation"


def test_the_transforms_are_the_assignments():
    names = [type(t).__name__ for t in TRAIN.transforms]
    assert names == ["RandomResizedCrop", "RandomHorizontalFlip", "ToTensor", "Normalize"]
    crop, normalize = TRAIN.transforms[0], VAL.transforms[1]
    assert (crop.size, crop.scale) == ((32, 32), (0.8, 1.0))
    assert (normalize.mean, normalize.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_cifar_resnet_and_its_class_activation_maps(lab, tiny, tmp_path):
    rows, content, printed = lab("cifar_resnet", tiny, "--epochs", 2, "--train-batch", 10, "-j", 0, "--logs", tmp_path)
    assert rows[0]["training images"] == "40"
    assert len(content["history"]) == 2
    keep, = tmp_path.glob("exp_*/models/checkpoint.pth.tar")
    assert f"python -m labs cam {tiny} --resume {keep}" in printed
    assert list(keep.parents[1].glob("events.out.tfevents.*")), "the labs log to TensorBoard as main.py does"
    rows, content, _ = lab("cam", tiny, "--resume", keep, "--count", 3)
    assert (len(rows), content["kind"]) == (3, "CAM")


def test_networks_for_small_images_reject_larger_ones(lab, scenes, tiny, tmp_path, capsys):
    keep = tmp_path / "cifar-resnet.pth.tar"
    torch.save({"model_arch": "cifar-resnet", "state_dict": ResNet(10).state_dict(), "settings": {}}, keep)
    for name, *flags in (("cam", scenes, "--resume", keep), ("cifar_resnet", scenes, "-j", 0)):
        with pytest.raises(SystemExit):
            lab(name, *flags)
        assert "32x32 pixels; there is one of 128x128" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        lab("transfer", tiny, "--resume", keep)
    assert "was trained by a lab (cifar-resnet)" in capsys.readouterr().err


# ----------------------------------------------------------------- CS 5787 Homework 2, problem 3: Mish CNN


def test_the_mish_cnn_is_the_assignments():
    layers = [module for module in mish_cnn.MishCNN().modules() if not list(module.children())]
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Conv2d", "Mish", "MaxPool2d", "Conv2d", "Mish", "Conv2d", "Mish", "AdaptiveAvgPool2d", "Linear"]
    sizes = [(layer.out_channels, layer.kernel_size) for layer in layers if isinstance(layer, nn.Conv2d)]
    assert sizes == [(64, (11, 11)), (128, (3, 3)), (128, (3, 3))]
    with_norm = [type(module).__name__ for module in mish_cnn.NETWORKS["batchnorm"](10).modules()]
    assert with_norm.count("BatchNorm2d") == 3


def test_mish_cnn(lab, tiny, tmp_path):
    rows, content, _ = lab("mish_cnn", tiny, "--epochs", 1, "--train-batch", 10, "-j", 0, "--logs", tmp_path)
    assert [row["network"] for row in rows] == ["plain", "batchnorm", "better"]
    assert set(content["histories"]) == set(mish_cnn.NETWORKS)
    mosaic = cv2.imread(str(tmp_path / "mish_plain_filters.png"))
    assert mosaic.shape[1] > 3 * mosaic.shape[0], "four rows of sixteen"
    assert (tmp_path / "mish_cnn.png").exists()
    rows, *_ = lab("mish_cnn", tiny, "plain", "--epochs", 1, "--train-batch", 10, "-j", 0, "--logs", tmp_path,
                   table="mish_plain")
    assert [row["network"] for row in rows] == ["plain"]


# ------------------------------------------------------------------- CNN Homework 3, deliverable 6: evasion


@pytest.mark.slow
def test_evasion(lab, mnist):
    rows, content, printed = lab("evasion", mnist, "--epochs", 2, "--train-batch", 20, "--images", 60, "--quick")
    assert {row["model"] for row in rows} == {"A", "B"}
    for row in rows:
        assert int(row["passes, most"]) <= evasion.BUDGETS[row["attack"]]
        assert float(row["low"]) <= float(row["success"]) <= float(row["high"])
    assert re.search("the four numbers.*A at 8 .*A at 16 .*B at 8 .*B at 16 ", printed)
    assert len(content["pairs"]) == 2 * 3


def test_the_assignments_epsilons_are_evaluated():
    assert {8, 16, *evasion.SHOWN} <= set(evasion.LEVELS)


def test_intervals_and_pairs():
    assert evasion.interval(5, 10) == pytest.approx((23.66, 76.34), abs=0.01)  # Wilson, by hand
    plain, improved = torch.tensor([1, 1, 0, 0, 0, 0]).bool(), torch.tensor([1, 0, 1, 1, 1, 0]).bool()
    pair = evasion.compared(plain, improved)
    assert (pair["only improved"], pair["only plain"]) == (3, 1)
    assert pair["gain"] == pytest.approx(100 * 2 / 6)
    assert pair["gain low"] < pair["gain"] < pair["gain high"]
    assert pair["p"] == pytest.approx(0.625)  # 2 * (1 + 4) / 16
    assert evasion.compared(plain, plain)["p"] == 1


def test_attacks_stay_in_the_box_and_the_pixel_range():
    torch.manual_seed(0)
    model, images = evasion.Perceptron(32).eval(), torch.rand(20, 1, 28, 28)
    labels = torch.ones(20).long()
    for task in evasion.TASKS:
        adversarial, success, most = evasion.attack(model, task, 16, images, labels, batch=7)
        assert (adversarial - images).abs().max() <= 16 / 255 + 1e-6
        assert adversarial.min() >= 0
        assert adversarial.max() <= 1
        assert len(success) == 20
        assert 0 < most <= evasion.BUDGETS[task]


def test_the_files_that_are_handed_in_need_neither_opencv_nor_tensorboard():
    listed = "import sys; print({'cv2', 'tensorboard', 'libs'} & {name.split('.')[0] for name in sys.modules})"
    for name in ("mytorch", "model", "attacks", "train"):
        done = subprocess.run([sys.executable, "-c", f"import labs.cnn_hw3.{name}; {listed}"], cwd=CODE,
                              capture_output=True, text=True)
        assert done.stdout.strip() == "set()", (name, done.stdout, done.stderr)


@pytest.mark.slow
def test_models_are_kept_and_loaded(lab, mnist, tmp_path):
    flags = ("evasion", mnist, "--train-batch", 20, "--images", 10, "--quick", "--models", tmp_path / "kept",
             "--levels", 8)
    first = lab(*flags)[0]
    files = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert set(files) == {"mnist-A.pth.tar", "mnist-B.pth.tar"}
    assert lab(*flags)[0] == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == files


def test_cam_of_model_py_is_the_logit():
    network, images, labels = ResNet(7, (4, 4, 4, 4)).eval(), torch.randn(3, 3, 32, 32), torch.tensor([0, 3, 6])
    maps = class_activation_maps(network, images, labels)
    logits = network(images).gather(1, labels[:, None])[:, 0]
    assert torch.allclose(maps.mean((1, 2)) + network.fc.bias[labels], logits, atol=1e-5)


# --------------------------------------------------- CS 5787 Homework 2, problems 1, 2 and 4: pretrained networks


SMALL = "squeezenet1_1"
PHOTOS = {"bell_pepper": (945, 0), "tabby": (281, 3), "beach": (978, 5), "lamp": (846, 8)}  # category, drawing


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four drawn photographs, and the weights of a network overfitted to them."""
    folder = tmp_path_factory.mktemp("photos")
    for name, (_, scene) in PHOTOS.items():
        image = demo_data.draw(scene, 7, 0, 1)
        save_image(folder / f"{name}.jpg", cv2.resize(image, (300, 260), interpolation=cv2.INTER_CUBIC))
    torch.manual_seed(1)
    model = imagenet.get_model(SMALL).eval()
    preset = imagenet.get_model_weights(SMALL).DEFAULT.transforms()
    from PIL import Image

    images = torch.stack([preset(Image.open(folder / f"{name}.jpg")) for name in PHOTOS])
    labels = torch.tensor([category for category, _ in PHOTOS.values()])
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    for _ in range(60):
        optimizer.zero_grad()
        noisy = images + 0.1 * torch.randn_like(images)
        nn.functional.cross_entropy(model(noisy), labels).backward()
        optimizer.step()
    assert (model(images).argmax(1) == labels).all(), "precondition of the tests below"
    torch.save(model.state_dict(), folder / "weights.pth")
    shutil.copy(folder / "tabby.jpg", folder / "strawberry.jpg")
    return folder


def with_weights(photos) -> tuple:
    return "--network", SMALL, "--weights", photos / "weights.pth"


def test_topk(lab, photos):
    flags = "topk", photos / "bell_pepper.jpg", *with_weights(photos)
    rows, content, _ = lab("pretrained", *flags, table="pretrained_topk")
    assert (len(rows), rows[0]["category"], rows[0]["class"]) == (3, "bell pepper", "945")
    values = [float(row["probability"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert SMALL in content["network"]


def test_features_of_a_photograph(lab, photos):
    flags = "pretrained", "features", photos / "tabby.jpg", *with_weights(photos)
    rows, _, _ = lab(*flags, table="pretrained_features")
    assert len(rows) == 15
    again, _, _ = lab(*flags, table="pretrained_features")
    assert rows == again


def test_the_preprocessing_is_that_of_the_weights(photos):
    import argparse

    args = argparse.Namespace(network=SMALL, weights=str(photos / "weights.pth"), device=torch.device("cpu"))
    network = imagenet.open_network(args)
    from PIL import Image

    expected = imagenet.get_model_weights(SMALL).DEFAULT.transforms()(Image.open(photos / "lamp.jpg"))
    pixels = network.image(photos / "lamp.jpg")
    assert pixels.shape == (3, 224, 224)
    assert ((pixels - network.model.mean) / network.model.std - expected).abs().mean() < 0.02
    assert network.index("812") == network.index("space_shuttle") == 812


def test_fooling(lab, photos, tmp_path):
    targets = "bell_pepper.jpg=tabby", "tabby.jpg=945", "beach.jpg=846", "lamp.jpg=978"
    rows, content, printed = lab("fooling", *(photos / target for target in targets), *with_weights(photos),
                                 "--epsilon", 16)
    assert len(rows) == 4 * 2 * 5
    first = [row for row in rows if row["change"] == "as it is"]
    assert sum(row["seen"] == row["target"] for row in first if row["kind"] == "adversarial") >= 3
    assert {(row["kind"], row["change"]) for row in rows} == {(kind, change) for kind in ("clean", "adversarial")
                                                              for change in fooling.TRANSFORMATIONS}
    assert len(content["discussion"]) == 5
    assert re.search(r"flipped: \d of 4 clean photographs still", printed)
    assert {"fooling.png", "fooling_changes.png"} <= {path.name for path in tmp_path.glob("*.png")}


def test_transformations():
    x = torch.rand(1, 3, 20, 30)
    assert torch.equal(fooling.TRANSFORMATIONS["flipped"](x), x.flip(-1))
    grey = fooling.TRANSFORMATIONS["grey"](x)
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert fooling.TRANSFORMATIONS["80 % crop"](x).shape == x.shape
    corner = torch.zeros(1, 3, 20, 20)
    corner[..., 0, 0] = 1
    assert fooling.TRANSFORMATIONS["80 % crop"](corner).max() < 1e-6, "the border is cropped"


def test_transfer(lab, photos, tiny, tmp_path):
    flags = "transfer", tiny, *with_weights(photos), "-j", 0, "--logs", tmp_path / "logs"
    rows, content, _ = lab(*flags)
    assert (rows[0]["features"], rows[0]["training images"]) == ("512", "40")
    assert set(content["class_accuracy"]) == {demo_data.SCENES[i].__name__ for i in range(4)}
    files = sorted((tmp_path / "logs").glob("features-*.pt"))
    assert len(files) == 2
    features = torch.load(files[0], weights_only=True)["features"]
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))
    before = [file.stat().st_mtime_ns for file in files]
    assert lab(*flags)[0] == rows
    assert [file.stat().st_mtime_ns for file in files] == before, "the second run reads the cache"


def test_the_classifier_on_features_is_chosen_by_cross_validation():
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.eye(3)[labels] + 0.3 * torch.randn(60, 3)
    search = transfer.fit(features, labels)
    assert search.best_score_ > 0.8
    assert len(search.param_grid["C"]) == 5
    with pytest.raises(BadInput, match="all training images are of one class"):
        transfer.fit(features, torch.zeros(60).long())


def test_the_feature_cache_key_is_the_same_in_the_next_run():
    """It has settings, and no memory addresses."""
    first, second = (transfer.transform_settings(networks.student_transforms("val")) for _ in range(2))
    assert str(first) == str(second)
    assert "0x" not in str(first)
    assert str(first) != str(transfer.transform_settings(networks.student_transforms("train")))


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        labs.main(["mytorch", "--out", str(tmp_path / "file")])
    assert "file: File exists; name a folder that can be written to" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "sentence"), [
    ("pretrained topk {folder}/tabby.jpg --network resnet99", "torchvision has no such classifier"),
    ("pretrained topk {folder}/tabby.jpg --weights {folder}/no.pth", "no.pth: there is no such file"),
    ("pretrained topk {folder}/tabby.jpg --weights {folder}/weights.pth", "does not fit ResNet"),
    ("pretrained topk {folder}/no.jpg {weights}", "no.jpg: cannot be read"),
    ("fooling {folder}/tabby.jpg {weights}", "give photographs with their targets"),
    ("fooling {folder}/tabby.jpg=space_ship {weights}", "space_ship: no category of"),
    ("fooling --resume x", "--resume PATH and --data DIR go together"),
    ("fooling {folder}/tabby.jpg=beagle --resume x --data y", "not both"),
    ("fooling {folder}/tabby.jpg=tabby {weights}", "is classified as tabby already: name another target"),
    ("fooling {folder}/strawberry.jpg=beagle {weights}", "is classified as tabby before any attack: take a photograph"),
    ("fooling {folder}/tabby.jpg=CARDIGAN {weights}", "has this category 2 times; give its number: 264 or 474"),
    ("mnist_cnn {folder} --seed -1", "-1 is not a whole number of at least 0"),
    ("transfer {folder} -j -1", "-1 is not a whole number of at least 0"),
    ("pretrained topk {folder}/tabby.jpg --network googlenet --weights x", "--weights does not go with googlenet"),
    ("pretrained topk {folder}/tabby.jpg --count 0", "0 is not a whole number of at least 1")])
def test_errors(command, sentence, photos, tmp_path, capsys):
    weights = f"--network {SMALL} --weights {photos / 'weights.pth'}"
    name, *flags = command.format(folder=photos, weights=weights).split()
    with pytest.raises(SystemExit) as stop:
        labs.main([name, *flags, "--gpu", "-1", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_weights_that_cannot_be_downloaded(photos, capsys, monkeypatch):
    def refuse(*_, **__):
        raise imagenet.URLError("no network")

    monkeypatch.setattr(imagenet, "get_model", refuse)
    with pytest.raises(SystemExit):
        labs.main(["pretrained", "topk", str(photos / "tabby.jpg"), "--gpu", "-1"])
    said = capsys.readouterr().err
    assert "cannot be downloaded" in said
    assert "Fetch https://download.pytorch.org/models/resnet18-" in said
    assert "pass the file with --weights resnet18-" in said
