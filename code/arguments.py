"""The command line: flags, which of them go together, and what a resumed run takes over from its checkpoint."""

import argparse
import math
import sys
from pathlib import Path

import checkpoint
import hardware
import models
import recipe
from utils import BadInput

CACHES = ("auto", "off", "disk", "gpu")
LOGS = Path(__file__).resolve().parent.parent / "logs"
# What a resumed run takes from its checkpoint, unless the command line says otherwise.
KEPT = ("epochs", "warmup", "batch_size", "lr", "momentum", "weight_decay", "clip_grad", "seed", "use_custom_conv",
        "adversarial", "epsilon", "cache", "recipe")


def number(kind: type, low: float, high: float = math.inf, above: bool = False):
    """An argparse type: a finite `kind` in [low, high], or in (low, high] if `above`."""

    def convert(text: str):
        value = kind(text)
        if not ((low < value if above else low <= value) and value <= high and value != math.inf):
            limits = f"{'above' if above else 'of at least'} {low}"
            limits += f" and at most {high}" if high < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text} is not a {'whole' if kind is int else 'finite'} number {limits}")
        return value

    convert.__name__ = {int: "whole number", float: "number"}[kind]  # argparse: invalid whole number value: 'x'
    return convert


def get_args_parser() -> argparse.ArgumentParser:
    """The flags of the sheet, and ours: --model --seed --amp --weights --logs, and the attack's three."""
    parser = argparse.ArgumentParser(
        prog="main.py", allow_abbrev=False, usage="python main.py DIR [flags]   (--help lists them)",
        description="Train, evaluate (-e) or attack (-a) an image classifier.")
    add = parser.add_argument
    add("data", metavar="DIR", help="folder with train.txt, val.txt and images/ (MiniPlaces' layout), or with "
        "torchvision's MNIST, CIFAR-10 or Oxford-IIIT Pet")
    add("-e", "--evaluate", action="store_true", help="evaluate the model of --resume on the validation images, "
        "alone and averaged with the mirrored image")
    add("-a", "--attack", action="store_true", help="attack the model of --resume on the validation images")
    add("-v", "--vis", action="store_true", help="with -e or -a: also write pictures, to TensorBoard and as PNG")
    add("--resume", metavar="PATH", help="checkpoint to go on from, or to evaluate or attack. A resumed run keeps "
        "its settings and its schedule. With another --epochs the learning rate falls from where it is to zero at "
        "the new end. With --start-epoch only the weights are taken and a new schedule begins")

    what = parser.add_argument_group("model")
    what.add_argument("--model", metavar="NAME", help=f"one of {', '.join(models.MODEL_NAMES)} (default: that of "
                      "--resume, else default_cnn_model of student_code.py)")
    what.add_argument("--use-vit", action="store_true", help="the same as --model vit: AdamW, clipped gradients")
    what.add_argument("--use-resnet18", action="store_true", help="the same as --model resnet18: from ImageNet")
    what.add_argument("--use-custom-conv", nargs="?", const="unfold", choices=models.CUSTOM_CONVS, help="build the "
                      "network from own convolutions: unfold is CustomConv2d of student_code.py, flat the fast one of "
                      "flat_conv.py (default without a value: unfold)")
    what.add_argument("--weights", metavar="FILE", help="ImageNet weights of resnet18 from disk, without a network")

    how = parser.add_argument_group("training")
    how.add_argument("--epochs", default=90, type=number(int, 1), metavar="N", help="epochs in all (default: 90)")
    how.add_argument("--warmup", default=5, type=number(float, 0), metavar="N",
                     help="epochs of linear warm-up, at most half of all (default: 5)")
    how.add_argument("--start-epoch", default=0, type=number(int, 0), metavar="N",
                     help="epoch to begin with, counted from 0; with --resume it takes the weights only (default: 0, "
                     "or the checkpoint's)")
    how.add_argument("-b", "--batch-size", default=256, type=number(int, 1), metavar="N",
                     help="images a step, over all processes (default: 256)")
    how.add_argument("--lr", "--learning-rate", default=0.1, type=number(float, 0, above=True), metavar="LR",
                     help="peak learning rate (default: 0.1)")
    how.add_argument("--momentum", default=0.9, type=number(float, 0, 1), metavar="M", help="of SGD (default: 0.9)")
    how.add_argument("--wd", "--weight-decay", dest="weight_decay", default=1e-4, type=number(float, 0), metavar="W",
                     help="weight decay (default: 1e-4)")
    how.add_argument("--clip-grad", default=1.0, type=number(float, 0, above=True), metavar="G", help="bound on the "
                     "gradient's norm: for the ViT always, for others if given (default: 1.0)")
    how.add_argument("--recipe", default="sheet", choices=recipe.RECIPES, help="fast: for short trainings; small images "
                     "at first, flips and sized crops alone, Muon; -b 128, --lr 0.02, --warmup 1 (default: sheet)")
    how.add_argument("--adversarial", choices=("fast", "pgd"), help="train on attacked images: pgd attacks in five "
                     "steps within --epsilon, fast in one (N-FGSM, up to 3 times as far), guarded against collapse")
    how.add_argument("--seed", default=0, type=number(int, 0, 2**63), metavar="N",
                     help="of everything random (default: 0)")

    attack = parser.add_argument_group("attack (with -a; default: as student_code.py sets them)")
    attack.add_argument("--num-steps", type=number(int, 1), metavar="N", help="steps (10)")
    attack.add_argument("--step-size", type=number(float, 0), metavar="S", help="step, in normalised units (0.01)")
    attack.add_argument("--epsilon", type=number(float, 0), metavar="E", help="l-inf bound, in normalised units: "
                        "0.1 is about 6 of 255; also of --adversarial (0.1)")
    attack.add_argument("--self-check", action="store_true", help="also judge the attack itself, on 200 images: a "
                        "table of what an honest evaluation asks for, passed and failed")

    where = parser.add_argument_group("machine and output")
    where.add_argument("-j", "--workers", default=4, type=number(int, 0), metavar="N",
                       help="processes or threads that load data, at most one a core (default: 4)")
    where.add_argument("--cache", default="auto", choices=CACHES, help="decoded images: disk keeps them in "
                       "DIR/.decoded, gpu copies them to the GPU as well, auto does what there is room for, and off "
                       "decodes them anew in each epoch (default: auto)")
    where.add_argument("--gpu", type=int, metavar="N", help="CUDA device, -1 for the CPU (default: the best there is)")
    where.add_argument("--use-mps", action="store_true", help="use Apple's MPS device")
    where.add_argument("--amp", default="auto", choices=("auto", "off", "bf16", "fp16"), help="number type in "
                       "training and inside an attack: auto takes what is fast here, off is fp32. What is reported is "
                       "computed in fp32 unless a type is named")
    where.add_argument("-p", "--print-freq", default=10, type=number(int, 1), metavar="N",
                       help="batches between reports (default: 10)")
    where.add_argument("--logs", default=LOGS, type=Path, metavar="DIR",
                       help="where run folders go (default: logs/ at the repository's root)")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the flags and check that they go together; parser.error, with a sentence, if not.

    Beside the flags the namespace has: `given`, the names of the flags that were typed; `device`, and `amp_training`
    (the number type of gradients, training's and an attack's), both resolved; `saved`, the checkpoint of --resume or
    None; `mode`: train, evaluate or attack.
    """
    parser, argv = get_args_parser(), spelled_out(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    args.given = flags_given(argv)
    if problem := wrong_combination(args):
        parser.error(problem)
    args.mode = "evaluate" if args.evaluate else "attack" if args.attack else "train"
    try:
        args.device = hardware.pick_device(args.gpu, args.use_mps)
        if args.cache == "gpu" and args.device.type != "cuda":
            raise BadInput(f"--cache gpu needs a CUDA GPU, and this run computes on {args.device.type}; take "
                           "--cache disk")
        amp = "off" if args.amp == "auto" and args.mode == "evaluate" else args.amp  # figures are measured in fp32
        args.amp_training = hardware.pick_amp(amp, args.device)
        args.saved = checkpoint.load(args.resume) if args.resume else None
        take_over(args)
    except BadInput as error:
        parser.error(str(error))
    if problem := wrong_combination(args):  # once more: the checkpoint may have named the model
        parser.error(problem)
    return args


def spelled_out(argv: list[str]) -> list[str]:
    """A bare --use-custom-conv gets its value, or argparse would take DIR behind it for one."""
    flag, following = "--use-custom-conv", [*argv[1:], ""]
    return [f"{flag}=unfold" if word == flag and after not in models.CUSTOM_CONVS else word
            for word, after in zip(argv, following)]


def take_over(args: argparse.Namespace) -> None:
    """Fill in what was not typed from the checkpoint of --resume: the model, and the settings of a run that goes on."""
    saved = args.saved or {}
    args.goes_on = bool(saved) and args.mode == "train" and "start_epoch" not in args.given
    args.model = args.model or (models.name_of(saved) if saved else models.default_model_name())
    if args.model != "vit" and "clip_grad" not in args.given:
        args.clip_grad = None
    settings = saved.get("settings") or stock_settings(saved)
    for name in set(KEPT if args.goes_on else ("use_custom_conv",)) & (set(settings) - args.given):
        setattr(args, name, settings[name])
    if args.recipe == "fast":
        for name in set(recipe.FAST) - args.given - (set(settings) if args.goes_on else set()):
            setattr(args, name, recipe.FAST[name])
    # Until there were two of them, the checkpoint said yes or no.
    args.use_custom_conv = {True: "unfold", False: None}.get(args.use_custom_conv, args.use_custom_conv)
    if args.goes_on and args.amp == "auto" and settings.get("device") == args.device.type:
        args.amp_training = settings["amp"]


def stock_settings(saved: dict) -> dict:
    """What a checkpoint of the stock scaffold tells of its run: what stands in the optimizer's state."""
    groups = (saved.get("optimizer") or {}).get("param_groups") or [{}]
    names = {"initial_lr": "lr", "momentum": "momentum", "weight_decay": "weight_decay"}
    return {ours: groups[0][theirs] for theirs, ours in names.items() if theirs in groups[0]}


