"""Command line of main.py: the flags, which combinations are valid, and what a resumed run restores."""

import argparse
import math
import sys
from argparse import SUPPRESS
from dataclasses import make_dataclass, replace
from pathlib import Path

from libs.loaders import CACHES
from libs.networks import CUSTOM_CONVS, MODEL_NAMES, convolution_of, default_model_name, name_of
from libs.recipe import FAST, RECIPES

LOGS = Path(__file__).resolve().parents[2] / "logs"
# Value of each flag that is not on the command line.
DEFAULTS = {
    "evaluate": False, "attack": False, "vis": False, "view": None, "resume": None, "model": None, "use_vit": False,
    "use_resnet18": False, "use_custom_conv": None, "weights": None, "recipe": "sheet", "epochs": 90, "warmup": 5.0,
    "start_epoch": 0, "batch_size": 256, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "clip_grad": 1.0,
    "adversarial": None, "seed": 0, "num_steps": None, "step_size": None, "epsilon": None, "self_check": False,
    "workers": 4, "cache": "auto", "gpu": None, "use_mps": False, "amp": "auto", "print_freq": 10,
    "bad_images": "fail", "checkpoint_minutes": 1.0, "logs": LOGS}
# Settings that a resumed run restores from its checkpoint, unless the command line has them.
RESTORED_ON_RESUME = ("epochs", "warmup", "batch_size", "lr", "momentum", "weight_decay", "clip_grad", "seed",
                      "use_custom_conv", "adversarial", "epsilon", "cache", "recipe", "print_freq", "bad_images")
