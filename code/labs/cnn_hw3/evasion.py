"""Evasion attacks on two MNIST classifiers, within an L-inf distance. CNN Homework 3, deliverable 6.

Model A is the CNN of train.py; model B is a perceptron with two hidden layers of 256 and ReLU. Both take images in
[0, 1], and adversarial images stay in that range. They are trained once, kept in --models and loaded from there. The
attacks are those of attacks.py:

task 1  untargeted          cross-entropy away from the true label, at most 20 backward passes an image
task 2  targeted, 1 -> 8    cross-entropy towards 8, at most 100
task 3  improved, 1 -> 8    margin of 8 to the largest other logit, momentum, falling steps, two starts, at most 100

The images are test images: models are overconfident on training images, and an attacker has new ones. The success rate
is over the images that the model classifies correctly before the attack.
"""

import argparse
import math
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from labs import common
from labs.cnn_hw3.attacks import TARGETED_PASSES, UNTARGETED_PASSES, improved, margin, targeted, untargeted
from labs.cnn_hw3.mnist_cnn import open_mnist
from labs.cnn_hw3.train import MnistCNN, normalized
from labs.training import SAVED_SETTINGS, TensorBatches, train_network, validate
from libs import checkpoint, plots
from libs.hardware import Hardware
from utils import BadInput, spaced

LEVELS = (4, 8, 12, 16, 18, 20, 22, 24, 26, 28, 32, 40, 48)  # epsilon, in units of 1/255
SHOWN = (4, 8, 16, 32)  # in the figure of the images
BONUS = (8, 16)
FROM, TO = 1, 8
TASKS = {"untargeted": untargeted, "targeted": targeted, "improved": improved}
BUDGETS = {"untargeted": UNTARGETED_PASSES, "targeted": TARGETED_PASSES, "improved": TARGETED_PASSES}
CEILING = {"images": 100, "passes": 2000, "starts": 20}  # a search that no budget limits, where `improved` just failed


class Perceptron(nn.Module):
    """N,1,28,28 in [0, 1] -> N,10, without a convolution."""

    def __init__(self, width: int = 256):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                                    nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(normalized(x))


MODELS = {"A": lambda: MnistCNN(nn.Conv2d, nn.MaxPool2d), "B": Perceptron}

# ------------------------------------------------------------------------------------------------ the models


def open_models(args: argparse.Namespace, data: dict, hw: Hardware) -> dict[str, nn.Module]:
    """Models A and B from --models, trained first where their checkpoint is not there. Raises BadInput."""
    folder, models = args.models or args.logs / "evasion", {}
    for name, make in MODELS.items():
        file = folder / f"mnist-{name}.pth.tar"
        torch.manual_seed(args.seed)
        models[name] = make().to(hw.device)
        if not file.exists():
            checkpoint.copy(Path(train(args, name, models[name], data, hw)), file)
        saved = checkpoint.load(file)
        check_settings(args, saved.get("settings", {}), file)
        checkpoint.load_weights(models[name], saved["state_dict"], file)
        print(f"model {name}: {file}", flush=True)
    return models


def train(args: argparse.Namespace, name: str, model: nn.Module, data: dict, hw: Hardware) -> str:
    """Train a model. Returns the path of its last checkpoint."""
    batches, val = (TensorBatches(*data[split], args.train_batch, split == "train", args.seed) for split in data)
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9)
    return train_network(args, f"mnist-{name}", model, batches, val, hw, optimizer, args.epochs)[1]


def check_settings(args: argparse.Namespace, saved: dict, file: Path) -> None:
    for key in SAVED_SETTINGS:
        if saved.get(key, getattr(args, key)) != getattr(args, key):
            raise BadInput(f"{file}: was trained with --{key.replace('_', '-')} {saved[key]}, not "
                           f"{getattr(args, key)}; delete it, or name another folder with --models")


# ----------------------------------------------------------------------------------------------- the attacks


