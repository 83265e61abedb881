"""Success rate and time of extras/attacks.py against torchattacks and foolbox, at equal settings.

    pip install --no-deps torchattacks foolbox eagerpy gitpython gitdb smmap
    python benchmarks/bench_agreement.py --data DIR --resume models/model_best.pth.tar

All three run untargeted PGD without a random start on the same trained network, which normalises its input, and the
same images in [0, 1]. The last column counts images outside the L-inf ball, in float64. `strong` is shown for
comparison; the libraries have no equivalent.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median

import measure
import torch
from bench_attack import all_images
from torch import Tensor, nn

from custom_dataloader import open_split
from extras.attacks import Threat, attack, strong
from labs.cs5787.imagenet import Normalized
from libs import checkpoint, hardware, networks
from utils import IMAGENET_MEAN, IMAGENET_STD

PIXEL_RANGE = ([0.0] * 3, [1.0] * 3)
SETTINGS = ((2 / 255, 0.5 / 255, 10), (1 / 255, 0.25 / 255, 10), (4 / 255, 1 / 255, 10), (2 / 255, 0.25 / 255, 40))


def attackers(model: nn.Module, epsilon: float, step: float, steps: int, device: str) -> dict[str, Callable]:
    """{name: images, labels -> attacked images}"""
    import foolbox
    import torchattacks

    theirs = torchattacks.PGD(model, eps=epsilon, alpha=step, steps=steps, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)
    pgd = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=False)
    threat = Threat(epsilon, "untargeted", steps=steps, step_size=step, valid=PIXEL_RANGE)
    strong_threat = strong(epsilon, steps, 1, valid=PIXEL_RANGE)
    return {"ours": lambda x, y: attack(threat, model, x, y).images, "torchattacks": theirs,
            "foolbox": lambda x, y: pgd(wrapped, x, y, epsilons=epsilon)[1],
            "ours, strong": lambda x, y: attack(strong_threat, model, x, y).images}


def compare(model: nn.Module, images: Tensor, labels: Tensor, setting: tuple, args: argparse.Namespace) -> dict:
    """One setting: the four attacks, interleaved by batch."""
    epsilon, step, steps = setting
    attacks = attackers(model, epsilon, step, steps, args.device)
    wrong, outside = dict.fromkeys(attacks, 0), dict.fromkeys(attacks, 0)
    times: dict[str, list[float]] = {name: [] for name in attacks}
    for x, y in zip(images.split(args.batch), labels.split(args.batch)):
        for name, run_attack in attacks.items():
            results: list[Tensor] = []
            times[name].append(measure.seconds(lambda: results.append(run_attack(x, y).detach()), args.device))  # noqa: B023
            adversarial = results[0]
            with torch.no_grad():
                wrong[name] += (model(adversarial).argmax(1) != y).sum().item()
            outside[name] += ((adversarial.double() - x.double()).abs().flatten(1).amax(1) > epsilon).sum().item()
    rates = {name: 100 * count / len(labels) for name, count in wrong.items()}
    print(f"epsilon {255 * epsilon:g}/255, step {255 * step:g}/255, {steps} steps")
    for name in attacks:
        print(f"  {name:14} success {rates[name]:6.2f} %  ({rates[name] - rates['ours']:+5.2f})   "
              f"{measure.spread(times[name][1:] or times[name])} ms per batch   {outside[name]:5} outside the ball")
    return {"epsilon": epsilon, "step": step, "steps": steps, "success": rates, "outside": outside,
            "seconds": {name: median(seconds[1:] or seconds) for name, seconds in times.items()}}


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="MiniPlaces' layout")
    parser.add_argument("--resume", type=Path, required=True, metavar="PATH", help="a trained network")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="images to attack (default: 1000)")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), metavar="N", help="number of settings "
                        "(default: all)")
    args = parser.parse_args()
    hardware.keep_memory()
    saved = checkpoint.load(args.resume)
    images, labels = all_images(args)
    classes = len(open_split(args.data, "val")[1])
    network = networks.build(networks.name_of(saved), classes, tuple(images.shape[2:]))
    checkpoint.load_weights(network, saved["state_dict"], args.resume)
    model = Normalized(network, IMAGENET_MEAN, IMAGENET_STD).to(args.device).eval()
    mean, std = model.mean.cpu(), model.std.cpu()
    pixels = (images.cpu() * std + mean).clamp(0, 1).to(args.device)
    rows = [compare(model, pixels, labels, setting, args) for setting in SETTINGS[: args.settings]]
    largest = max(abs(row["success"]["ours"] - row["success"][name]) for row in rows
                for name in ("torchattacks", "foolbox"))
    print(f"{len(labels)} images: success rates differ by at most {largest:.2f} points")
    measure.save(args, {"rows": rows, "most_apart": largest, "images": len(labels)})


if __name__ == "__main__":
    main()