# The values of all flags, read-only; `data`: DIR; `mode`: train, evaluate or attack; `given`: names of typed flags.
Flags = make_dataclass("Flags", ["data", *DEFAULTS, "mode", "given"], frozen=True)


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
    """The flags of the sheet, and those added here. Only typed flags appear in the namespace; see DEFAULTS."""
    parser = argparse.ArgumentParser(
        prog="main.py", allow_abbrev=False, usage="python main.py DIR [flags]   (--help lists them)",
        description="Train, evaluate (-e) or attack (-a) an image classifier.", argument_default=SUPPRESS)
    add = parser.add_argument
    add("data", metavar="DIR", help="folder with train.txt, val.txt and images/ (MiniPlaces' layout), or with "
        "torchvision's MNIST, CIFAR-10 or Oxford-IIIT Pet")
    add("-e", "--evaluate", action="store_true", default=SUPPRESS, help="evaluate the checkpoint of --resume on the "
        "validation images, without and with horizontal-flip test-time augmentation")
    add("-a", "--attack", action="store_true", default=SUPPRESS, help="attack the checkpoint of --resume on the "
        "validation images")
    add("-v", "--vis", action="store_true", default=SUPPRESS, help="with -e or -a: also save images, as PNG and for "
        "TensorBoard")
    add("--view", type=number(int, 8, 2048), metavar="PIXELS", help="with -e: also evaluate on images resized to "
        "PIXELS, without a margin to crop off; 160 suits networks trained on random sized crops of 128 pixels")
    add("--resume", metavar="PATH", help="checkpoint to resume, evaluate or attack; auto takes the newest good one in "
        "--logs, and starts a training if there is none. A resumed run keeps its settings and its learning-rate "
        "schedule; with another --epochs the rate falls from its present value to zero at the new end. With "
        "--start-epoch only the weights are loaded, and a new schedule starts")

    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", help=f"one of {', '.join(MODEL_NAMES)} (default: that of --resume, "
                       "else default_cnn_model of student_code.py)")
    model.add_argument("--use-vit", action="store_true", default=SUPPRESS, help="same as --model vit: AdamW, gradient "
                       "clipping")
    model.add_argument("--use-resnet18", action="store_true", default=SUPPRESS, help="same as --model resnet18: "
                       "pretrained on ImageNet")
    model.add_argument("--use-custom-conv", nargs="?", const="unfold", choices=CUSTOM_CONVS, help="replace nn.Conv2d: "
                       "unfold by CustomConv2d of student_code.py, flat by the faster extras/flat_conv.py (without a "
                       "value: unfold)")
    model.add_argument("--weights", metavar="FILE", help="ImageNet weights of resnet18, from disk")

    train = parser.add_argument_group("training")
    train.add_argument("--recipe", choices=RECIPES, help="fast: Muon, progressive resizing, flips and crops only, "
                       f"-b {FAST['batch_size']}, --lr {FAST['lr']:g}, --warmup {FAST['warmup']:g}, "
                       f"--wd {FAST['weight_decay']:g}; for short trainings (default: sheet)")
    train.add_argument("--epochs", type=number(int, 1), metavar="N", help="total number of epochs (default: 90)")
    train.add_argument("--warmup", type=number(float, 0), metavar="N",
                       help="epochs of linear warm-up, at most half of all (default: 5)")
    train.add_argument("--start-epoch", type=number(int, 0), metavar="N",
                       help="first epoch, counted from 0; with --resume only the weights are loaded (default: 0, or "
                       "the checkpoint's)")
    train.add_argument("-b", "--batch-size", type=number(int, 1), metavar="N",
                       help="images per iteration, over all processes (default: 256)")
    train.add_argument("--lr", "--learning-rate", type=number(float, 0, above=True), metavar="LR",
                       help="peak learning rate (default: 0.1)")
    train.add_argument("--momentum", type=number(float, 0, 1), metavar="M", help="momentum of SGD (default: 0.9)")
    train.add_argument("--wd", "--weight-decay", dest="weight_decay", type=number(float, 0), metavar="W",
                       help="weight decay (default: 1e-4)")
    train.add_argument("--clip-grad", type=number(float, 0, above=True), metavar="G", help="maximum gradient norm: "
                       "always for the ViT, for others if given (default: 1.0)")
    train.add_argument("--adversarial", choices=("fast", "pgd"), help="adversarial training of any network: pgd takes "
                       "five steps within --epsilon, fast one (N-FGSM, up to 3 times as far), with a guard against "
                       "catastrophic overfitting")
    train.add_argument("--seed", type=number(int, 0, 2**63), metavar="N", help="random seed (default: 0)")

    attack = parser.add_argument_group("attack (with -a; default: as student_code.py sets them)")
    attack.add_argument("--num-steps", type=number(int, 1), metavar="N", help="number of steps (10)")
    attack.add_argument("--step-size", type=number(float, 0), metavar="S", help="step, in normalised units (0.01)")
    attack.add_argument("--epsilon", type=number(float, 0), metavar="E", help="L-inf bound, in normalised units: "
                        "0.1 is about 6 of 255 levels; also of --adversarial (0.1)")
    attack.add_argument("--self-check", action="store_true", default=SUPPRESS, help="also test the attack itself, on "
                        "200 images: a table of passed and failed checks")

    output = parser.add_argument_group("device, data loading and output")
    output.add_argument("-j", "--workers", type=number(int, 0), metavar="N",
                        help="processes or threads of the data loader, at most one a core (default: 4)")
    output.add_argument("--cache", choices=CACHES, help="decoded images: disk keeps them in DIR/.decoded, gpu copies "
                        "them to the GPU as well, auto does what fits, off decodes in each epoch (default: auto)")
    output.add_argument("--bad-images", choices=("fail", "skip"), help="a missing or damaged image ends the run, or "
                        "is left out of its batch, counted and listed (default: fail)")
    output.add_argument("--gpu", type=int, metavar="N", help="CUDA device, -1 for the CPU (default: the best device)")
    output.add_argument("--use-mps", action="store_true", default=SUPPRESS, help="use Apple's MPS device")
    output.add_argument("--amp", choices=("auto", "off", "bf16", "fp16"), help="mixed precision for training and for "
                        "attack gradients: auto takes the fastest type of the device, off is fp32. Reported figures "
                        "are computed in fp32 unless a type is named")
    output.add_argument("-p", "--print-freq", type=number(int, 1), metavar="N",
                        help="batches between progress lines (default: 10)")
    output.add_argument("--checkpoint-minutes", type=number(float, 0, above=True), metavar="M",
                        help="minutes between checkpoints inside an epoch; each epoch also ends with one (default: 1)")
    output.add_argument("--logs", type=Path, metavar="DIR",
                        help="parent of the run folders (default: logs/ at the repository's root)")
    return parser


def parse_args(argv: list[str] | None = None) -> Flags:
    """Parse the command line; exits through parser.error if flags conflict. Reads no file and asks no device."""
    parser = get_args_parser()
    typed = vars(parser.parse_args(insert_default_value(sys.argv[1:] if argv is None else argv)))
    mode = "evaluate" if "evaluate" in typed else "attack" if "attack" in typed else "train"
    flags = Flags(**{**DEFAULTS, **typed}, mode=mode, given=frozenset(typed) - {"data"})
    if problem := conflict(flags):
        parser.error(problem)
    return replace(flags, model=next(iter(models_named(flags)), None))


def insert_default_value(argv: list[str]) -> list[str]:
    """Give a bare --use-custom-conv its default value, so that argparse does not consume DIR."""
    flag, following = "--use-custom-conv", [*argv[1:], ""]
    return [f"{flag}=unfold" if word == flag and after not in CUSTOM_CONVS else word
            for word, after in zip(argv, following)]


def models_named(flags: Flags) -> set[str]:
    """The networks that --model, --use-vit and --use-resnet18 name."""
    named = {name for name, flag in (("vit", flags.use_vit), ("resnet18", flags.use_resnet18)) if flag}
    return named | ({flags.model} if flags.model else set())


# ------------------------------------------------------------------------------------------------ resume


