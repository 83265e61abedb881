"""Train, evaluate and attack an image classifier: python main.py DIR [flags]. See --help, and the README."""

import argparse
import sys
import time
import traceback
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

import checkpoint
import figures
import hardware
import models
from arguments import KEPT, parse_args
from batch_transforms import BatchTransforms
from building import Run, build, introduce
from custom_dataloader import open_split
from engine import WarmupCosine, evaluate, train_one_epoch
from judging import attack_model, evaluate_model
from metrics import summarize
from progress import clock, describe
from recipe import Muon, ProgressiveResizing, light_transforms
from run_folder import RunFolder
from utils import BadInput, of_the_solution, seed_everything


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    hardware.keep_memory()
    try:
        with hardware.processes(args.device) as (rank, world):
            run = build(args, rank, world)
            if args.mode == "train":
                run.state, run.adversary = start(run), make_adversary(run)
            run.folder = RunFolder(args.logs, run.machine.is_main)
            introduce(run)
            try:
                {"train": train, "evaluate": evaluate_model, "attack": attack_model}[args.mode](run)
            finally:
                run.folder.close()
    except BadInput as error:
        sys.exit(f"main.py: error: {first_hand(error)}")
    except NotImplementedError as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        if Path(place.filename).stem != "student_code":
            raise
        sys.exit(f"main.py: error: {place.filename}:{place.lineno}: {place.name} is not written yet: {error}")


def first_hand(error: BadInput) -> str:
    """The message as it was raised: a loader's worker process wraps its traceback around it."""
    return str(error).rpartition(f"{BadInput.__name__}: ")[2].strip()


# ------------------------------------------------------------------------------------------------ training


def make_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    common = {"lr": args.lr, "weight_decay": args.weight_decay, "fused": args.device.type in ("cpu", "cuda")}
    if args.recipe == "fast":
        return Muon(model, args.lr, args.weight_decay)
    if args.model == "vit":
        return torch.optim.AdamW(model.parameters(), **common)
    return torch.optim.SGD(model.parameters(), momentum=args.momentum, **common)


def start(run: Run) -> checkpoint.State:
    """The state to train from: a new one, or that of --resume."""
    args, steps = run.args, len(run.loaders["train"])
    state = checkpoint.State(make_optimizer(args, run.model), WarmupCosine(args.epochs, args.warmup, steps),
                             run.machine.scaler(), epoch=args.start_epoch)
    if args.goes_on:
        checkpoint.resume(state, args)
        if "optimizer" not in args.saved:
            run.say(f"note: {args.resume} has no optimizer state; momentum starts from zero")
        if args.saved.get("settings", {}).get("loader") not in (None, type(run.loaders["train"]).__name__):
            run.say("note: this run made its batches in another way before; it goes on with other random views")
    for group in state.optimizer.param_groups:
        group["initial_lr"] = args.lr * group.get("scale", 1.0)
    state.scheduler = LambdaLR(state.optimizer, state.schedule, last_epoch=state.epoch * steps - 1)
    return state


def make_adversary(run: Run):
    """For --adversarial; its probe are training images as validation sees them."""
    args = run.args
    if args.adversarial is None:
        return None
    training = of_the_solution("adversarial_training", "--adversarial")
    images, labels = training.draw_probe(open_split(args.data, "train", models.student_transforms("val"))[0], args.seed)
    probe = run.machine.images(images), run.machine.labels(labels)
    adversary = training.AdversarialTraining(args.adversarial, run.model, args.epsilon, probe)
    if args.goes_on and "adversary" in args.saved:
        adversary.load_state_dict(args.saved["adversary"], run.state.optimizer)
    return adversary


def settings(run: Run) -> dict:
    """What a resumed run takes over."""
    return {**{name: getattr(run.args, name) for name in KEPT}, "amp": run.machine.amp,
            "device": run.machine.device.type, "loader": type(run.loaders["train"]).__name__}


def train(run: Run) -> None:
    """Train to --epochs; validate, report and save after each."""
    args, state, folder, model = run.args, run.state, run.folder, run.model
    folder.json("settings", {key: str(value) for key, value in vars(args).items() if key != "saved"})
    if args.goes_on and folder.active and (best := Path(args.resume).parent / checkpoint.BEST).exists():
        checkpoint.copy(best, folder.models / checkpoint.BEST)  # it may well stay the best
    if run.machine.world > 1:
        model = DistributedDataParallel(model, [run.machine.device] if run.machine.device.type == "cuda" else None)
    try:
        while state.epoch < args.epochs:
            summary = train_and_validate(run, model)
    except KeyboardInterrupt:
        if folder.active:
            last = folder.path / "models" / checkpoint.LAST
            go_on = f"to go on: python main.py {args.data} --resume {last}" if last.exists() else "nothing is saved yet"
            print(f"\nstopped; {state.epoch} of {args.epochs} epochs are done; {go_on}")
        sys.exit(130)
    finish(run, summary)


