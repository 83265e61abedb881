"""MNIST with a small CNN built from the layers of mytorch.py only.

CNN Homework 3, deliverable 2. The network is MnistCNN of train.py, beside it the same one with torch's layers.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.datasets import MNIST

from labs import common
from labs.cnn_hw3.mytorch import Conv2d, MaxPool2d
from labs.cnn_hw3.train import MnistCNN
from labs.training import TensorBatches, add_resume, panels, train_network
from libs import plots
from libs.hardware import Hardware
from utils import BadInput


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