def resuming(flags: Flags) -> bool:
    """Whether training continues the run of --resume; with --start-epoch it takes only the weights."""
    return flags.mode == "train" and flags.resume is not None and "start_epoch" not in flags.given


def restore_settings(flags: Flags, saved: dict | None) -> Flags:
    """Flags that were not typed: from the checkpoint `saved` of --resume, from the recipe, or their defaults."""
    changes: dict = {"model": flags.model or (name_of(saved) if saved else default_model_name())}
    settings = (saved.get("settings") or stock_settings(saved)) if saved else {}
    restored = set(RESTORED_ON_RESUME if resuming(flags) else ("use_custom_conv",)) & set(settings) - flags.given
    changes |= {name: settings[name] for name in restored}
    if resuming(flags) and "precision" in settings and "amp" not in flags.given:
        changes["amp"] = settings["precision"]  # settings["amp"] is the type that it came to
    if "use_custom_conv" in restored:
        changes["use_custom_conv"] = convolution_of(settings)
    if changes.get("recipe", flags.recipe) == "fast":
        changes |= {name: value for name, value in FAST.items() if name not in flags.given | restored}
    if changes["model"] != "vit" and "clip_grad" not in flags.given | restored:
        changes["clip_grad"] = None
    return replace(flags, **changes)


def stock_settings(saved: dict) -> dict:
    """Settings that a checkpoint of the stock scaffold reveals: those in its optimizer state."""
    groups = (saved.get("optimizer") or {}).get("param_groups") or [{}]
    names = {"initial_lr": "lr", "momentum": "momentum", "weight_decay": "weight_decay"}
    return {ours: groups[0][theirs] for theirs, ours in names.items() if theirs in groups[0]}


# --------------------------------------------------------------------------------------------- conflicts


def conflict(flags: Flags, restored: bool = False) -> str | None:
    """A sentence about flags that exclude each other, or None. `restored`: after `restore_settings`."""
    named = models_named(flags)
    if len(named) > 1:
        return f"--model, --use-vit and --use-resnet18 exclude each other; these name {' and '.join(sorted(named))}"
    model = next(iter(named), None)
    return (_model_conflict(flags, model) or _mode_conflict(flags, restored) or _training_conflict(flags, model))


def _model_conflict(flags: Flags, model: str | None) -> str | None:
    if model not in (None, *MODEL_NAMES):
        return f"--model {model}: there is no such model; take one of {', '.join(MODEL_NAMES)}"
    if flags.use_custom_conv and model in ("vit", "resnet18"):
        return f"--use-custom-conv does not go with {model}, which is not built from the student's layers"
    if flags.weights and model != "resnet18":
        return "--weights goes with --model resnet18; to start from a checkpoint take --resume"
    if flags.weights and flags.resume:
        return "--weights and --resume exclude each other: a checkpoint holds all weights"
    if flags.use_mps and flags.gpu is not None:
        return "--use-mps and --gpu exclude each other"
    return None


def _mode_conflict(flags: Flags, restored: bool) -> str | None:
    not_training = flags.evaluate or flags.attack
    if flags.evaluate and flags.attack:
        return "-e and -a exclude each other: -a evaluates the clean images as well"
    if not_training and not flags.resume:
        return f"{'-e' if flags.evaluate else '-a'} needs --resume PATH, the checkpoint of the model"
    if flags.vis and not not_training:
        return "-v goes with -e or -a"
    if flags.view and not flags.evaluate:
        return "--view goes with -e"
    if not_training and (stray := flags.given & {"adversarial", "recipe"}):
        return f"--{min(stray)} is for training"
    if not_training and flags.cache == "gpu":
        return "--cache gpu is for training"
    stray = sorted(flags.given & {"num_steps", "step_size"})
    if (stray or flags.self_check) and not flags.attack:
        return f"--{stray[0].replace('_', '-') if stray else 'self-check'} goes with -a"
    may_be_adversarial = flags.attack or flags.adversarial or (flags.resume and not restored)
    return "--epsilon goes with -a or --adversarial" if "epsilon" in flags.given and not may_be_adversarial else None


def _training_conflict(flags: Flags, model: str | None) -> str | None:
    if flags.adversarial and model == "adv-simplenet":
        return "--adversarial does not go with adv-simplenet, which attacks its images by itself"
    if "momentum" in flags.given and (model == "vit" or flags.recipe == "fast"):
        return f"--momentum is SGD's; {'the ViT trains with AdamW' if model == 'vit' else '--recipe fast with Muon'}"
    if flags.resume not in (None, "auto") and "warmup" in flags.given and "start_epoch" not in flags.given:
        return "--warmup belongs to the start of a run, and a resumed one keeps its own; see --start-epoch"
    if flags.start_epoch >= flags.epochs:
        return f"--start-epoch {flags.start_epoch} leaves none of --epochs {flags.epochs}"
    return None
