"""The whole homework in three minutes: draw the demo scenes, train, evaluate, attack and explain.

    python -m demo          from the folder code/; the same as `make demo`

Runs main.py and labs, printing each command.
"""

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from utils import IMAGENET_STD

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ("curves", "attack", "saliency")  # of main.py
LABS = {"cam": ("cam",), "features": ("features", "filters"), "classes": ("classes_examples", "classes_confusion"),
        "sweep": ("sweep_curves",)}  # lab -> its main figures


def run(*command: str) -> None:
    """Run `python COMMAND` in code/, printing it. Exits with its code if it fails."""
    print(f"\n$ python {' '.join(command)}", flush=True)
    code = subprocess.run([sys.executable, *command], cwd=ROOT / "code").returncode
    if code:
        sys.exit(code)


def drive(logs: Path, *flags: str) -> Path:
    """Run main.py. Returns its run folder."""
    before = set(logs.glob("exp_*"))
    run("main.py", *flags, "--logs", str(logs))
    return (set(logs.glob("exp_*")) - before).pop()


def lab(name: str, args: argparse.Namespace, best: Path, *flags: str) -> None:
    """Run a lab on the best checkpoint, in this process to save start-up time."""
    words = name, str(args.data), "--resume", str(best), "--out", str(args.out), *flags
    print(f"\n$ python -m labs {' '.join(words)}", flush=True)
    importlib.import_module("labs.__main__").main(words)


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "data/demo", metavar="DIR",
                        help="folder of the scenes (default: data/demo)")
    parser.add_argument("--out", type=Path, default=ROOT / "results/demo", metavar="DIR",
                        help="folder of the figures (default: results/demo)")
    parser.add_argument("--logs", type=Path, default=ROOT / "logs/demo", metavar="DIR",
                        help="parent of the run folders (default: logs/demo)")
    parser.add_argument("--train", default="2000", metavar="N", help="training images (default: 2000)")
    parser.add_argument("--val", default="400", metavar="N", help="validation images (default: 400)")
    parser.add_argument("--sweep", default="60", metavar="N", help="images of the attack sweep (default: 60)")
    parser.add_argument("--epochs", default="8", metavar="N", help="epochs (default: 8)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_args_parser().parse_args(argv)
    started = time.perf_counter()
    run("-m", "demo.data", str(args.data), "--train", args.train, "--val", args.val)
    trained = drive(args.logs, str(args.data), "--epochs", args.epochs, "--warmup", "1", "--batch-size", "25",
                    "--lr", "0.02")
    best = trained / "models" / "model_best.pth.tar"
    evaluated = drive(args.logs, str(args.data), "--resume", str(best), "-e", "-v")
    attacked = drive(args.logs, str(args.data), "--resume", str(best), "-a", "-v", "--epsilon", "0.3", "--step-size",
                     "0.05")

    args.out.mkdir(parents=True, exist_ok=True)
    for folder in (trained, attacked, evaluated):
        for name in PICTURES:
            if (folder / f"{name}.png").exists():
                shutil.copy(folder / f"{name}.png", args.out)
    for name in LABS if (ROOT / "code/labs").is_dir() else ():  # not in the starter
        lab(name, args, best, *(("--quick", "--images", args.sweep) if name == "sweep" else ()))
    summarize(args, time.perf_counter() - started, results(evaluated), results(attacked))


def summarize(args: argparse.Namespace, seconds: float, evaluated: dict, attacked: dict) -> None:
    """Print the accuracies, the pictures, and the TensorBoard command."""
    chance = 100 / len(evaluated["classes"])
    print(f"\nDone in {seconds:.0f} s: SimpleNet, {args.epochs} epochs on drawn (synthetic) scenes, "
          f"{args.val} validation images. Guessing would get {chance:.0f} %.")
    print(f"  clean images                              top-1 {evaluated['alone']['top1']:6.2f} %")
    print(f"  with horizontal flip averaged             top-1 "
          f"{evaluated['averaged_with_mirror_image']['top1']:6.2f} %")
    attack = attacked["attack"]
    levels = attack["epsilon"] * 255 * max(IMAGENET_STD)
    print(f"  attacked: {attack['num_steps']} steps, {levels:.0f} of 255 levels     top-1 "
          f"{attacked['adversarial']['top1']:6.2f} %")
    names = *PICTURES, *(name for pictures in LABS.values() for name in pictures)
    print("Pictures:", *(f"  {args.out / name}.png" for name in names if (args.out / f"{name}.png").exists()), sep="\n")
    print(f"Curves and images in a browser:\n  tensorboard --logdir {args.logs}")


if __name__ == "__main__":
    main()
