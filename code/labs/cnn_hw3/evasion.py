"""Evasion attacks on two MNIST classifiers, within an L-inf distance. CNN Homework 3, deliverable 6.

Model A is the CNN of mnist_cnn.py; model B is a perceptron with two hidden layers of 256 and ReLU. Both take images in
[0, 1], and adversarial images stay in that range.

task 1  untargeted          cross-entropy away from the true label, at most 20 backward passes an image
task 2  targeted, 1 -> 8    cross-entropy towards 8, at most 100
task 3  improved, 1 -> 8    APGD on the margin between 8 and the largest other logit, early stopping, at most 100

The images are test images: models are overconfident on training images, and an attacker has new ones. The success rate
is over the images that the model classifies correctly before the attack.
"""

import argparse
import math

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from extras import attacks
from extras.attacks import Threat
from labs import common
from labs.cnn_hw3.mnist_cnn import MnistCNN, normalized, open_mnist
from labs.training import TensorBatches, train_network, validate
from libs import plots
from libs.hardware import Hardware
from utils import BadInput, spaced

LEVELS = (4, 8, 12, 16, 18, 20, 22, 24, 26, 28, 32, 40, 48)  # epsilon, in units of 1/255
SHOWN = (4, 8, 16, 24, 32, 48)  # in the figure
PIXEL_RANGE = ([0.0], [1.0])
FROM, TO = 1, 8
TASKS = {
    "untargeted": {"objective": "untargeted", "steps": 20, "step_size": None, "keep": "first"},
    "targeted": {"objective": "targeted", "steps": 100, "step_size": None, "keep": "best"},
    "improved": {"objective": "targeted", "loss": "margin", "rule": "momentum", "steps": 100, "keep": "first"}}
BUDGETS = {"untargeted": 20, "targeted": 100, "improved": 100}


class Perceptron(nn.Module):
    """N,1,28,28 in [0, 1] -> N,10, without a convolution."""

    def __init__(self, width: int = 256):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                                    nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(normalized(x))


MODELS = {"A": lambda: MnistCNN(nn.Conv2d, nn.MaxPool2d), "B": Perceptron}


def train(args: argparse.Namespace, data: dict, hw: Hardware) -> dict[str, nn.Module]:
    models = {}
    train, val = (TensorBatches(*data[split], args.train_batch, split == "train", args.seed) for split in data)
    for name, make in MODELS.items():
        torch.manual_seed(args.seed)
        models[name] = make().to(hw.device)
        optimizer = torch.optim.SGD(models[name].parameters(), args.lr, momentum=0.9)
        train_network(args, f"mnist-{name}", models[name], train, val, hw, optimizer,
                      1 if args.quick else args.epochs)
    return models


def attack(model: nn.Module, task: str, level: int, images: Tensor, labels: Tensor,
           batch: int = 500) -> attacks.Outcome:
    """Attack all images. Asserts that none takes more backward passes than the assignment allows."""
    threat = Threat(level / 255, valid=PIXEL_RANGE, **TASKS[task])
    parts = []
    for x, y in zip(images.split(batch), labels.split(batch)):
        targets = torch.full_like(y, TO) if threat.objective == "targeted" else None
        parts.append(attacks.attack(threat, model, x, y, targets))
    outcome = attacks.Outcome.concatenate(parts)
    assert outcome.passes.max() <= BUDGETS[task], f"{task}: {outcome.passes.max()} backward passes"
    return outcome


def interval(successes: int, count: int) -> tuple[float, float]:
    """95 % confidence interval in percent (Wilson)."""
    low, high = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    return 100 * low, 100 * high


def row_of(name: str, task: str, level: int, outcome: attacks.Outcome) -> dict:
    count, successes = len(outcome.success), int(outcome.success.sum())
    low, high = interval(successes, count)
    return {"model": name, "attack": task, "epsilon (of 255)": level, "images": count, "success": outcome.rate,
            "low": low, "high": high, "passes, mean": outcome.passes.float().mean().item(),
            "passes, most": int(outcome.passes.max()), "zero gradients": 100 * outcome.zero_gradients.mean().item()}


