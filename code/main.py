"""Train, evaluate and attack an image classifier: python main.py DIR [flags]. See --help, and the README."""

import argparse
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

import checkpoint
import figures
import hardware
import models
from arguments import KEPT, parse_args
from custom_dataloader import open_split
from data_cache import BatchLoader, open_loader
from engine import WarmupCosine, evaluate, identity, mirrored, train_one_epoch
from metrics import summarize
from pictures import Pictures
from progress import Progress, clock, describe
from run_folder import RunFolder
from utils import BadInput, of_the_solution, seed_everything


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    hardware.keep_memory()
    try:
        with hardware.processes(args.device) as (rank, world):
            run = build(args, rank, world)
            job = {"train": train, "evaluate": evaluate_model, "attack": attack_model}[args.mode]
            try:
                job(run)
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


# ------------------------------------------------------------------------------- from flags to a ready run


@dataclass
class Run:
    """Everything that the three jobs need, made once."""

    args: argparse.Namespace
    machine: hardware.Hardware
    model: nn.Module
    names: list[str]
    loaders: dict[str, DataLoader | BatchLoader]
    batches: str  # how they are made
    state: checkpoint.State | None = None  # of training
    adversary: object = None  # attacks.AdversarialTraining, for --adversarial
    folder: RunFolder | None = None

    @property
    def exact(self) -> hardware.Hardware:
        """The machine as evaluation uses it: in fp32, unless --amp names a type."""
        return replace(self.machine, amp="off") if self.args.amp == "auto" else self.machine

    def say(self, text: str) -> None:
        if self.machine.is_main:
            print(text, flush=True)

    def progress(self, title: str, split: str) -> Progress:
        return Progress(title, self.loaders[split], self.args.print_freq, show=self.machine.is_main)


def build(args: argparse.Namespace, rank: int, world: int) -> Run:
    """Data, then model, then the run folder: whatever can be wrong is said before the folder is made."""
    seed_everything(args.seed)
    loaders, names, how = {}, [], []
    for split in ("train", "val") if args.mode == "train" else ("val",):
        dataset, names = open_split(args.data, split, models.student_transforms(split))
        loaders[split], sentence = build_loader(args, split, dataset, rank, world)
        how.append(sentence)
    example = dataset[0][0][None]  # (1, 3, H, W)
    model = build_model(args, len(names), example)
    layout = hardware.pick_memory_format(model, example, args.device)
    model.to(memory_format=layout)
    machine = hardware.Hardware(args.device, hardware.agree(args.amp_training, world), layout, rank, world)
    run = Run(args, machine, model, names, loaders, how[0])
    if args.mode == "train":
        run.state, run.adversary = start(run), make_adversary(run)
    run.folder = RunFolder(args.logs, machine.is_main)
    introduce(run)
    return run


def build_loader(args: argparse.Namespace, split: str, dataset: Dataset, rank: int,
                 world: int) -> tuple[DataLoader | BatchLoader, str]:
    """Batches of a split, and how they are made."""
    if split == "train" and len(dataset) < args.batch_size:
        raise BadInput(f"--batch-size {args.batch_size} is larger than the training split of {args.data}, which has "
                       f"{len(dataset)} images; take {len(dataset)} or less")
    if args.batch_size % world:
        raise BadInput(f"--batch-size {args.batch_size} cannot be shared evenly by {world} processes")
    if len(dataset) < world:
        raise BadInput(f"{args.data}: {len(dataset)} images in {split} are too few for {world} processes")
    with hardware.first_process_first(rank, world):
        return open_loader(dataset, args.batch_size // world, args.cache, args.device,
                           workers=min(args.workers, hardware.cores()), seed=args.seed, train=split == "train",
                           rank=rank, world=world)


def build_model(args: argparse.Namespace, num_classes: int, example: torch.Tensor) -> nn.Module:
    """The network, on the device, with the weights of --resume."""
    try:
        model = models.build(args.model, num_classes, tuple(example.shape[2:]), args.use_custom_conv,
                             pretrained=args.mode == "train" and not args.resume, weights=args.weights)
    except ValueError as error:  # a size that the network does not allow
        if isinstance(error, BadInput):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise BadInput(f"{args.model}: {error} ({Path(place.filename).name}:{place.lineno})") from None
    if args.saved:
        checkpoint.load_weights(model, args.saved["state_dict"], args.resume)
    return model.to(args.device)


def introduce(run: Run) -> None:
    args, parameters = run.args, sum(p.numel() for p in run.model.parameters())
    images = " + ".join(f"{len(loader.dataset):,}" for loader in run.loaders.values())
    conv = f" of own convolutions ({args.use_custom_conv})" if args.use_custom_conv else ""
    source = f", from {args.resume}" if args.resume else ""
    machine = run.exact if args.mode == "evaluate" else run.machine
    run.say(f"data    {args.data}: {images} images of {len(run.names)} classes\n"
            f"batches {run.batches}\n"
            f"model   {args.model}{conv}, {parameters:,} parameters{source}\ndevice  {machine}")
    if machine.is_main:
        run.say(f"run     {run.folder.path}")


