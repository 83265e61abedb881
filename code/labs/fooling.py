"""Fool a network on four photographs, each into a label of our choice, and see what survives. Sheet 002, problem 4.

Part 1: small noise, within --epsilon of each pixel, makes the network say the target. Part 2: mirror image, 80 % crop,
30 degree rotation and grey version of each adversarial photograph, and, as control, of its clean original.

With ImageNet weights: photographs and targets, as `bell_pepper.jpg=space_shuttle`. With --resume, a network of
main.py's: the first images of as many classes of --data that it recognises, each with the label it finds least likely.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as T
from torch import Tensor, nn

import attacks
import figures
from arguments import number
from attacks import Threat
from labs import common, imagenet
from pictures import spread
from utils import IMAGENET_MEAN, IMAGENET_STD, BadInput, denormalize

PIXELS = ([0.0] * 3, [1.0] * 3)


def crop(x: Tensor) -> Tensor:
    """The middle 80 % of height and width, at the size of before."""
    size = list(x.shape[-2:])
    return T.resize(T.center_crop(x, [round(0.8 * side) for side in size]), size, antialias=True).clamp(0, 1)


CHANGES = {"as it is": lambda x: x, "mirrored": T.horizontal_flip, "80 % crop": crop,
           "rotated by 30°": lambda x: T.rotate(x, 30, T.InterpolationMode.BILINEAR),
           "grey": lambda x: T.rgb_to_grayscale(x, num_output_channels=3)}


@dataclass
class Case:
    """Photographs in [0, 1], what they show and what they shall be taken for, for one network."""

    title: str
    model: nn.Module
    images: Tensor
    truth: list[int]
    targets: list[int]
    categories: list[str]
    known: str  # what the table calls `truth`: "true", or "seen clean" where nobody has said what a photograph shows


def from_photos(args) -> Case:
    """Photographs for ImageNet's categories; the truth is what the network says, and a file's name must not object."""
    network = imagenet.open_network(args)
    pairs = [photo.rpartition("=") for photo in args.photos]
    if not pairs or not all(path for path, _, _ in pairs):
        raise BadInput("give photographs with their targets, as bell_pepper.jpg=space_shuttle (or =812)")
    images = torch.stack([network.image(path) for path, _, _ in pairs]).to(args.device)
    with torch.no_grad():
        truth = network.model(images).argmax(1).tolist()
    targets = [network.index(target) for _, _, target in pairs]
    for (path, _, _), label, target in zip(pairs, truth, targets):
        seen, named = network.categories[label], Path(path).stem.lower().replace("_", " ")
        if named != seen.lower() and named in map(str.lower, network.categories):
            raise BadInput(f"{path} is taken for {seen} before any attack: take a photograph that is recognised, or "
                           f"another network (or another file name, if it shows no {named})")
        if label == target:
            raise BadInput(f"{path} is taken for {seen} already: name another target")
        print(f"{path} is taken for {seen} before any attack; what follows goes by that")
    return Case(network.title, network.model, images, truth, targets, network.categories, "seen clean")


def from_checkpoint(args) -> Case:
    network, = common.open_trained(args, [args.resume])
    scores = network.logits()
    known = (scores.argmax(1) == network.labels).nonzero()[:, 0]
    if not len(known):
        raise BadInput(f"{args.resume}: none of the {len(scores)} images is recognised: nothing to be fooled")
    chosen = known[spread(network.labels[known], args.count)]
    model = imagenet.Normalized(network.model, IMAGENET_MEAN, IMAGENET_STD).to(args.device).eval()
    return Case(f"{network.title} of {Path(args.data).name}", model,
                denormalize(network.images[chosen]).to(args.device), network.labels[chosen].tolist(),
                scores[chosen].argmin(1).tolist(), network.names, "true")


def fool(case: Case, epsilon: float, steps: int) -> Tensor:
    """Adversarial photographs: towards the target's label, until the network is as sure as it gets in `steps`."""
    threat = Threat(epsilon, "targeted", steps=steps, step_size=None, valid=PIXELS)
    device = case.images.device
    truth, targets = (torch.tensor(labels, device=device) for labels in (case.truth, case.targets))
    return attacks.attack(threat, case.model, case.images, truth, targets).images


