"""Train on MNIST or CIFAR-10, and draw loss and accuracy: python train.py mnist|cifar10 DIR [--epochs N].

CNN Homework 3, deliverables 2 and 4. It stands alone: torch, torchvision, matplotlib, mytorch.py and model.py. The text
does not give the network of its figure 1; this is a plain one of the same kind (i, o: channels, k: kernel, s: stride,
p: padding; every convolution has a bias and is followed by ReLU):

    conv i=1 o=16 k=5 s=1 p=2    pool k=2 s=2    conv i=16 o=32 k=5 s=1 p=2    pool k=2 s=2    linear 1568 -> 10
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from labs.cnn_hw3.model import ResNet
from labs.cnn_hw3.mytorch import Conv2d, MaxPool2d

NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TRAIN = transforms.Compose([transforms.RandomResizedCrop(32, scale=(0.8, 1.0)), transforms.RandomHorizontalFlip(),
                            transforms.ToTensor(), transforms.Normalize(**NORMALIZE, inplace=True)])
VAL = transforms.Compose([transforms.ToTensor(), transforms.Normalize(**NORMALIZE, inplace=True)])


def normalized(x: Tensor) -> Tensor:
    """Pixels in [0, 1], normalised by the mean and standard deviation of MNIST's training images."""
    return (x - 0.1307) / 0.3081


class MnistCNN(nn.Module):
    """N,1,28,28 in [0, 1] -> logits N,10; normalises first. `conv` and `pool` take the arguments of torch's layers."""

    def __init__(self, conv=Conv2d, pool=MaxPool2d):
        super().__init__()
        # BEGIN SOLUTION
        self.features = nn.Sequential(conv(1, 16, kernel_size=5, stride=1, padding=2), nn.ReLU(),
                                      pool(kernel_size=2, stride=2),
                                      conv(16, 32, kernel_size=5, stride=1, padding=2), nn.ReLU(),
                                      pool(kernel_size=2, stride=2))
        self.fc = nn.Linear(32 * 7 * 7, 10)
        # END SOLUTION
        # STARTER: raise NotImplementedError("MnistCNN.__init__: the layers of the table at the top, of conv and pool")

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION
        return self.fc(self.features(normalized(x)).flatten(1))
        # END SOLUTION
        # STARTER: raise NotImplementedError("MnistCNN.forward: the layers applied to normalized(x)")


def train_one_epoch(model: nn.Module, loader, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """A step of `optimizer` on each batch's cross-entropy. Returns mean loss and accuracy in percent, per image."""
    # BEGIN SOLUTION
    model.train()
    loss_sum, correct, count = 0.0, 0, 0
    for images, labels in loader:
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        count += len(labels)
    return loss_sum / count, 100 * correct / count
    # END SOLUTION
    # STARTER: raise NotImplementedError("train_one_epoch: forward, loss, backward and step for each batch")


def evaluate(model: nn.Module, loader) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in percent, per image, in evaluation mode and without gradients."""
    # BEGIN SOLUTION
    model.eval()
    loss_sum, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            logits = model(images)
            loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
            count += len(labels)
    return loss_sum / count, 100 * correct / count
    # END SOLUTION
    # STARTER: raise NotImplementedError("evaluate: loss and accuracy of the whole loader, over images, not batches")


def curves(history: list[dict]) -> Figure:
    """Loss and accuracy by epoch, training and validation."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axis, key in zip(figure.subplots(1, 2), ("loss", "accuracy (%)")):
        for split in ("training", "validation"):
            axis.plot(range(1, len(history) + 1), [row[f"{split} {key}"] for row in history], "o-", label=split)
        axis.set(xlabel="epoch", ylabel=key)
        axis.legend()
    return figure


def open_task(name: str, folder: str):
    """The network, training and validation data, default epochs, and the optimiser's class and settings."""
    if name == "mnist":
        data = [datasets.MNIST(folder, train=split, transform=transforms.ToTensor(), download=True)
                for split in (True, False)]
        return MnistCNN(), *data, 5, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}
    data = [datasets.CIFAR10(folder, train=split, transform=transform, download=True)
            for split, transform in ((True, TRAIN), (False, VAL))]
    return ResNet(), *data, 30, torch.optim.Adam, {"lr": 2e-3}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("mnist", "cifar10"), help="deliverable 2 or deliverable 4")
    parser.add_argument("data", metavar="DIR", help="folder of the data; downloaded if it is not there")
    parser.add_argument("--epochs", type=int, metavar="N", help="default: 5 for mnist, 30 for cifar10")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="for TASK.png and TASK.pt (default: .)"
    )
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    model, train, val, epochs, kind, settings = open_task(args.task, args.data)
    epochs = args.epochs or epochs
    loaders = DataLoader(train, 64, shuffle=True, num_workers=2), DataLoader(val, 500, num_workers=2)
    optimizer = kind(model.parameters(), **settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    history = []
    for epoch in range(epochs):
        results = *train_one_epoch(model, loaders[0], optimizer), *evaluate(model, loaders[1])
        history.append(
            dict(zip(("training loss", "training accuracy (%)", "validation loss", "validation accuracy (%)"), results))
        )
        print(f"epoch {epoch + 1}/{epochs}: " + ", ".join(f"{key} {value:.4g}" for key, value in history[-1].items()))
        schedule.step()
    args.out.mkdir(parents=True, exist_ok=True)
    curves(history).savefig(args.out / f"{args.task}.png")
    torch.save(model.state_dict(), args.out / f"{args.task}.pt")


if __name__ == "__main__":
    main()
