"""A run of main.py, decided before its first batch: `resolve` turns flags into a complete, read-only `Run`."""

import copy
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from custom_dataloader import open_split
from libs import checkpoint, hardware, networks, processes
from libs.arguments import Flags, conflict, restore_settings, resuming
from libs.hardware import Hardware
from libs.loaders import BatchLoader, SkipBad, data_key, left_out, open_loader
from libs.progress import Progress
from libs.recipe import ProgressiveResizing, make_optimizer, pool_before_relu
from libs.resume import position_fits, restore_adversary, resume
from libs.run_folder import RunFolder
from libs.training_state import TrainingState, WarmupCosine
from utils import ASSIGNMENT_ATTACK, BadInput, seed_everything

PURPOSE = {"train": "training", "evaluate": "report", "attack": "attack"}  # of the mode's precision


@dataclass(frozen=True)
class Run:
    """Everything that training, evaluation and attack need."""

    args: Flags
    hardware: Hardware
    model: nn.Module
    class_names: list[str]
    loaders: dict[str, DataLoader | BatchLoader]
    batches: str  # how the loaders make them
    validation: Dataset  # of the val split
    saved: dict | None  # checkpoint of --resume
    data_key: str | None  # of the training images; for training, as are the next three
    state: TrainingState | None
    adversary: object | None  # extras.adversarial_training.AdversarialTraining
    resizing: ProgressiveResizing | None
    folder: RunFolder
    told: dict = field(default_factory=dict)  # what was said, so that it is not said again

    def say(self, text: str) -> None:
        if self.hardware.is_main:
            print(text, flush=True)

    def left_out(self) -> dict[str, list[str]]:
        """The images that --bad-images skip has left out so far, by split."""
        return {split: left_out(loader) for split, loader in self.loaders.items()}

    def say_left_out(self) -> None:
        """Print their number and the first five, whenever there are more of them."""
        bad = [path for paths in self.left_out().values() for path in paths]
        if len(bad) > self.told.get("left out", 0):
            self.told["left out"] = len(bad)
            self.say(f"note: {len(bad)} images cannot be used and are left out: {', '.join(bad[:5])}"
                     + (", ..." if len(bad) > 5 else ""))

    def progress(self, title: str, split: str) -> Progress:
        return Progress(title, self.loaders[split], self.args.print_freq, show=self.hardware.is_main)


def resolve(args: Flags, device: torch.device, rank: int = 0, world: int = 1) -> Run:
    """Read the checkpoint, open the data, build the model; create the run folder last, when nothing can fail any more.

    Raises BadInput.
    """
    args = find_checkpoint(args, world)
    saved = checkpoint.load(args.resume) if args.resume else None
    args = restore_settings(args, saved)
    if problem := conflict(args, restored=True):  # the checkpoint may have named the model
        raise BadInput(problem)
    seed_everything(args.seed)
    loaders, class_names, batches, validation = open_loaders(args, device, rank, world)
    if args.view:
        loaders["view"] = open_view(args, device, rank, world)
    example = first_image(validation, args.bad_images == "skip")  # (1, 3, H, W)
    model = build_model(args.model, len(class_names), example, args.use_custom_conv, args.weights,
                        pretrained=args.mode == "train" and not args.resume, saved=saved, path=args.resume)
    if args.recipe == "fast" and args.mode == "train":
        pool_before_relu(model)
    if args.view:
        check_view(args, model)
    hw = hardware.set_up(device, model, example, *requested_precision(args, saved, device), rank, world)
    key = state = adversary = resizing = None
    if args.mode == "train":
        key = data_key(loaders["train"])
        state = training_state(args, model, loaders["train"], hw, saved, key)
        adversary = adversarial_training(args, model, hw, state, saved)
        resizing = ProgressiveResizing.of(loaders["train"], args.epochs) if args.recipe == "fast" else None
    folder = RunFolder(args.logs, hw.is_main)
    return Run(args, hw, model, class_names, loaders, batches, validation, saved, key, state, adversary, resizing,
               folder)


# ---------------------------------------------------------------------------------------- its parts