class Counted(nn.Module):
    """`model`, counting the backward passes through it, each for a whole batch."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.passes = model, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x.clone()
            x.register_hook(self._count)
        return self.model(x)

    def _count(self, _: Tensor) -> None:
        self.passes += 1


def attack(model: nn.Module, task: str, level: int, images: Tensor, labels: Tensor, batch: int = 500,
           **settings) -> tuple[Tensor, Tensor, int]:
    """Adversarial images, whether each succeeds, and the largest number of backward passes of an image.

    Asserts that they are in the box and, without `settings`, that they cost no more passes than the assignment allows.
    """
    parts, most = [], 0
    for x, y in zip(images.split(batch), labels.split(batch)):
        counted = Counted(model).eval()
        parts.append(
            TASKS[task](counted, x, y if task == "untargeted" else torch.full_like(y, TO), level / 255, **settings)
        )
        most = max(most, counted.passes)
    adversarial = torch.cat(parts)
    assert settings or most <= BUDGETS[task], f"{task}: {most} backward passes"
    assert (adversarial - images).abs().max() <= level / 255 + 1e-6 and 0 <= adversarial.min() <= adversarial.max() <= 1
    predicted = logits_of(model, adversarial).argmax(1)
    return adversarial, (predicted != labels) if task == "untargeted" else (predicted == TO), most


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(x) for x in images.split(500)])


def beyond_the_budget(model: nn.Module, level: int, images: Tensor, adversarial: Tensor, success: Tensor) -> int:
    """How many of the images on which `improved` came closest, and failed, a search 20 times as long wins."""
    nearest = margin(logits_of(model, adversarial), torch.full((len(images),), TO, device=images.device))
    nearest = nearest.masked_fill(success, math.inf).argsort()[: min(CEILING["images"], int((~success).sum()))]
    if not len(nearest):
        return 0
    _, won, _ = attack(model, "improved", level, images[nearest], torch.full_like(nearest, FROM),
                       passes=CEILING["passes"], starts=CEILING["starts"])
    return int(won.sum())


# ------------------------------------------------------------------------------------------------ the tables


def interval(successes: int, count: int) -> tuple[float, float]:
    """95 % confidence interval in percent (Wilson)."""
    low, high = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    return 100 * low, 100 * high


def row_of(name: str, task: str, level: int, success: Tensor, most: int) -> dict:
    count, successes = len(success), int(success.sum())
    low, high = interval(successes, count)
    return {"model": name, "attack": task, "epsilon (of 255)": level, "images": count,
            "success": 100 * successes / count, "low": low, "high": high, "passes, most": most}


def compared(plain: Tensor, improved: Tensor) -> dict:
    """Paired comparison of the targeted attacks: difference in success with its 95 % interval, and the sign test."""
    won, lost, count = int((improved & ~plain).sum()), int((plain & ~improved).sum()), len(plain)
    gain = (won - lost) / count
    error = 1.96 * math.sqrt(max(won + lost - (won - lost) ** 2 / count, 0)) / count
    return {"plain": 100 * plain.float().mean().item(), "improved": 100 * improved.float().mean().item(),
            "only improved": won, "only plain": lost, "gain": 100 * gain, "gain low": 100 * (gain - error),
            "gain high": 100 * (gain + error), "p": binomtest(won, won + lost).pvalue if won + lost else 1.0}


def chosen_images(name: str, model: nn.Module, images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of all ones, and of `count` images of all digits, that the model gets right. Raises BadInput."""
    correct = (logits_of(model, images).argmax(1) == labels).nonzero()[:, 0]
    ones = correct[labels[correct] == FROM]
    if not len(ones):
        raise BadInput(f"model {name} classifies no test image of a {FROM} correctly; train it for longer")
    # Evenly spaced, since MNIST's first test images are easier than its last.
    return ones, correct[spaced(len(correct), count)]


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("evasion", __doc__, trains={"epochs": 5, "lr": 0.05})
    parser.add_argument("--images", type=common.COUNT, default=2000, metavar="N",
                        help="test images of the untargeted attack; the targeted ones take all ones (default: 2000)")
    parser.add_argument("--models", type=Path, metavar="DIR", help="folder of the checkpoints of models A and B, which "
                        "are trained if they are not there (default: evasion/ in --logs)")
    parser.add_argument("--levels", type=common.COUNT, nargs="+", metavar="N", help="epsilons, of 255 (default: "
                        f"{' '.join(map(str, LEVELS))})")
    parser.add_argument("--quick", action="store_true", help="4,000 training images, one epoch, three epsilons")
    return parser


