"""From flags to a ready run: data, network, machine; whatever can be wrong with them is said here."""

import argparse
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import checkpoint
import hardware
import models
from custom_dataloader import open_split
from data_cache import BatchLoader, open_loader
from progress import Progress
from run_folder import RunFolder
from utils import BadInput, seed_everything


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
    adversary: object = None  # adversarial_training.AdversarialTraining, for --adversarial
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
    """Data, then model. The run folder comes later, when nothing can be wrong any more."""
    seed_everything(args.seed)
    loaders, names, how = {}, [], []
    for split in ("train", "val") if args.mode == "train" else ("val",):
        dataset, names = open_split(args.data, split, models.student_transforms(split))
        loaders[split], sentence = build_loader(args, split, dataset, rank, world)
        how.append(sentence)
    example = dataset[0][0][None]  # (1, 3, H, W)
    model = build_model(args.model, len(names), example, args.device, args.use_custom_conv, args.weights,
                        pretrained=args.mode == "train" and not args.resume, saved=args.saved, path=args.resume)
    layout = hardware.pick_memory_format(model, example, args.device)
    model.to(memory_format=layout)
    machine = hardware.Hardware(args.device, hardware.agree(args.amp_training, world), layout, rank, world)
    return Run(args, machine, model, names, loaders, how[0])


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


def build_model(name: str, num_classes: int, example: torch.Tensor, device: torch.device,
                custom_conv: str | None = None, weights: str | None = None, pretrained: bool = False,
                saved: dict | None = None, path: str | None = None) -> nn.Module:
    """The network `name` for images like `example` 1,3,H,W, with the weights of the checkpoint `saved`, if given.

    `path` is where the checkpoint came from, for messages; the rest is as `models.build` takes it.
    """
    try:
        model = models.build(name, num_classes, tuple(example.shape[2:]), custom_conv, pretrained, weights)
    except ValueError as error:  # a size that the network does not allow
        if isinstance(error, BadInput):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise BadInput(f"{name}: {error} ({Path(place.filename).name}:{place.lineno})") from None
    if saved:
        checkpoint.load_weights(model, saved["state_dict"], path)
    return model.to(device)


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