# ------------------------------------------------------------------------------------------------ training


def make_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    common = {"lr": args.lr, "weight_decay": args.weight_decay, "fused": args.device.type in ("cpu", "cuda")}
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
        group["initial_lr"] = args.lr
    state.scheduler = LambdaLR(state.optimizer, state.schedule, last_epoch=state.epoch * steps - 1)
    return state


def make_adversary(run: Run):
    """For --adversarial; its probe are training images as validation sees them."""
    args = run.args
    if args.adversarial is None:
        return None
    attacks = of_the_solution("attacks", "--adversarial")
    images, labels = attacks.draw_probe(open_split(args.data, "train", models.student_transforms("val"))[0], args.seed)
    probe = run.machine.images(images), run.machine.labels(labels)
    adversary = attacks.AdversarialTraining(args.adversarial, run.model, args.epsilon, probe)
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


# ---------------------------------------------------------------------------------- evaluating, attacking


def evaluate_model(run: Run) -> None:
    """-e: top-1 and top-5 of the image alone, and of probabilities averaged with those of its mirror image."""
    views = {"image": identity, "mirrored": mirrored}
    logits, labels = evaluate(run.model, run.progress("evaluate", "val"), run.exact, views, pictures(run))
    alone = summarize(logits["image"], labels)
    averaged = summarize(sum(logits[view].softmax(dim=1) for view in views).log(), labels)
    table(run, {"the image alone": alone, "averaged with its mirror image": averaged})
    run.say(f"image alone: mean per-class accuracy {alone['mean_class_accuracy']:.2f} %, mAP {alone['mAP']:.2f} %, "
            f"loss {alone['loss']:.3f}")
    run.folder.scalars(run.args.saved["epoch"], {f"{k}_accuracy/val": alone[k] for k in ("top1", "top5")})
    run.folder.class_report(alone, run.names)
    save_results(run, {"alone": alone, "averaged_with_mirror_image": averaged})


def attack_model(run: Run) -> None:
    """-a: top-1 and top-5 on clean and on adversarial images, and the difference."""
    given = {name: getattr(run.args, name) for name in ("num_steps", "step_size", "epsilon") if name in run.args.given}
    attack = models.from_student("default_attack")(nn.CrossEntropyLoss(), **given)

    def perturb(images: torch.Tensor) -> torch.Tensor:
        # The signs of gradients need no fp32 (benchmarks/bench_attack.py); in fp16 small ones would be zero.
        with (run.exact if run.machine.amp == "fp16" else run.machine).autocast():
            return attack.perturb(run.model, images)

    views = {"image": identity, "adversarial": perturb}
    logits, labels = evaluate(run.model, run.progress("attack", "val"), run.exact, views, pictures(run))
    clean, attacked = (summarize(logits[view], labels) for view in views)
    difference = {k: attacked[k] - clean[k] for k in ("top1", "top5")}
    table(run, {"clean": clean, "adversarial": attacked, "difference": difference})
    changed = 100 * (logits["image"].argmax(1) != logits["adversarial"].argmax(1)).float().mean().item()
    run.say(f"predictions changed: {changed:.2f} %; loss {clean['loss']:.3f} -> {attacked['loss']:.3f}")
    if changed < 5:
        run.say("hardly any: a network that has learnt little is hard to fool; try a larger --epsilon and --step-size")
    run.folder.scalars(run.args.saved["epoch"], {f"{k}_accuracy/{name}": figures_[k] for k in ("top1", "top5") for
                                                 name, figures_ in (("val", clean), ("adversarial", attacked))})
    settings = {name: getattr(attack, name, None) for name in ("num_steps", "step_size", "epsilon")}
    save_results(run, {"attack": {"name": type(attack).__name__, **settings}, "clean": clean, "adversarial": attacked,
                       "difference": difference, "predictions_changed": changed})


def pictures(run: Run) -> Pictures | None:
    """The -v part, as far as the student's file has what it takes."""
    if not run.args.vis:
        return None
    try:
        explain = models.from_student("default_attention")(nn.CrossEntropyLoss()).explain
        overlay = models.from_student("default_visfunction")
    except BadInput as missing:
        run.say(f"note: no saliency maps: {missing}")
        explain = overlay = None
    return Pictures(run.folder, run.model, run.names, run.args.print_freq, explain, overlay)


def table(run: Run, rows: dict[str, dict]) -> None:
    run.say(f"{'':32}  top-1   top-5")
    for name, figures_ in rows.items():
        run.say(f"{name:32}{figures_['top1']:7.2f} {figures_['top5']:7.2f}")


def save_results(run: Run, results: dict) -> None:
    run.folder.json("results", {"mode": run.args.mode, "model": run.args.model, "checkpoint": str(run.args.resume),
                                "data": str(run.args.data), "classes": run.names, **results})
    if run.machine.is_main:
        run.say(f"results: {run.folder.path / 'results.json'}" + (", pictures beside it" if run.args.vis else ""))


if __name__ == "__main__":
    main()