def table(case: Case, adversarial: Tensor) -> tuple[list[dict], dict]:
    """A row for each photograph, clean and adversarial, under each change; and the changed images with captions."""
    rows, shown = [], {}
    for kind, images in (("clean", case.images), ("adversarial", adversarial)):
        for change, apply in CHANGES.items():
            changed = apply(images)
            with torch.no_grad():
                scores = case.model(changed).softmax(1).cpu()
            for i, score in enumerate(scores):
                said = int(score.argmax())
                rows.append({"photo": i + 1, "kind": kind, "change": change, case.known: case.categories[case.truth[i]],
                             "target": case.categories[case.targets[i]], "seen": case.categories[said],
                             "probability": score[said].item(), "of the truth": score[case.truth[i]].item(),
                             "of the target": score[case.targets[i]].item()})
                shown[i, kind, change] = changed[i].cpu(), f"{rows[-1]['seen'][:22]}\n{rows[-1]['probability']:.0%}"
    return rows, shown


def discuss(rows: list[dict]) -> list[str]:
    """What the table says, in sentences."""
    said = []
    for change in CHANGES:
        clean, attacked = ([row for row in rows if (row["kind"], row["change"]) == (kind, change)]
                           for kind in ("clean", "adversarial"))
        count = len(clean)
        known = next(name for name in ("true", "seen clean") if name in clean[0])
        right, still = (sum(row["seen"] == row[known] for row in some) for some in (clean, attacked))
        fooled = sum(row["seen"] == row["target"] for row in attacked)
        mean = sum(row["of the target"] for row in attacked) / count
        said.append(f"{change}: {right} of {count} clean photographs still with their label; of the adversarial ones "
                    f"{fooled} with the target's (mean probability {mean:.0%}), {still} with their own, "
                    f"{count - fooled - still} with another")
    return said


def job(args) -> None:
    if bool(args.resume) != bool(args.data):
        raise BadInput("--resume PATH and --data DIR go together")
    if args.resume and args.photos:
        raise BadInput("give photographs, or --resume PATH and --data DIR, not both")
    case = from_checkpoint(args) if args.resume else from_photos(args)
    epsilon = args.epsilon / 255
    adversarial = fool(case, epsilon, args.steps)
    rows, shown = table(case, adversarial)
    noise, count = (adversarial - case.images).cpu(), len(case.images)
    firsts = [(case.images[i].cpu(), 0.5 + noise[i] / (2 * epsilon), adversarial[i].cpu()) for i in range(count)]
    captions = [(shown[i, "clean", "as it is"][1], f"at most {args.epsilon:g} of 255\nshown {0.5 / epsilon:.0f} x",
                 shown[i, "adversarial", "as it is"][1]) for i in range(count)]
    keys = [(i, kind) for i in range(count) for kind in ("clean", "adversarial")]
    pictures = {"fooling": figures.photo_rows(firsts, captions, ("original", "noise", "noise + original"),
                                              f"{case.title}: at most {args.epsilon:g} of 255 levels"),
                "fooling_changes": figures.photo_rows(
                    [[shown[(*key, change)][0] for change in CHANGES] for key in keys],
                    [[shown[(*key, change)][1] for change in CHANGES] for key in keys], tuple(CHANGES), case.title,
                    [kind for _, kind in keys])}
    text = discuss(rows)
    common.publish(args, "fooling", rows, pictures, network=case.title, epsilon=args.epsilon, discussion=text)
    print(*text, sep="\n")


def main(argv=None) -> None:
    parser = common.parser("fooling", __doc__, data=False)
    parser.add_argument("photos", nargs="*", metavar="PHOTO=TARGET", help="photographs, and what they shall be taken "
                        "for: a name or number of ImageNet's")
    imagenet.add_flags(parser)
    parser.add_argument("--epsilon", type=number(float, 0, 255, above=True), default=4.0, metavar="E",
                        help="largest change, of 255 (default: 4)")
    parser.add_argument("--steps", type=common.COUNT, default=40, metavar="N", help="backward passes (default: 40)")
    parser.add_argument("--resume", metavar="PATH", help="a network of main.py's instead, on images of --data")
    parser.add_argument("--data", metavar="DIR", help="with --resume: its data")
    parser.add_argument("--count", type=common.COUNT, default=4, metavar="N", help="with --resume: images (default: 4)")
    parser.set_defaults(images=None, batch_size=100)
    common.run("fooling", job, parser, argv)


if __name__ == "__main__":
    main()