def train_and_validate(run: Run, model: nn.Module) -> dict:
    """One more epoch. Returns its validation summary (see metrics.summarize)."""
    args, machine, state, epoch = run.args, run.machine, run.state, run.state.epoch
    began = time.perf_counter()
    loader = run.loaders["train"]
    seed_everything(args.seed, epoch, machine.rank)  # a resumed run stands where it would have stood
    loader.sampler.epoch = epoch
    if args.recipe == "fast":
        size = ProgressiveResizing().size(epoch, args.epochs)
        loader.transforms = BatchTransforms.of(light_transforms(loader.dataset.transforms, size))

    def log(batch: int, loss: float, rate: float) -> None:
        run.folder.scalars(epoch * len(loader) + batch, {"training_loss": loss, "learning_rate": rate})

    title = f"epoch {epoch + 1}/{args.epochs}"
    progress = run.progress(f"{title} train", "train")
    trained = train_one_epoch(model, nn.CrossEntropyLoss(), state.optimizer, state.scheduler, progress, machine,
                              state.scaler, args.clip_grad, log, run.adversary)
    run.say(f"{title} train  {describe(trained)} | {progress.speed()}, {clock(progress.elapsed)}")

    machine.share_buffers(run.model)
    if run.adversary is not None:
        with machine.autocast():  # one process's count decides for all
            withstanding = hardware.agree(run.adversary.withstanding(), machine.world)
        if collapse := run.adversary.after_epoch(withstanding, state.optimizer):
            run.say(f"{title} {collapse}")
    logits, labels = evaluate(run.model, run.progress(f"{title} val", "val"), run.exact)
    summary = summarize(logits["image"], labels)
    is_best = summary["top1"] > state.best_acc1 or (epoch == args.start_epoch and not args.goes_on)
    state.epoch, state.best_acc1 = epoch + 1, max(state.best_acc1, summary["top1"])
    validated = {name: summary[name] for name in ("loss", "top1", "top5")}
    seconds = time.perf_counter() - began
    left = clock(seconds * (args.epochs - state.epoch))
    run.say(f"{title} val    {describe(validated)} | best top1 {state.best_acc1:.2f}, {left} left")

    state.history.append({"epoch": state.epoch, "rate": state.optimizer.param_groups[0]["lr"], "train": trained,
                          "val": validated, "seconds": seconds, "data_wait": progress.data_wait,
                          "images_per_second": progress.images_per_second * machine.world})
    log_epoch(run.folder, state.history[-1])
    run.folder.flush()
    if machine.is_main:
        more = {"adversary": run.adversary.state_dict()} if run.adversary else {}
        checkpoint.save(run.folder.models, state.to_checkpoint(args.model, run.model, settings(run)) | more, is_best)
    return summary


def log_epoch(folder: RunFolder, row: dict) -> None:
    folder.scalars(row["epoch"], {
        **{f"{k}_accuracy/{split}": row[split][k] for k in ("top1", "top5") for split in ("train", "val")},
        "validation_loss": row["val"]["loss"], "epoch_time": row["seconds"], "data_wait": row["data_wait"],
        "images_per_second": row["images_per_second"]})


def finish(run: Run, summary: dict) -> None:
    """Curves, the last epoch's confusion matrix and per-class accuracy, results.json, and where all of it lies."""
    folder, state = run.folder, run.state
    folder.json("results", {"mode": "train", "model": run.args.model, "best_top1": state.best_acc1,
                            "history": state.history, "classes": run.names, "last": summary})
    folder.figure("curves", figures.curves(state.history, f"{run.args.model} on {Path(run.args.data).name}"))
    folder.class_report(summary, run.names)
    if folder.active:
        run.say(f"best top-1 {state.best_acc1:.2f} %: {folder.models / checkpoint.BEST}\n"
                f"curves: {folder.path / 'curves.png'}\nTensorBoard: tensorboard --logdir {folder.path}")


if __name__ == "__main__":
    main()
