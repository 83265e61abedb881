"""A ResNet for CIFAR-10, trained with the sheet's augmentation. Sheet 004, deliverables 3 and 4.

The sheet's figure 3 is not in its text; this is a plain network within what the text says (o: channels, s: stride):

    conv 3x3 o=32 s=1    block o=64 s=2    block o=128 s=2    block o=256 s=2    average pool 4x4    linear -> 10

A block is two 3x3 convolutions beside a 1x1 one; every convolution without bias and followed by BatchNorm and ReLU (the
second one's ReLU after the sum). He initialisation, Adam, sheet's transforms.
"""

from itertools import pairwise
from pathlib import Path

import torch
import torchvision.transforms as transforms
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

import figures
import hardware
from arguments import number
from custom_dataloader import make_loader, open_split
from labs import common
from labs.training import fit, panels
from student_code import init_weights
from utils import IMAGENET_MEAN, IMAGENET_STD, spaced


class Block(nn.Module):
    """A residual block that changes channels and size, so that the shortcut is a 1x1 convolution (He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
                                  nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True),
                                  nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
                                  nn.BatchNorm2d(out_channels))
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                                      nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """N,3,32,32 -> N,num_classes."""

    def __init__(self, num_classes: int = 10, widths=(32, 64, 128, 256)):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]),
                                  nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*(Block(a, b, 2) for a, b in pairwise(widths)))
        self.pool = nn.AvgPool2d(4)
        self.fc = nn.Linear(widths[-1], num_classes)
        init_weights(self)
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="linear")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.blocks(self.stem(x))).flatten(1))


# The sheet's, word for word.
NORMALIZE = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
TRAIN = transforms.Compose([transforms.RandomResizedCrop(32, scale=(0.8, 1.0)), transforms.RandomHorizontalFlip(),
                            transforms.ToTensor(), transforms.Normalize(**NORMALIZE, inplace=True)])
VAL = transforms.Compose([transforms.ToTensor(), transforms.Normalize(**NORMALIZE, inplace=True)])


class Small(Dataset):
    """A split of small images, decoded once, each transformed as it is asked for."""

    def __init__(self, dataset: Dataset, transform, limit: int | None = None):
        chosen = spaced(len(dataset), len(dataset) if limit is None else limit)
        self.images, self.labels = zip(*(dataset[i] for i in chosen))
        for image in self.images:
            common.small(image)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def open_cifar(args, train_transform=TRAIN, limit: int | None = None) -> tuple:
    """Loaders of both splits, and the classes: from torchvision's CIFAR-10 or images in MiniPlaces' layout."""
    loaders, names = [], []
    for split, transform in (("train", train_transform), ("val", VAL)):
        dataset, names = open_split(args.data, split)
        small = Small(dataset, transform, limit if split == "train" else limit and limit // 5)
        loaders.append(make_loader(small, args.train_batch, workers=args.workers, seed=args.seed,
                                   train=split == "train"))
    return *loaders, names


def build(name: str, num_classes: int) -> nn.Module:
    """For labs.common: the network of a checkpoint that this lab wrote."""
    return ResNet(num_classes)


def network_machine(args, model: nn.Module) -> hardware.Hardware:
    """Channels last, and what is fast here in training."""
    model.to(args.device, memory_format=torch.channels_last)
    return hardware.Hardware(args.device, hardware.pick_amp("auto", args.device), torch.channels_last)


def job(args) -> None:
    train, val, names = open_cifar(args, limit=640 if args.quick else None)
    torch.manual_seed(args.seed)
    model = ResNet(len(names))
    machine = network_machine(args, model)
    epochs = 1 if args.quick else args.epochs
    optimizer = torch.optim.Adam(model.parameters(), args.lr)
    keep = args.logs / "cifar-resnet.pth.tar"
    history = fit("cifar-resnet", model, train, val, machine, epochs, optimizer, args.seed, min(1, epochs / 2), keep)
    best, last = max(history, key=lambda row: row["val"]["top1"]), history[-1]
    rows = [{"network": "ResNet", "parameters": sum(p.numel() for p in model.parameters()),
             "training images": len(train.dataset), "epochs": epochs, "train accuracy": last["train"]["top1"],
             "val accuracy": last["val"]["top1"], "best": best["val"]["top1"], "in epoch": best["epoch"],
             "number type": machine.amp, "epoch (s)": sum(row["seconds"] for row in history) / epochs}]
    counts = [len(loader.dataset) for loader in (train, val)]
    title = f"ResNet on {Path(args.data).name}: {counts[0]:,} training, {counts[1]:,} validation images"
    common.publish(args, "cifar_resnet", rows, {"cifar_resnet": figures.over_epochs(panels(history), title)},
                   history=history, seed=args.seed)
    print(f"checkpoint: {keep}; its class activation maps: python -m labs.cam {args.data} --resume {keep}")


def main(argv=None) -> None:
    parser = common.parser("cifar_resnet", __doc__, trains={"epochs": 30, "lr": 2e-3, "train_batch": 128})
    parser.add_argument("-j", "--workers", type=number(int, 0), default=2, metavar="N",
                        help="processes that augment (default: 2)")
    parser.add_argument("--quick", action="store_true", help="640 images, one epoch")
    common.run("cifar_resnet", job, parser, argv)


if __name__ == "__main__":
    main()
