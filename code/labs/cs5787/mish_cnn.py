"""The Mish CNN on CIFAR-10: plain, with BatchNorm, and a better network. CS 5787 Homework 2, problem 3.

plain      conv 64 11x11, Mish, max pool 2x2; conv 128 3x3, Mish; conv 128 3x3, Mish; global average pool; linear
batchnorm  the same with BatchNorm between convolution and Mish
better     a 3x3 stem and residual stages with BatchNorm and Mish, trained on flipped and shifted images

All three train for the same number of epochs. One figure has their training losses; the first layer's filters are shown
as a mosaic of 4 x 16.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import transforms

from extras import explain
from labs import common
from labs.cnn_hw3.cifar_resnet import add_cifar_flags, open_cifar
from labs.cnn_hw3.train import VAL
from labs.training import train_network
from libs import hardware, plots
from student_code import init_weights


def conv(in_channels: int, out_channels: int, kernel: int, norm: bool, stride: int = 1) -> list[nn.Module]:
    """Convolution with "same" padding (apart from `stride`), optional BatchNorm, Mish."""
    normed = [nn.BatchNorm2d(out_channels)] if norm else []
    return [nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=not norm), *normed,
            nn.Mish(inplace=True)]


class MishCNN(nn.Module):
    """The assignment's network, N,3,H,W -> N,num_classes; `norm` adds BatchNorm after each convolution."""

    def __init__(self, num_classes: int = 10, norm: bool = False):
        super().__init__()
        self.features = nn.Sequential(*conv(3, 64, 11, norm), nn.MaxPool2d(2, 2), *conv(64, 128, 3, norm),
                                      *conv(128, 128, 3, norm))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(128, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions; a 1x1 shortcut where channels or size change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(*conv(in_channels, out_channels, 3, True, stride),
                                  nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
                                  nn.BatchNorm2d(out_channels))
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
        self.mish = nn.Mish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mish(self.body(x) + self.shortcut(x))


class Better(nn.Module):
    """A 3x3 stem, then residual stages at 16, 16, 8 and 4 pixels. N,3,32,32 -> N,num_classes."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(*conv(3, 64, 3, True))
        self.stages = nn.Sequential(Residual(64, 64, 2), Residual(64, 128, 1), Residual(128, 128, 2),
                                    Residual(128, 256, 2))
        self.pool, self.dropout, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.2), nn.Linear(256, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.pool(self.stages(self.stem(x))).flatten(1)))


NETWORKS = {"plain": MishCNN, "batchnorm": lambda classes: MishCNN(classes, norm=True), "better": Better}
AUGMENTED = transforms.Compose([transforms.RandomCrop(32, 4, padding_mode="reflect"), transforms.RandomHorizontalFlip(),
                              *VAL.transforms])
TRANSFORMS = {"plain": VAL, "batchnorm": VAL, "better": AUGMENTED}


def build(name: str, num_classes: int) -> nn.Module:
    """The network `name` of a checkpoint of this lab (called by labs.trained)."""
    return NETWORKS[name.removeprefix("mish-")](num_classes)


def train(args, kind: str, epochs: int) -> tuple[dict, list[dict], nn.Module]:
    """Train one of the three. Returns its table row, its history, and the network."""
    batches, val, names = open_cifar(args, TRANSFORMS[kind], 640 if args.quick else None)
    torch.manual_seed(args.seed)
    model = NETWORKS[kind](len(names))
    hw = hardware.set_up(args.device, model, val.dataset.dataset[0][0][None])
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    history, _ = train_network(args, f"mish-{kind}", model, batches, val, hw, optimizer, epochs, warmup=2)
    last = history[-1]
    return {"network": kind, "parameters": sum(p.numel() for p in model.parameters()), "epochs": epochs,
            "training images": len(batches.dataset), "train loss": last["train"]["loss"],
            "train accuracy": last["train"]["top1"], "test accuracy": last["val"]["top1"],
            "precision": hw.precision.training,
            "epoch (s)": sum(row["seconds"] for row in history) / epochs}, history, model


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("mish_cnn", __doc__, trains={"epochs": 20, "lr": 0.02, "train_batch": 128})
    parser.add_argument("network", nargs="?", choices=(*NETWORKS, "all"), default="all",
                        help="network to train (default: all three)")
    add_cifar_flags(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    rows, histories, pictures = [], {}, {}
    for kind in NETWORKS if args.network == "all" else [args.network]:
        row, histories[kind], model = train(args, kind, 1 if args.quick else args.epochs)
        rows.append(row)
        pictures[f"mish_{kind}_filters"] = plots.mosaic(
            explain.first_filters(model), 16, f"{kind}: the first layer's filters, each stretched to full contrast")
    curves = {label: {kind: ([row["epoch"] for row in history], [row[split][key] for row in history])
                     for kind, history in histories.items()}
             for label, split, key in (("training loss", "train", "loss"), ("test accuracy (%)", "val", "top1"))}
    title = f"{Path(args.data).name}, {rows[0]['training images']:,} training images"
    name = "mish_cnn" if args.network == "all" else f"mish_{args.network}"
    pictures[name] = plots.over_epochs(curves, title)
    common.publish(args, name, rows, pictures, histories=histories, seed=args.seed)