def flags_given(argv: list[str]) -> set[str]:
    """The flags that stand on the command line themselves, by their names in the namespace."""
    parser = get_args_parser()
    names = vars(parser.parse_args(argv))
    parser.set_defaults(**dict.fromkeys(names))
    return {name for name, value in vars(parser.parse_args(argv)).items() if value is not None}


def wrong_combination(args: argparse.Namespace) -> str | None:
    """The sentence about flags that do not go together, if there is one; also turns --use-* into --model."""
    chosen = {name for name, flag in (("vit", args.use_vit), ("resnet18", args.use_resnet18)) if flag}
    chosen |= {args.model} if args.model else set()
    if len(chosen) > 1:
        return f"--model, --use-vit and --use-resnet18 exclude each other; these name {' and '.join(sorted(chosen))}"
    args.model = next(iter(chosen), None)
    if args.model not in (None, *models.MODEL_NAMES):
        return f"--model {args.model}: there is no such model; take one of {', '.join(models.MODEL_NAMES)}"
    if args.evaluate and args.attack:
        return "-e and -a exclude each other: -a evaluates the clean images as well"
    if (args.evaluate or args.attack) and not args.resume:
        return f"{'-e' if args.evaluate else '-a'} needs --resume PATH, the checkpoint of the model"
    if args.vis and not (args.evaluate or args.attack):
        return "-v goes with -e or -a"
    if args.use_custom_conv and args.model in ("vit", "resnet18"):
        return f"--use-custom-conv does not go with {args.model}, which is not made of the student's layers"
    if args.weights and args.model != "resnet18":
        return "--weights goes with --model resnet18; to start from a checkpoint take --resume"
    if args.weights and args.resume:
        return "--weights and --resume exclude each other: a checkpoint holds all weights"
    if args.use_mps and args.gpu is not None:
        return "--use-mps and --gpu exclude each other"
    if args.adversarial and args.model == "adv-simplenet":
        return "--adversarial does not go with adv-simplenet, which attacks its images by itself"
    if "adversarial" in args.given and (args.evaluate or args.attack):
        return "--adversarial is for training"
    stray = sorted(args.given & {"num_steps", "step_size"})
    if (stray or args.self_check) and not args.attack:
        return f"--{stray[0].replace('_', '-') if stray else 'self-check'} goes with -a"
    not_yet_read = args.resume and not hasattr(args, "saved")  # the checkpoint may be that of adversarial training
    if "epsilon" in args.given and not (args.attack or args.adversarial or not_yet_read):
        return "--epsilon goes with -a or --adversarial"
    if args.cache == "gpu" and (args.evaluate or args.attack):
        return "--cache gpu is for training"
    if args.recipe == "fast" and "momentum" in args.given:
        return "--momentum is the sheet's SGD's; --recipe fast trains with Muon"
    if args.model == "vit" and "momentum" in args.given:
        return "--momentum is SGD's; the ViT trains with AdamW"
    if args.resume and "warmup" in args.given and "start_epoch" not in args.given:
        return "--warmup belongs to the beginning of a run, and a resumed one keeps its own; see --start-epoch"
    if args.start_epoch >= args.epochs:
        return f"--start-epoch {args.start_epoch} leaves none of --epochs {args.epochs}"
    return None