def find_checkpoint(args: Flags, world: int) -> Flags:
    """--resume auto: the newest good checkpoint in --logs (of --model, if given); without one, a training starts.

    The same command can then start a run and continue it, so flags that belong to the start are no error.
    """
    if args.resume != "auto":
        return args
    models = [args.model] if args.model else networks.MODEL_NAMES  # a lab's networks are not for main.py
    path = processes.broadcast_object(checkpoint.newest(args.logs, models), world)
    if path is None and args.mode != "train":
        raise BadInput(f"--resume auto: there is no checkpoint in {args.logs}")
    return replace(args, resume=path and str(path), given=args.given - {"warmup"} if path else args.given)


def open_loaders(args: Flags, device: torch.device, rank: int, world: int) -> tuple[dict, list[str], str, Dataset]:
    """The loaders of the mode's splits, the class names, how batches are made, and the validation data set."""
    if args.cache == "gpu" and device.type != "cuda":
        raise BadInput(f"--cache gpu needs a CUDA GPU, and this run uses {device.type}; take --cache disk")
    if args.batch_size % world:
        raise BadInput(f"--batch-size {args.batch_size} cannot be divided evenly among {world} processes")
    loaders, sentences = {}, []
    for split in ("train", "val") if args.mode == "train" else ("val",):
        dataset, class_names = open_split(args.data, split, networks.student_transforms(split))
        if split == "train" and len(dataset) < args.batch_size:
            raise BadInput(f"--batch-size {args.batch_size} is larger than the training split of {args.data}, which "
                           f"has {len(dataset)} images; take {len(dataset)} or less")
        if len(dataset) < world:
            raise BadInput(f"{args.data}: {len(dataset)} images in {split} are too few for {world} processes")
        with processes.main_process_first(rank, world):
            loaders[split], sentence = open_loader(
                dataset, args.batch_size // world, args.cache, device, workers=min(args.workers, hardware.cores()),
                seed=args.seed, train=split == "train", rank=rank, world=world, skip_bad=args.bad_images == "skip")
        sentences.append(sentence)
    return loaders, class_names, sentences[0], dataset


def first_image(dataset: Dataset, skip_bad: bool) -> torch.Tensor:
    """The first image of `dataset`, 1,3,H,W; with `skip_bad` the first that can be used."""
    source = SkipBad(dataset) if skip_bad else dataset
    item = next((item for item in (source[i] for i in range(len(source))) if item is not None), None)
    if item is None:
        raise BadInput("none of the validation images can be used")
    return item[0][None]


def open_view(args: Flags, device: torch.device, rank: int, world: int) -> DataLoader | BatchLoader:
    """The validation images at the size of --view."""
    dataset, _ = open_split(args.data, "val", networks.resized_view(args.view))
    return open_loader(dataset, args.batch_size // world, args.cache, device,
                       workers=min(args.workers, hardware.cores()), rank=rank, world=world,
                       skip_bad=args.bad_images == "skip")[0]


@torch.no_grad()
def check_view(args: Flags, model: nn.Module) -> None:
    """Raises BadInput if the network does not accept images of --view, as a ViT with position embeddings."""
    try:
        copy.deepcopy(model).eval()(torch.zeros(1, 3, args.view, args.view))
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"--view {args.view}: {args.model} does not accept images of this size: {error}") from None


def build_model(name: str, num_classes: int, example: torch.Tensor, custom_conv: str | None = None,
                weights: str | None = None, pretrained: bool = False, saved: dict | None = None,
                path: str | None = None) -> nn.Module:
    """The network `name` for images like `example` 1,3,H,W, with the weights of the checkpoint `saved`, if given.

    `path` names that checkpoint in errors; the others are as for `networks.build`. Raises BadInput.
    """
    try:
        model = networks.build(name, num_classes, tuple(example.shape[2:]), custom_conv, pretrained, weights)
    except ValueError as error:  # an image size that the network does not accept
        if isinstance(error, BadInput):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise BadInput(f"{name}: {error} ({Path(place.filename).name}:{place.lineno})") from None
    if saved:
        classes = f", {len(saved['classes'])} classes" if "classes" in saved else ""
        trained = f" ({saved['model_arch']}{classes}; this is {name}, {num_classes} classes)"
        checkpoint.load_weights(model, saved["state_dict"], f"{path}{trained if saved['model_arch'] else ''}")
    return model


