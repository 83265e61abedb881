"""Every lab of CS 771 Homework 2 runs on drawn scenes, and its table is checked against other code."""

import csv
import json

import cv2
import pytest
import torch

from extras import attacks
from extras.attacks import Threat
from labs import __main__ as labs
from labs import common, trained
from labs.cs771 import classes, convolutions, cost, curves, robust, saliency, sweep
from libs import checkpoint
from libs.metrics import summarize, top_k


@pytest.fixture(scope="module")
def runs(scenes, tmp_path_factory):
    """{model: run folder} of two networks, trained for two short epochs."""
    import main

    logs, folders = tmp_path_factory.mktemp("logs"), {}
    for model in ("simplenet", "vit"):
        before = set(logs.glob("exp_*"))
        main.main([str(scenes), "--model", model, "--epochs", "2", "-b", "8", "-j", "0", "--gpu", "-1", "--amp", "off",
                   "--logs", str(logs)])
        folders[model] = (set(logs.glob("exp_*")) - before).pop()
    return folders


def saved(folder) -> str:
    return str(folder / "models" / checkpoint.LAST)


@pytest.fixture
def lab(tmp_path, scenes, runs, capsys):
    """Run a lab: lab(name, *flags) -> rows of its CSV, content of its JSON, and {picture: height, width}."""

    def run(name, *flags, data=True):
        labs.main([name, *([str(scenes)] if data else []), *map(str, flags), "--out", str(tmp_path), "--gpu", "-1"])
        with (tmp_path / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert {"command", "commit", "torch", "cpu"} <= set(content["made_by"])
        assert len(content["rows"]) == len(rows)
        pictures = {path.stem: cv2.imread(str(path)).shape[:2] for path in tmp_path.glob("*.png")}
        assert pictures
        assert all(width >= 500 for _, width in pictures.values()), pictures
        return rows, content, pictures

    return run


@pytest.fixture
def few_steps(monkeypatch):
    """The strong attack with few steps, for speed."""
    for module in (sweep, robust):
        monkeypatch.setattr(module, "strong", lambda epsilon, *_: attacks.strong(epsilon, 3, 1))


def network(scenes, folder) -> trained.Trained:
    args = common.parser("x", "", resume="one").parse_args([str(scenes), "--resume", saved(folder)])
    args.device = torch.device("cpu")
    return trained.open_trained(args, [args.resume])[0]


def test_attacked(lab, runs, scenes):
    rows, _, pictures = lab("attacked", "--resume", *map(saved, runs.values()), "--steps", 3, "--names", "A", "B")
    assert [row["network"] for row in rows] == ["A", "B"]
    one = network(scenes, runs["simplenet"])
    metrics = summarize(one.logits(), one.labels)
    assert float(rows[0]["top-1 clean"]) == pytest.approx(metrics["top1"], abs=0.01)
    attacked = top_k(one.logits(one.attack(Threat(0.1, steps=3)).images), one.labels, 1).item()
    assert float(rows[0]["top-1 adversarial"]) == pytest.approx(attacked, abs=0.01)
    for row in rows:
        difference = float(row["top-5 adversarial"]) - float(row["top-5 clean"])
        assert float(row["top-5 difference"]) == pytest.approx(difference, abs=1e-3)
    assert set(pictures) == {"attacked"}


@pytest.mark.slow
def test_sweep(lab, runs, few_steps):
    rows, content, pictures = lab("sweep", "--resume", saved(runs["simplenet"]), "--quick", "--images", 4)
    assert len(rows) == 4
    assert {(row["label"], row["chosen"]) for row in rows} == {(label, when) for label in sweep.LABELS
                                                               for when in ("each step", "once")}
    assert set(pictures) == {"sweep", "sweep_curves"}
    by_epsilon, by_steps = content["curves"].values()
    for series in (by_epsilon, by_steps):
        assert set(series) == {"least likely, each step", "least likely, once", "most likely, once", "strong setting"}
    clean = content["clean"]["top-1"]
    assert all(values[0] == pytest.approx(clean) for _, values in (*by_epsilon.values(), *by_steps.values()))
    for _, values in by_steps.values():
        assert values == sorted(values, reverse=True), "the best iterate so far"


def test_the_full_sweep_has_the_settings_of_the_2023_report():
    assert len(sweep.SETTINGS) == 6
    assert sweep.SETTINGS[0] == (10, 0.01, 0.1)
    assert {steps for steps, _, _ in sweep.SETTINGS} == {10, 50}


def test_noise(lab, runs):
    rows, _, _ = lab("noise", "--resume", saved(runs["simplenet"]), "--count", 2, "--epsilon", 0.5, "--step-size", 0)
    assert all(row["true"] == row["seen before"] for row in rows)
    assert all(float(row["largest change"]) == pytest.approx(0.5, abs=1e-3) for row in rows)


def test_saliency(lab, runs):
    for flags in ((), ("--logit",)):
        rows, _, pictures = lab("saliency", "--resume", saved(runs["simplenet"]), "--count", 3, *flags)
        assert all((row["true"] == row["seen"]) == (row["kind"] == "right") for row in rows)
        assert {f"saliency_{row['kind']}" for row in rows} == set(pictures)
    flat, peak = torch.ones(1, 10, 10), torch.zeros(1, 10, 10)
    peak[0, 3, 3] = 1
    assert saliency.concentration(flat) == pytest.approx(0.1)
    assert saliency.concentration(peak) == 1


def test_curves(lab, runs):
    rows, content, _ = lab("curves", *runs.values(), "--names", "one", "two", data=False)
    history = json.loads((runs["vit"] / "results.json").read_text())["history"]
    assert float(rows[1]["last top1 val"]) == pytest.approx(history[-1]["val"]["top1"], abs=1e-3)
    assert float(rows[1]["last validation loss"]) == pytest.approx(history[-1]["val"]["loss"], abs=1e-3)
    expected = [row["train"]["top5"] for row in history]
    assert content["series"]["two"]["top5 train"][1] == pytest.approx(expected, abs=1e-3)
    epochs, losses = content["series"]["one"]["loss train"]
    assert epochs == [1, 2]
    assert len(losses) == 2


def test_training_loss_is_averaged_by_epoch():
    assert curves.by_epoch([0.5, 1.0, 1.5, 2.0], [4, 2, 3, 1]) == ([1, 2], [3, 2])


def test_classes(lab, runs, scenes):
    rows, _, pictures = lab("classes", "--resume", saved(runs["simplenet"]), "--ends", 1, "--count", 3)
    assert len(rows) == 4
    accuracy = [float(row["accuracy"]) for row in rows]
    assert accuracy == sorted(accuracy, reverse=True)
    assert set(pictures) == {"classes_examples", "classes_bars", "classes_confusion"}
    one = network(scenes, runs["simplenet"])
    scores = torch.eye(4)[(one.labels + (torch.arange(12) >= 8)) % 4] * 5
    images, captions, right = classes.examples(one, scores.softmax(1), 1, 3)
    assert (len(images), len(captions), sorted(right)) == (3, 3, [False, True, True])


@pytest.mark.parametrize("model", ["simplenet", "vit"])
def test_cam(lab, runs, model):
    rows, content, _ = lab("cam", "--resume", saved(runs[model]), "--count", 3)
    assert len(rows) == 3
    assert content["kind"] == {"simplenet": "CAM", "vit": "token saliency"}[model]


def test_features(lab, runs):
    rows, _, pictures = lab("features", "--resume", saved(runs["simplenet"]), "--count", 4, "--image", 3)
    assert len(rows) == 12
    assert set(pictures) == {"features", "filters"}


@pytest.mark.slow
def test_compare(lab, runs):
    rows, _, _ = lab("compare", "--resume", saved(runs["vit"]), "--step-batch", 4)
    assert [row["network"] for row in rows] == ["vit"]
    assert rows[0]["epochs"] == "2 of 2"
    assert all(float(row["memory of a step (MB)"]) > 1 and float(row["images/s"]) > 0 for row in rows)


def test_multiply_adds(capsys):
    labs.main("cost simplenet 4 32 2 --gpu -1".split())
    found = json.loads(capsys.readouterr().out)
    by_hand = (16 * 16 * 64 * 147 + 8 * 8 * (64 * 64 + 64 * 576 + 64 * 256)
               + 4 * 4 * (256 * 128 + 128 * 1152 + 128 * 512) + 512 * 4)
    assert found["multiply_adds"] == by_hand
    assert found["parameters"] == 365028 - 96 * 513
    labs.main("cost simplenet 4 32 2 --gpu -1 --conv unfold".split())
    assert json.loads(capsys.readouterr().out)["multiply_adds"] == by_hand, "unfold costs no multiply-adds"


@pytest.mark.slow
def test_convolutions(lab, tmp_path, monkeypatch):
    kinds = dict(list(convolutions.KINDS.items())[:2])
    assert list(convolutions.KINDS) == ["nn.Conv2d", "custom (unfold)", "custom (flat)"]
    monkeypatch.setattr(convolutions, "KINDS", kinds)
    costs = iter([{"peak_memory_mb": 100.0}, {"peak_memory_mb": 150.0}])
    monkeypatch.setattr(cost, "measure", lambda *_: next(costs))
    rows, _, _ = lab("convolutions", "--epochs", 1, "--train-batch", 8, "--logs", tmp_path / "logs")
    assert [row["convolution"] for row in rows] == list(kinds)
    assert [float(row["memory ratio"]) for row in rows] == [1.0, 1.5]
    seconds = [float(row["batch (s)"]) for row in rows]
    assert float(rows[1]["time ratio"]) == pytest.approx(seconds[1] / seconds[0], rel=0.05)


@pytest.mark.slow
def test_robust(lab, runs, tmp_path, few_steps):
    rows, _, pictures = lab("robust", "--resume", saved(runs["simplenet"]), "--epochs", 1, "--train-batch", 8,
                            "--images", 4, "--logs", tmp_path / "logs")
    assert len(rows) == 6
    assert {row["attack"] for row in rows} == {"sheet's", "strong"}
    names = ["simplenet", "simplenet + 1 clean epochs", "simplenet + 1 adversarial"]
    assert [row["network"] for row in rows] == names * 2
    assert len(list((tmp_path / "logs").glob("exp_*"))) == 2
    assert set(pictures) == {"robust", "robust_strong"}


def test_gallery_shows_images_that_the_attack_fools(lab, runs):
    rows, content, pictures = lab("gallery", "--resume", saved(runs["simplenet"]), "--count", 1, "--epsilon", 3,
                                  "--step-size", 1)
    assert set(pictures) == {"gallery"}
    assert content["attacked_by"] == trained.STUDENT
    assert all(row["before"].startswith(row["true"]) and not row["after"].startswith(row["true"]) for row in rows)


def test_exported_weights_evaluate_and_classify(runs, scenes, tmp_path, capsys, drive):
    """A 16-bit file works wherever a checkpoint does, and its logits are those of the checkpoint, rounded."""
    file, photo = tmp_path / "weights" / "net.pt", next((scenes / "images/val").glob("*.jpg"))
    labs.main(["export", str(scenes), "--resume", saved(runs["simplenet"]), "--file", str(file), "--gpu", "-1",
               "--out", str(tmp_path)])
    assert file.stat().st_size < 1e6
    small, whole = checkpoint.load(file)["state_dict"], checkpoint.load(saved(runs["simplenet"]))["state_dict"]
    assert all(small[name].dtype == torch.float16 and torch.equal(small[name], whole[name].half()) for name in whole)
    found = [drive(scenes, "-e", "--resume", path).folder for path in (file, saved(runs["simplenet"]))]
    losses = [json.loads((folder / "results.json").read_text())["alone"]["loss"] for folder in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    capsys.readouterr()
    for path in (file, saved(runs["simplenet"])):
        labs.main(["classify", str(photo), "--resume", str(path), "--gpu", "-1", "--out", str(tmp_path)])
        assert photo.name in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "classify.csv").open()))
    assert {row["category"] for row in rows} == set(checkpoint.load(file)["classes"])
    assert (tmp_path / "classify.png").exists()


