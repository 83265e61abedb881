"""MNIST with a small CNN built from the layers of mytorch.py only.

CNN Homework 3, deliverable 2. The text does not give the network of its figure 1; this is a plain one of the same kind
(i, o: channels, k: kernel, s: stride, p: padding; every convolution has a bias and is followed by ReLU):

    conv i=1 o=16 k=5 s=1 p=2    pool k=2 s=2    conv i=16 o=32 k=5 s=1 p=2    pool k=2 s=2    linear 1568 -> 10
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.datasets import MNIST

from labs import common
from labs.cnn_hw3.mytorch import Conv2d, MaxPool2d
from labs.training import TensorBatches, add_resume, panels, train_network
from libs import plots
from libs.hardware import Hardware
from utils import BadInput


class MnistCNN(nn.Module):
    """N,1,28,28 in [0, 1] -> N,10; `conv` and `pool` take the arguments of torch's layers."""

    def __init__(self, conv=Conv2d, pool=MaxPool2d):
        super().__init__()
        self.features = nn.Sequential(conv(1, 16, kernel_size=5, stride=1, padding=2), nn.ReLU(),
                                      pool(kernel_size=2, stride=2),
                                      conv(16, 32, kernel_size=5, stride=1, padding=2), nn.ReLU(),
                                      pool(kernel_size=2, stride=2))
        self.fc = nn.Linear(32 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(normalized(x)).flatten(1))


def normalized(x: Tensor) -> Tensor:
    """Pixels in [0, 1], normalised by the mean and standard deviation of MNIST's training images."""
    return (x - 0.1307) / 0.3081


def open_mnist(folder: str, limit: int | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """{"train", "val"}: images N,1,28,28 in [0, 1] and labels N; the first `limit` of each, a fifth as many of val.

    From FOLDER/MNIST/raw, where torchvision's download puts it, or, if that is not there, by downloading. Raises
    BadInput if neither works.
    """
    splits = {}
    for split in ("train", "val"):
        try:
            data = MNIST(folder, train=split == "train", download=True)
        except (RuntimeError, OSError, AssertionError, ValueError, IndexError) as error:  # if truncated
            raw = Path(folder) / "MNIST/raw"
            problem = "cannot be read" if raw.exists() else "is not there, and the download failed"
            raise BadInput(f"{raw}: {problem} ({error}). Download the four idx files again with "
                           "torchvision.datasets.MNIST(DIR, download=True)") from None
        count = limit if split == "train" else limit and limit // 5
        splits[split] = data.data[:count, None].float() / 255, data.targets[:count]
    return splits


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("mnist_cnn", __doc__, trains={"epochs": 5, "lr": 0.05})
    add_resume(parser)
    parser.add_argument("--quick", action="store_true", help="2,000 images, one epoch")
    return parser


def run(args: argparse.Namespace) -> None:
    data = open_mnist(args.data, 2000 if args.quick else None)
    epochs = 1 if args.quick else args.epochs
    kinds = {"mnist-own": ("own layers", Conv2d, MaxPool2d), "mnist-torch": ("torch's layers", nn.Conv2d, nn.MaxPool2d)}
    rows, histories = [], {}
    for arch, (name, *layers) in kinds.items():
        torch.manual_seed(args.seed)
        model = MnistCNN(*layers).to(args.device)
        train, val = (TensorBatches(*data[split], args.train_batch, split == "train", args.seed) for split in data)
        optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9)
        started = time.perf_counter()
        histories[name], _ = train_network(args, arch, model, train, val, Hardware(args.device), optimizer, epochs)
        last = histories[name][-1]
        rows.append({"layers": name, "parameters": sum(p.numel() for p in model.parameters()), "epochs": epochs,
                     "train accuracy": last["train"]["top1"], "val accuracy": last["val"]["top1"],
                     "val loss": last["val"]["loss"],
                     "epoch (s)": sum(row["seconds"] for row in histories[name]) / epochs,
                     "all (s)": time.perf_counter() - started})
    for row in rows:
        row["time ratio"] = row["epoch (s)"] / rows[1]["epoch (s)"]
    counts = [len(labels) for _, labels in data.values()]
    title = f"MNIST, own layers: {counts[0]:,} training and {counts[1]:,} validation images"
    picture = plots.over_epochs(panels(histories["own layers"]), title)
    common.publish(args, "mnist_cnn", rows, {"mnist_cnn": picture}, histories=histories, seed=args.seed)