def requested_precision(args: Flags, saved: dict | None, device: torch.device) -> tuple[str, str | None]:
    """`amp` and `measured` for hardware.pick_precision: evaluation is in fp32, a resumed run keeps both."""
    settings = (saved or {}).get("settings", {})
    if resuming(args):
        same_device = settings.get("device") == device.type
        amp = args.amp if same_device or "amp" in args.given else "auto"
        return amp, settings.get("amp") if same_device else None
    return "off" if args.amp == "auto" and args.mode == "evaluate" else args.amp, None


def training_state(args: Flags, model: nn.Module, loader, hw: Hardware, saved: dict | None, key: str) -> TrainingState:
    """The state to train from: new, or that of the checkpoint. `key`: `data_key` of the loader."""
    state = TrainingState(make_optimizer(args, model), WarmupCosine(args.epochs, args.warmup, len(loader)),
                          hw.scaler(), epoch=args.start_epoch)
    if resuming(args):
        if (then := saved.get("data", key)) != key:
            raise BadInput(f"{args.resume}: the training images of {args.data} have changed since: {then} then, {key} "
                           "now. Put the label file back, or train these weights on the new images with "
                           "--start-epoch 0")
        resume(state, saved, args)
    for group in state.optimizer.param_groups:
        group["initial_lr"] = args.lr * group.get("scale", 1.0)
    return state


def adversarial_training(args: Flags, model: nn.Module, hw: Hardware, state: TrainingState, saved: dict | None):
    """The attack of --adversarial, with its probe set: training images under the validation transform."""
    if args.adversarial is None:
        return None
    extra = networks.import_extra("adversarial_training", "--adversarial")
    dataset, _ = open_split(args.data, "train", networks.student_transforms("val"))
    images, labels = extra.draw_probe(SkipBad(dataset) if args.bad_images == "skip" else dataset, args.seed)
    epsilon = ASSIGNMENT_ATTACK["epsilon"] if args.epsilon is None else args.epsilon
    adversary = extra.AdversarialTraining(args.adversarial, model, epsilon,
                                          (hw.images(images), hw.labels(labels)))
    if resuming(args) and "adversary" in saved:
        restore_adversary(adversary, saved["adversary"], saved, model, state, args.resume)
    return adversary


# ------------------------------------------------------------------------------------------- messages


def introduce(run: Run) -> None:
    """Print data, batches, model, device and run folder, and what is unusual about a resumed run."""
    args, parameters = run.args, sum(p.numel() for p in run.model.parameters())
    images = " + ".join(f"{len(run.loaders[split].dataset):,}" for split in ("train", "val") if split in run.loaders)
    conv = f" of custom convolutions ({args.use_custom_conv})" if args.use_custom_conv else ""
    source = f", from {args.resume}" if args.resume else ""
    run.say(f"data    {args.data}: {images} images of {len(run.class_names)} classes\n"
            f"batches {run.batches}\n"
            f"model   {args.model}{conv}, {parameters:,} parameters{source}\n"
            f"device  {run.hardware.describe(PURPOSE[args.mode])}")
    if args.recipe == "fast" and args.mode == "train":
        run.say(f"recipe  fast: Muon at {args.lr:g}, images of {run.resizing.start} to {run.resizing.end} pixels, "
                "flips and random sized crops")
    if run.hardware.is_main:
        run.say(f"run     {run.folder.path}")
    run.say_left_out()
    if resuming(args):
        if "optimizer" not in run.saved:
            run.say(f"note: {args.resume} has no optimizer state; momentum starts from zero")
        if run.saved.get("position") and not position_fits(run.saved, args):
            run.say("note: with another --batch-size or --seed, the epoch that was interrupted begins again")
        if run.saved.get("settings", {}).get("loader") not in (None, type(run.loaders["train"]).__name__):
            run.say("note: this run used another kind of data loader before; from here on its augmentation differs")