def compared(plain: Tensor, improved: Tensor) -> dict:
    """Paired comparison of the targeted attacks: difference in success with its 95 % interval, and the sign test."""
    won, lost, count = int((improved & ~plain).sum()), int((plain & ~improved).sum()), len(plain)
    gain = (won - lost) / count
    error = 1.96 * math.sqrt(max(won + lost - (won - lost) ** 2 / count, 0)) / count
    return {"plain": 100 * plain.float().mean().item(), "improved": 100 * improved.float().mean().item(),
            "only improved": won, "only plain": lost, "gain": 100 * gain, "gain low": 100 * (gain - error),
            "gain high": 100 * (gain + error), "p": binomtest(won, won + lost).pvalue if won + lost else 1.0}


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("evasion", __doc__, trains={"epochs": 5, "lr": 0.05})
    parser.add_argument("--images", type=common.COUNT, default=2000, metavar="N",
                        help="test images of the untargeted attack; the targeted ones take all ones (default: 2000)")
    parser.add_argument("--quick", action="store_true", help="4,000 training images, one epoch, three epsilons")
    return parser


def run(args: argparse.Namespace) -> None:
    data = open_mnist(args.data, 4000 if args.quick else None)
    hw = Hardware(args.device)
    models = train(args, data, hw)
    images, labels = (tensor.to(args.device) for tensor in data["val"])
    levels = SHOWN[1:4] if args.quick else LEVELS
    rows, pairs, shown, accuracy = [], [], {}, {}
    for name, model in models.items():
        accuracy[name] = validate(model, TensorBatches(images, labels, 500), hw)["top1"]
        with torch.no_grad():
            predicted = torch.cat([model(x).argmax(1) for x in images.split(500)])
        correct = (predicted == labels).nonzero()[:, 0]
        # Evenly spaced, since MNIST's first test images are easier than its last.
        ones, some = correct[labels[correct] == FROM], correct[spaced(len(correct), args.images)]
        if not len(ones):
            raise BadInput(f"model {name} classifies no test image of a {FROM} correctly; train it for longer")
        for level in levels:
            outcomes = {task: attack(model, task, level, images[chosen], labels[chosen])
                        for task, chosen in (("untargeted", some), ("targeted", ones), ("improved", ones))}
            rows += [row_of(name, task, level, outcome) for task, outcome in outcomes.items()]
            pairs.append({"model": name, "epsilon (of 255)": level,
                          **compared(outcomes["targeted"].success, outcomes["improved"].success)})
            print(common.table(rows[-3:]).split("\n", 1)[1], flush=True)
            if name == "A" and level in SHOWN:
                shown[level] = images[ones][:6].cpu(), outcomes["improved"].images[:6], outcomes["improved"].success[:6]
    print(f"test accuracy: A {accuracy['A']:.2f} %, B {accuracy['B']:.2f} %\n\nimproved and plain, paired by image:")
    print(common.table(pairs))
    publish(args, rows, pairs, shown, accuracy)


def publish(args, rows: list[dict], pairs: list[dict], shown: dict, accuracy: dict) -> None:
    panels = {f"model {name}": {task: tuple(zip(*((row["epsilon (of 255)"], row["success"], row["low"], row["high"])
                                                  for row in rows if (row["model"], row["attack"]) == (name, task))))
                                for task in TASKS} for name in MODELS}
    pictures = {"evasion": plots.lines(panels, ["epsilon (of 255)"] * 2, "success (%), 95 % intervals",
                                         "untargeted: 20 passes; targeted 1 to 8, plain and improved: 100"),
                "evasion_images": plots.digit_rows(shown, "model A, improved attack on ones; an orange frame "
                                                     "marks what is taken for 8")}
    four = {f"{row['model']} at {row['epsilon (of 255)']}": round(row["improved"], 2) for row in pairs
            if row["epsilon (of 255)"] in (8, 16)}
    numbers = ", ".join(f"{key} of 255: {value:.2f} %" for key, value in four.items())
    print("the four numbers, improved attack:", numbers)
    common.publish(args, "evasion", rows, pictures, pairs=pairs, test_accuracy=accuracy, four_numbers=four,
                   seed=args.seed)