def run(args: argparse.Namespace) -> None:
    data = open_mnist(args.data, 4000 if args.quick else None)
    if args.quick:
        args.epochs, args.levels = 1, args.levels or SHOWN[1:]
    hw = Hardware(args.device)
    models = open_models(args, data, hw)
    images, labels = (tensor.to(args.device) for tensor in data["val"])
    rows, pairs, accuracy, shown = [], [], {}, {}
    for name, model in models.items():
        accuracy[name] = validate(model, TensorBatches(images, labels, 500), hw)["top1"]
        ones, some = chosen_images(name, model, images, labels, args.images)
        for level in args.levels or LEVELS:
            found = {task: attack(model, task, level, images[chosen], labels[chosen])
                     for task, chosen in (("untargeted", some), ("targeted", ones), ("improved", ones))}
            rows += [row_of(name, task, level, *results[1:]) for task, results in found.items()]
            pair = compared(found["targeted"][1], found["improved"][1])
            if level in BONUS:
                pair["more by 2,000 passes"] = beyond_the_budget(model, level, images[ones], *found["improved"][:2])
            pairs.append({"model": name, "epsilon (of 255)": level, "more by 2,000 passes": None, **pair})
            print(common.table(rows[-3:]).split("\n", 1)[1], flush=True)
        shown[name] = examples(model, images[ones][:3], labels[ones][:3])
    print(f"test accuracy: A {accuracy['A']:.2f} %, B {accuracy['B']:.2f} %\n\nimproved and plain, paired by image:")
    print(common.table(pairs))
    publish(args, rows, pairs, shown, accuracy)


# ------------------------------------------------------------------------------------------------ the figures


def examples(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """{row: (images, success)}: the originals, and each attack at each epsilon of SHOWN."""
    rows = {"original": (images, torch.zeros(len(images), dtype=torch.bool))}
    for level in SHOWN:
        for task in TASKS:
            rows[f"{task}\n{level}/255"] = attack(model, task, level, images, labels)[:2]
    return rows


def publish(args, rows: list[dict], pairs: list[dict], shown: dict, accuracy: dict) -> None:
    panels = {f"model {name}": {task: tuple(zip(*((row["epsilon (of 255)"], row["success"], row["low"], row["high"])
                                                  for row in rows if (row["model"], row["attack"]) == (name, task))))
                                for task in TASKS} for name in MODELS}
    both = {row: tuple(torch.cat([shown[name][row][i].cpu() for name in MODELS]) for i in (0, 1)) for row in shown["A"]}
    pictures = {"evasion": plots.lines(panels, ["epsilon (of 255)"] * 2, "success (%), 95 % intervals",
                                         "untargeted: 20 passes; targeted 1 to 8, plain and improved: 100"),
                "evasion_images": plots.digit_rows(both, "left: model A, right: model B; an orange frame: success")}
    four = {f"{row['model']} at {row['epsilon (of 255)']}": round(row["improved"], 2) for row in pairs
            if row["epsilon (of 255)"] in BONUS}
    numbers = ", ".join(f"{key} of 255: {value:.2f} %" for key, value in four.items())
    print("the four numbers, improved attack:", numbers)
    common.publish(args, "evasion", rows, pictures, pairs=pairs, test_accuracy=accuracy, four_numbers=four,
                   ceiling=CEILING, seed=args.seed)
