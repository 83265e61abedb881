"""The driver from the command line: three jobs, exact resume, and a sentence for everything that can be wrong."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import CODE, comparable, same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main as driver
import student_code
from libs import arguments, checkpoint
from student_code import SimpleNet

SHORT = "--epochs", 2, "-b", 8, "-p", 2
FLAGS = ["main.py", "-j", "0", "--gpu", "-1", "--amp", "off"]
MAIN = [sys.executable, *FLAGS]


def load(path):
    return torch.load(path, weights_only=True)


# --------------------------------------------------------------------------------------------- the flags


def test_flags_and_defaults_of_the_sheet():
    args = arguments.parse_args(["data"])
    expected = {"workers": 4, "epochs": 90, "warmup": 5, "start_epoch": 0, "batch_size": 256, "lr": 0.1,
                "momentum": 0.9, "weight_decay": 1e-4, "clip_grad": 1.0, "print_freq": 10, "resume": None,
                "evaluate": False, "attack": False, "vis": False, "use_custom_conv": None, "use_vit": False,
                "use_resnet18": False, "gpu": None, "use_mps": False, "seed": 0, "amp": "auto"}
    assert {name: getattr(args, name) for name in expected} == expected


def test_every_spelling_of_the_sheet():
    line = ("data -j 2 --epochs=60 --start-epoch 3 -b 8 --lr 0.01 --momentum .5 --wd 0.05 -p 3 --resume=x -e -v "
            "--gpu -1 --use-custom-conv --warmup 2 --clip-grad 2")
    args = arguments.get_args_parser().parse_args(line.split())
    assert (args.workers, args.epochs, args.lr, args.weight_decay, args.gpu) == (2, 60, 0.01, 0.05, -1)
    line = ("d --workers 1 --batch-size 2 --learning-rate 1 --weight-decay 2 --print-freq 3 --evaluate --attack --vis "
            "--use-vit")
    long = arguments.get_args_parser().parse_args(line.split())
    assert (long.workers, long.batch_size, long.lr, long.weight_decay) == (1, 2, 1, 2)


@pytest.mark.parametrize(("flags", "sentence"), [
    ("-e", "-e needs --resume PATH"), ("-a", "-a needs --resume PATH"), ("-v", "-v goes with -e or -a"),
    ("-e -a --resume x", "exclude each other"), ("--use-vit --use-resnet18", "exclude each other"),
    ("--model msn --use-vit", "exclude each other"), ("--model lenet", "no such model; take one of simplenet"),
    ("--use-vit --use-custom-conv", "does not go with vit"), ("--use-vit --momentum 0.5", "AdamW"),
    ("--weights f", "--weights goes with --model resnet18"), ("--use-mps --gpu 0", "exclude each other"),
    ("--num-steps 5", "--num-steps goes with -a"), ("--epochs 0", "0 is not a whole number of at least 1"),
    ("--lr nan", "nan is not a finite number above 0"), ("--lr inf", "inf is not a finite number above 0"),
    ("--lr=-1", "-1 is not a finite number above 0"), ("--momentum 1.5", "at most 1"), ("-b 0", "of at least 1"),
    ("--epochs two", "invalid whole number value"), ("--amp int8", "invalid choice"),
    ("--resume /nowhere/x.pth.tar", "/nowhere/x.pth.tar: there is no such file"),
    ("--start-epoch 5 --epochs 3", "leaves none of --epochs 3"), ("-b 8 --amp fp16", "needs a CUDA GPU"),
    ("--gpu 7", "--gpu 7: this machine has")])
def test_wrong_flags_end_in_a_sentence(drive, scenes, flags, sentence):
    """Fault 2: -e or -a without --resume silently started training."""
    if "--gpu" in flags and torch.cuda.device_count() > 7:
        pytest.skip("this machine has that many")
    run = drive(scenes, *flags.split())
    assert run.code == 2
    assert "main.py: error: " in run.out or "error: argument" in run.out
    assert sentence in run.out
    assert run.folder is None


# ---------------------------------------------------------------------------------- train, evaluate, attack


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """The run folder of two epochs, uninterrupted."""
    logs = tmp_path_factory.mktemp("logs")
    done = subprocess.run([*MAIN, str(scenes), *"--epochs 2 -b 8 -p 2 --logs".split(), str(logs)], cwd=CODE,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder, = logs.glob("exp_*")
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def test_training_prints_a_line_for_each_part(trained):
    printed = (trained / "printed.txt").read_text()
    for epoch in (1, 2):
        assert f"epoch {epoch}/2 train  loss" in printed
        assert f"epoch {epoch}/2 val    loss" in printed
    assert "epoch 1/2 train [2/3] loss" in printed  # plain lines, as this is no terminal
    assert "images/s" in printed
    assert "waiting for data" in printed
    assert "left" in printed
    assert "tensorboard --logdir" in printed


def test_the_run_folder(trained):
    assert not set(trained.name) & set(": ")
    assert {"models", "settings.json", "results.json", "curves.png", "confusion_matrix.png",
            "class_accuracy.png"} <= {p.name for p in trained.iterdir()}
    assert len(list(trained.rglob("events.out.tfevents*"))) == 1
    results = json.loads((trained / "results.json").read_text())
    assert len(results["history"]) == 2
    assert results["made_by"]["torch"] == torch.__version__
    assert sum(map(sum, results["last"]["confusion"])) == 12


def test_tensorboard_has_the_tags(trained):
    events = EventAccumulator(str(trained)).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"data/training_loss", "data/learning_rate", "data/epoch_time", "data/images_per_second"} <= scalars
    assert {f"data/top{k}_accuracy/{split}" for k in (1, 5) for split in ("train", "val")} <= scalars
    assert {"Image/confusion_matrix", "Image/class_accuracy"} <= set(events.Tags()["images"])
    assert len(events.Scalars("data/training_loss")) == 4  # batches 2 and 3 of each epoch
    assert all(e.value > 0 for e in events.Scalars("data/learning_rate"))


def test_checkpoint_keys(trained):
    for name in (checkpoint.LAST, checkpoint.BEST):
        state = load(trained / "models" / name)
        assert {"epoch", "model_arch", "state_dict", "best_acc1", "optimizer", "scheduler"} <= set(state)
    assert (state["model_arch"], isinstance(state["best_acc1"], float)) == ("simplenet", True)
    assert load(trained / "models" / checkpoint.LAST)["epoch"] == 2


def test_the_same_seed_gives_the_same_run(trained, drive, scenes):
    again = drive(scenes, *SHORT)
    assert same(comparable(again.folder / "models" / checkpoint.LAST), comparable(trained / "models" / checkpoint.LAST))
    other = drive(scenes, *SHORT, "--seed", 1)
    assert not same(load(other.folder / "models" / checkpoint.LAST)["state_dict"],
                    load(trained / "models" / checkpoint.LAST)["state_dict"])


def test_evaluation_gives_both_views(trained, drive, scenes):
    run = drive(scenes, "-e", "-v", "--resume", trained / "models" / checkpoint.LAST, "-b", 5)
    assert run.code == 0
    assert "single view" in run.out
    assert "with horizontal flip averaged" in run.out
    results = json.loads((run.folder / "results.json").read_text())
    training = json.loads((trained / "results.json").read_text())
    assert results["alone"]["top1"] == pytest.approx(training["history"][-1]["val"]["top1"])
    assert results["alone"]["loss"] == pytest.approx(training["history"][-1]["val"]["loss"], rel=1e-4)
    assert {"mAP", "mean_class_accuracy", "class_accuracy"} <= set(results["averaged_with_mirror_image"])
    assert {"saliency.png", "confusion_matrix.png"} <= {p.name for p in run.folder.iterdir()}
    assert {"Image/Org_Image", "Image/Image_Atten"} <= set(EventAccumulator(str(run.folder)).Reload().Tags()["images"])
    assert len(list(run.folder.rglob("events.out.tfevents*"))) == 1
    assert not (run.folder / "models").exists()


def test_evaluation_at_another_size_stands_beside_the_sheets(trained, drive, scenes):
    run = drive(scenes, "-e", "--view", 160, "--resume", trained / "models" / checkpoint.LAST, "-b", 5)
    assert "at 160 pixels, flip averaged" in run.out
    results = json.loads((run.folder / "results.json").read_text())
    plain = drive(scenes, "-e", "--resume", trained / "models" / checkpoint.LAST, "-b", 5)
    assert results["alone"] == json.loads((plain.folder / "results.json").read_text())["alone"]
    assert results["view"]["pixels"] == 160
    assert results["view"]["alone"]["loss"] != results["alone"]["loss"]


def test_a_view_that_the_network_does_not_accept_is_named(drive, scenes, tmp_path, monkeypatch):
    model = student_code.default_vit_model(num_classes=4)
    torch.save({"model_arch": "vit", "state_dict": model.state_dict()}, tmp_path / "vit.pth.tar")
    run = drive(scenes, "-e", "--view", 150, "--resume", tmp_path / "vit.pth.tar", "-b", 5)
    assert (run.code, "--view 150: vit does not accept images of this size" in run.out) == (2, True), run.out


def test_saliency_that_is_not_written_yet_is_a_note(trained, drive, scenes, monkeypatch):
    def hole(self, *_):
        raise NotImplementedError("write GradAttention.explain")

    monkeypatch.setattr(student_code.GradAttention, "explain", hole)
    run = drive(scenes, "-a", "-v", "--resume", trained / "models" / checkpoint.LAST, "-b", 5)
    assert run.code == 0, run.out
    assert run.out.count("note: no saliency maps: write GradAttention.explain") == 1
    assert {"attack.png", "results.json"} <= {path.name for path in run.folder.iterdir()}


def test_attack_gives_clean_adversarial_and_difference(trained, drive, scenes):
    best = trained / "models" / checkpoint.BEST
    run = drive(scenes, "-a", "-v", "--resume", best, "-b", 5, "-p", 1, "--epsilon", 0.5, "--step-size", 0.1)
    results = json.loads((run.folder / "results.json").read_text())
    for k in ("top1", "top5"):
        assert results["difference"][k] == pytest.approx(results["adversarial"][k] - results["clean"][k])
    assert results["attack"] == {"name": "PGDAttack", "num_steps": 10, "step_size": 0.1, "epsilon": 0.5}
    assert results["adversarial"]["loss"] != results["clean"]["loss"]
    events = EventAccumulator(str(run.folder)).Reload()
    assert {"Image/Org_Image", "Image/Adv_Image", "Image/Image_Atten"} <= set(events.Tags()["images"])
    assert [e.step for e in events.Images("Image/Adv_Image")] == [0, 1, 2]  # the slider over the batches
    assert {f"{kind}_{batch:04}.png" for kind in ("Org_Image", "Adv_Image", "Image_Atten") for batch in range(3)} == {
        p.name for p in (run.folder / "images").iterdir()}
    assert (run.folder / "attack.png").exists()
    for word in ("clean", "adversarial", "difference"):
        assert word in run.out


@pytest.mark.parametrize("name", ["adv-simplenet", "customnet", "msn", "residual", "vit"])
def test_every_model_trains_and_is_recognised_by_its_checkpoint(drive, scenes, name):
    run = drive(scenes, "--model", name, "--epochs", 1, "-b", 8, "--lr", 0.01)
    assert run.code == 0, run.out
    state = load(run.folder / "models" / checkpoint.LAST)
    assert state["model_arch"] == name
    assert ("betas" in state["optimizer"]["param_groups"][0]) == (name == "vit")
    again = drive(scenes, "-e", "--resume", run.folder / "models" / checkpoint.LAST)
    assert again.code == 0, again.out
    assert f"model   {name}" in again.out


@pytest.mark.parametrize(("flag", "kind"), [("--use-custom-conv", "unfold"), ("--use-custom-conv=flat", "flat")])
def test_own_convolutions(tmp_path, capsys, scenes, flag, kind):
    """A bare flag before DIR must not swallow DIR."""
    driver.main([flag, str(scenes), *map(str, SHORT), "-j", "0", "--gpu", "-1", "--logs", str(tmp_path)])
    assert f"simplenet of custom convolutions ({kind})" in capsys.readouterr().out
    saved = next(tmp_path.glob("exp_*")) / "models" / checkpoint.LAST
    driver.main([str(scenes), "-e", "--resume", str(saved), "--gpu", "-1", "--logs", str(tmp_path)])
    assert f"simplenet of custom convolutions ({kind})" in capsys.readouterr().out
    state = load(saved)
    state["settings"]["use_custom_conv"] = True  # as it was written when there was only one
    torch.save(state, saved)
    driver.main([str(scenes), "-e", "--resume", str(saved), "--gpu", "-1", "--logs", str(tmp_path)])
    assert "simplenet of custom convolutions (unfold)" in capsys.readouterr().out


def test_resnet18(drive, scenes, tmp_path):
    from libs import networks

    torch.save(networks.resnet18().state_dict(), tmp_path / "r18.pth")
    run = drive(scenes, "--use-resnet18", "--weights", tmp_path / "r18.pth", "--epochs", 1, "-b", 8)
    assert run.code == 0, run.out
    assert drive(scenes, "-e", "--resume", run.folder / "models" / checkpoint.LAST).code == 0


def test_a_stock_checkpoint_evaluates_and_attacks(drive, scenes, tmp_path):
    state = {"epoch": 60, "model_arch": "simplenet", "best_acc1": torch.tensor(44.9),
             "state_dict": {f"module.{k}": v for k, v in SimpleNet(num_classes=4).state_dict().items()}}
    torch.save(state, tmp_path / "model_best.pth.tar")
    for job in ("-e", "-a"):
        assert drive(scenes, job, "--resume", tmp_path / "model_best.pth.tar").code == 0
    assert drive(scenes, "--model", "simplenet", "-e", "--resume", tmp_path / "model_best.pth.tar").code == 0
    more = drive(scenes, "--resume", tmp_path / "model_best.pth.tar", "--epochs", 61, "-b", 8)
    assert "has no optimizer state" in more.out
    assert load(more.folder / "models" / checkpoint.LAST)["epoch"] == 61


@pytest.mark.parametrize("class_name", ["MyResNet", "ViTLikeNet", "MyNet"])
def test_a_students_own_default_network(drive, scenes, monkeypatch, class_name):
    """Its name must not matter: it is trained, recognised in its checkpoint, and can be asked for."""
    own = type(class_name, (SimpleNet,), {})
    monkeypatch.setattr(student_code, "default_cnn_model", own)
    run = drive(scenes, "--epochs", 1, "-b", 8)
    assert "model   default-cnn" in run.out, run.out
    again = drive(scenes, "-e", "--resume", run.folder / "models" / checkpoint.LAST)
    assert (again.code, "model   default-cnn" in again.out) == (0, True)
    torch.save({"model_arch": "simplenet", "state_dict": own(num_classes=4).state_dict()}, run.folder / "stock.pth.tar")
    stock = drive(scenes, "-a", "--resume", run.folder / "stock.pth.tar")
    assert (stock.code, "model   default-cnn" in stock.out) == (0, True)


# ------------------------------------------------------------------------------------------------ resume


@pytest.fixture
def interrupted(drive, scenes, monkeypatch):
    """A run of two epochs that was stopped in the middle of the second."""
    real, calls = SimpleNet.forward, []

    def stop_later(self, x):
        calls.append(self.training)
        if sum(calls) == 5:
            raise KeyboardInterrupt
        return real(self, x)

    monkeypatch.setattr(SimpleNet, "forward", stop_later)
    run = drive(scenes, *SHORT)
    monkeypatch.setattr(SimpleNet, "forward", real)
    return run


def test_interrupted_and_resumed_equals_never_interrupted(interrupted, trained, drive, scenes):
    """Bit for bit: weights, momentum, schedule, history."""
    last = interrupted.folder / "models" / checkpoint.LAST
    assert interrupted.code == 130
    assert f"stopped; 1 of 2 epochs are done; to continue: python main.py {scenes} --resume {last}" in interrupted.out
    assert load(last)["epoch"] == 1
    resumed = drive(scenes, "--resume", last)
    assert same(comparable(resumed.folder / "models" / checkpoint.LAST),
                comparable(trained / "models" / checkpoint.LAST))


def test_model_best_can_be_resumed(interrupted, trained, drive, scenes):
    """Fault 3: KeyError: optimizer."""
    resumed = drive(scenes, "--resume", interrupted.folder / "models" / checkpoint.BEST)
    assert same(load(resumed.folder / "models" / checkpoint.LAST)["state_dict"],
                load(trained / "models" / checkpoint.LAST)["state_dict"])


def test_stopped_before_the_first_epoch_ends(drive, scenes, monkeypatch):
    def stop(self, x):
        if self.training:
            raise KeyboardInterrupt
        return x.mean() * torch.ones(len(x), 4)

    monkeypatch.setattr(SimpleNet, "forward", stop)
    run = drive(scenes, *SHORT)
    assert run.code == 130
    assert "nothing is saved yet" in run.out


def test_a_longer_run_goes_on_falling(interrupted, drive, scenes):
    """Fault 3 again: the help says that the rate falls from where it is to zero at the new end."""
    last = interrupted.folder / "models" / checkpoint.LAST
    resumed = drive(scenes, "--resume", last, "--epochs", 4)
    rates = [row["rate"] for row in load(resumed.folder / "models" / checkpoint.LAST)["history"]]
    assert len(rates) == 4
    assert rates == sorted(rates, reverse=True)
    assert rates[1] > 0.01
    assert rates[-1] < 0.001
    once_more = drive(scenes, "--resume", resumed.folder / "models" / checkpoint.LAST)
    assert "has finished 4 epochs, and --epochs is 4" in once_more.out
    finished = drive(scenes, "--resume", resumed.folder / "models" / checkpoint.LAST, "--epochs", 6)
    assert finished.code == 2
    assert "its learning rate is zero" in finished.out
    assert "--start-epoch 0" in finished.out


def test_a_resume_that_cannot_be_leaves_no_folder(trained, drive, scenes, tmp_path):
    run = drive(scenes, "--resume", trained / "models" / checkpoint.LAST)
    assert "has finished 2 epochs" in run.out
    assert not (tmp_path / "logs").exists()
    late = drive(scenes, "--resume", trained / "models" / checkpoint.LAST, "--start-epoch", 9, "--epochs", 5)
    assert "--start-epoch 9 leaves none of --epochs 5" in late.out
    warm = drive(scenes, "--resume", trained / "models" / checkpoint.LAST, "--warmup", 1)
    assert "--warmup belongs to the start of a run" in warm.out


def test_clipping_is_kept_by_a_resumed_run(drive, scenes, monkeypatch):
    bounds = []
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, bound: bounds.append(bound) or real(p, bound))
    run = drive(scenes, "--epochs", 4, "-b", 24, "--clip-grad", 0.5)
    assert bounds == [0.5] * 4
    state = load(run.folder / "models" / checkpoint.LAST)
    state["epoch"] = 3
    torch.save(state, run.folder / "earlier.pth.tar")
    drive(scenes, "--resume", run.folder / "earlier.pth.tar")
    assert bounds == [0.5] * 5
    drive(scenes, "--epochs", 1, "-b", 24)
    assert len(bounds) == 5  # not for a convolutional network, unless asked
    drive(scenes, "--epochs", 1, "-b", 24, "--use-vit", "--lr", 0.001)
    assert bounds[5:] == [1.0]


def stock_state(**optimizer) -> dict:
    model = SimpleNet(num_classes=4)
    sgd = torch.optim.SGD(model.parameters(), momentum=0.8, **optimizer)
    sgd.param_groups[0]["initial_lr"] = optimizer["lr"]
    return {"epoch": 1, "model_arch": "simplenet", "state_dict": model.state_dict(), "best_acc1": 99.0,
            "optimizer": sgd.state_dict()}


@pytest.mark.parametrize("scheduler", [None, {"lr_lambdas": [None]}, {"T_max": 100}])
def test_a_stock_run_goes_on_with_its_own_settings(drive, scenes, tmp_path, scheduler):
    torch.save({**stock_state(lr=0.01, weight_decay=5e-4), "scheduler": scheduler}, tmp_path / "checkpoint.pth.tar")
    torch.save({**stock_state(lr=0.01), "marked": True}, tmp_path / "model_best.pth.tar")
    run = drive(scenes, "--resume", tmp_path / "checkpoint.pth.tar", *SHORT)
    group = load(run.folder / "models" / checkpoint.LAST)["optimizer"]["param_groups"][0]
    assert (group["initial_lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.8, 5e-4)
    assert "marked" in load(run.folder / "models" / checkpoint.BEST), "a better model was overwritten by a worse one"


def test_an_optimizer_state_that_does_not_fit(drive, scenes, tmp_path):
    state = stock_state(lr=0.1)
    state["optimizer"]["param_groups"] *= 2
    torch.save(state, tmp_path / "checkpoint.pth.tar")
    assert "its optimizer state does not match simplenet" in drive(scenes, "--resume", tmp_path / "checkpoint.pth.tar",
                                                                 *SHORT).out


def test_the_event_file_of_a_stopped_run_is_whole(interrupted):
    scalars = EventAccumulator(str(interrupted.folder)).Reload().Tags()["scalars"]
    assert {"data/top1_accuracy/val", "data/top5_accuracy/train", "data/epoch_time"} <= set(scalars)


def test_start_epoch_begins_a_new_schedule_from_the_weights(trained, drive, scenes):
    run = drive(scenes, "--resume", trained / "models" / checkpoint.LAST, "--model", "adv-simplenet",
                *"--start-epoch 0 --epochs 1 -b 8 --lr 0.001".split())
    state = load(run.folder / "models" / checkpoint.LAST)
    assert (state["epoch"], state["model_arch"], len(state["history"])) == (1, "adv-simplenet", 1)


def test_flags_that_were_typed_win_over_the_checkpoint(interrupted, drive, scenes):
    last = interrupted.folder / "models" / checkpoint.LAST
    resumed = drive(scenes, "--resume", last, "--lr", 0.02, "--momentum", 0.5)
    group = load(resumed.folder / "models" / checkpoint.LAST)["optimizer"]["param_groups"][0]
    assert (group["initial_lr"], group["momentum"]) == (0.02, 0.5)


# -------------------------------------------------------------------------------------------- bad input


def test_data_that_cannot_be_used_is_named_before_anything_is_written(drive, fresh_scenes, tmp_path):
    assert "there is no such folder" in drive(tmp_path / "nowhere").out
    too_large = drive(fresh_scenes)
    assert "--batch-size 256 is larger than the training split" in too_large.out
    assert "12 images; take 12 or less" in too_large.out
    with (fresh_scenes / "val.txt").open("a") as file:
        file.write("val/00000000.jpg\n")
    assert "val.txt:7: expected 'path label'" in drive(fresh_scenes, "-b", 4).out
    (fresh_scenes / "val.txt").unlink()
    run = drive(fresh_scenes, "-b", 4)
    assert "val.txt: there is no such file" in run.out
    assert run.code == 2
    assert not (tmp_path / "logs").exists()


def test_a_checkpoint_of_other_classes_and_a_size_that_does_not_fit(drive, scenes, tmp_path, monkeypatch):
    torch.save({"state_dict": SimpleNet().state_dict()}, tmp_path / "c.pth.tar")
    run = drive(scenes, "-e", "--resume", tmp_path / "c.pth.tar")
    assert "fc.weight is 100x512 in the file and 4x512 in the model" in run.out
    import custom_transforms as T

    monkeypatch.setattr(student_code, "get_val_transforms",
                        lambda: T.Compose([T.Scale(120), T.CenterCrop(120), *student_code._to_input(None)]))
    assert "120x120 pixels cannot be cut into patches of 16x16" in drive(scenes, "--use-vit", "-b", 8).out


def test_a_diverged_run_ends_with_a_sentence(drive, scenes):
    run = drive(scenes, *"--epochs 1 --warmup 0 -b 24 --lr 1e30".split())
    assert (run.code, "has diverged. Take a smaller --lr" in run.out) == (1, True)


def test_code_that_is_not_written_yet(drive, scenes, monkeypatch, tmp_path):
    """One line with the place, instead of torch's frames; and no run folder."""
    source = "def forward(self, x):\n    raise NotImplementedError('3.1.2: design your own network')\n"
    names = {}
    exec(compile(source, student_code.__file__, "exec"), names)
    monkeypatch.setattr(SimpleNet, "forward", names["forward"])
    run = drive(scenes, *SHORT)
    assert (run.code, run.folder) == (1, None)
    assert "student_code.py:2: forward is not written yet: 3.1.2: design your own network" in run.out