def test_classify_wants_a_checkpoint_that_names_its_classes(scenes, runs, tmp_path, capsys):
    content = checkpoint.load(saved(runs["simplenet"]))
    del content["classes"]
    torch.save(content, tmp_path / "old.pt")
    photo = next((scenes / "images/val").glob("*.jpg"))
    with pytest.raises(SystemExit):
        labs.main(["classify", str(photo), "--resume", str(tmp_path / "old.pt"), "--out", str(tmp_path / "out")])
    assert "does not name its classes; write a file that does with: python -m labs export" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(("name", "flags", "sentence"), [
    ("attacked", "--resume no.tar", "no.tar: there is no such file"),
    ("attacked", "--resume {cnn} --names A B", "--names has 2 names for 1 checkpoints"),
    ("attacked", "--resume {cnn} --epsilon -1", "Threat: epsilon is -1.0; it has to be a finite number of at least 0"),
    ("sweep", "--resume {cnn} --images 99", "--images 99: {scenes} has 12 images in val"),
    ("features", "--resume {cnn} --image 12", "--image 12: there are the images 0 to 11"),
    ("features", "--resume {cnn} --layers nothing", "the network has no layer nothing"),
    ("robust", "--resume {vit}", "--by sheet trains AdvSimpleNet, and {vit} is vit; take --by pgd or --by fast")])
def test_errors(name, flags, sentence, scenes, runs, tmp_path, capsys):
    words = {"cnn": saved(runs["simplenet"]), "vit": saved(runs["vit"]), "scenes": scenes}
    with pytest.raises(SystemExit) as stop:
        labs.main([name, str(scenes), *flags.format(**words).split(), "--gpu", "-1", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert sentence.format(**words) in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "an error writes no files"


def test_folders_that_are_no_runs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        labs.main(["curves", str(tmp_path), "--out", str(tmp_path)])
    assert "has no event file" in capsys.readouterr().err


@pytest.mark.parametrize("name", labs.LABS)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        labs.main([name, "--help"])
    assert stop.value.code == 0
    assert f"python -m labs {name}" in capsys.readouterr().out


def test_tables():
    rows = [{"name": "a", "count": 1200, "share": 1.5}, {"name": "bb", "count": 3, "share": None}]
    assert common.table(rows).splitlines() == ["name  count  share", "a     1,200   1.50", "bb        3      -"]


