"""A ResNet for CIFAR-10, trained with the assignment's augmentation.

CNN Homework 3, deliverables 3 and 4. The network is ResNet of model.py, the transforms are those of train.py; Adam.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from custom_dataloader import open_split
from labs import common
from labs.cnn_hw3.model import ResNet
from labs.cnn_hw3.train import TRAIN, VAL
from labs.trained import check_cifar_size
from labs.training import add_resume, panels, train_network
from libs import hardware, plots
from libs.arguments import number
from libs.loaders import make_loader
from utils import spaced


class DecodedDataset(Dataset):
    """A split of 32x32 images, decoded once and transformed at each access."""

    def __init__(self, dataset: Dataset, transform, limit: int | None = None):
        chosen = spaced(len(dataset), len(dataset) if limit is None else limit)
        self.images, self.labels = zip(*(dataset[i] for i in chosen))
        for image in self.images:
            check_cifar_size(image)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def open_cifar(args, train_transform=TRAIN, limit: int | None = None) -> tuple:
    """Loaders of both splits and class names, from torchvision's CIFAR-10 or images in MiniPlaces' layout."""
    loaders, names = [], []
    for split, transform in (("train", train_transform), ("val", VAL)):
        dataset, names = open_split(args.data, split)
        decoded = DecodedDataset(dataset, transform, limit if split == "train" else limit and limit // 5)
        loaders.append(make_loader(decoded, args.train_batch, workers=args.workers, seed=args.seed,
                                   train=split == "train"))
    return *loaders, names


def build(name: str, num_classes: int) -> nn.Module:
    """The network `name` of a checkpoint of this lab (called by labs.trained)."""
    return ResNet(num_classes)


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("cifar_resnet", __doc__, trains={"epochs": 30, "lr": 2e-3, "train_batch": 128})
    add_cifar_flags(parser)
    return parser


def add_cifar_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the labs that train on CIFAR-10."""
    add_resume(parser)
    parser.add_argument("-j", "--workers", type=number(int, 0), default=2, metavar="N",
                        help="worker processes of the data loader (default: 2)")
    parser.add_argument("--quick", action="store_true", help="640 images, one epoch")


def run(args: argparse.Namespace) -> None:
    train, val, names = open_cifar(args, limit=640 if args.quick else None)
    torch.manual_seed(args.seed)
    model = ResNet(len(names))
    hw = hardware.set_up(args.device, model, train.dataset.dataset[0][0][None])
    epochs = 1 if args.quick else args.epochs
    optimizer = torch.optim.Adam(model.parameters(), args.lr)
    history, saved = train_network(args, "cifar-resnet", model, train, val, hw, optimizer, epochs, warmup=1)
    best, last = max(history, key=lambda row: row["val"]["top1"]), history[-1]
    rows = [{"network": "ResNet", "parameters": sum(p.numel() for p in model.parameters()),
             "training images": len(train.dataset), "epochs": epochs, "train accuracy": last["train"]["top1"],
             "val accuracy": last["val"]["top1"], "best": best["val"]["top1"], "in epoch": best["epoch"],
             "precision": hw.precision.training, "epoch (s)": sum(row["seconds"] for row in history) / epochs}]
    counts = [len(loader.dataset) for loader in (train, val)]
    title = f"ResNet on {Path(args.data).name}: {counts[0]:,} training, {counts[1]:,} validation images"
    common.publish(args, "cifar_resnet", rows, {"cifar_resnet": plots.over_epochs(panels(history), title)},
                   history=history, seed=args.seed)
    print(f"class activation maps: python -m labs cam {args.data} --resume {saved}")