def test_near_misses_have_a_hint(drive, fresh_scenes, trained):
    assert f"Did you mean {fresh_scenes}?" in drive(fresh_scenes.parent).out
    folder = drive(fresh_scenes, "-e", "--resume", trained)
    assert "is a folder; a run's checkpoints are models/checkpoint.pth.tar" in folder.out


def test_logs_that_cannot_be(drive, scenes, tmp_path):
    (tmp_path / "file").write_text("")
    assert "no folder can be created there" in drive(scenes, *SHORT, logs=tmp_path / "file").out
    assert "of at least 0 and at most" in drive(scenes, "--seed", "9" * 400).out


def test_pictures_of_a_split_that_is_sorted_by_class(tmp_path):
    """Oxford-IIIT Pet's test split is: the close-up looked beyond the images that have saliency."""
    from libs.evaluation import ImageSaver
    from libs.run_folder import RunFolder

    folder = RunFolder(tmp_path)
    explain = lambda model, images: images.abs().amax(1, keepdim=True)  # noqa: E731
    show = ImageSaver(folder, None, list("abc"), 1, explain, student_code.vis_grad_attention)
    images = torch.randn(150, 3, 16, 16)
    show(0, {"image": images}, {"image": torch.randn(150, 3)}, torch.arange(150) // 50)
    folder.close()
    assert (folder.path / "saliency.png").exists()


def test_logs_go_to_the_repository_wherever_one_stands(monkeypatch, tmp_path):
    """Fault 6: ../logs depended on the working folder."""
    monkeypatch.chdir(tmp_path)
    assert arguments.parse_args(["d"]).logs == CODE.parent / "logs"


@pytest.mark.slow
def test_two_processes_of_torchrun_learn_together(scenes, tmp_path):
    """Half of each batch goes to each process; the updates, and so the model, are those of one but for rounding."""
    states = []
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--"]
    for command in (MAIN, [*torchrun, *FLAGS]):
        logs = tmp_path / str(len(states))
        flags = [str(scenes), *"--epochs 1 -b 8 --lr 0.01 --logs".split(), str(logs)]
        done = subprocess.run([*command, *flags], cwd=CODE, capture_output=True, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        folder, = logs.glob("exp_*")
        states.append(load(folder / "models" / checkpoint.LAST))
        assert sum(map(sum, json.loads((folder / "results.json").read_text())["last"]["confusion"])) == 12
    for a, b in zip(states[0]["state_dict"].values(), states[1]["state_dict"].values()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
