"""Shared by the labs: flags, running a lab, and tables that are printed and saved with their provenance."""

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from matplotlib.figure import Figure

from extras.attacks import OBJECTIVES, Threat, strong
from libs import hardware, plots
from libs.arguments import number
from libs.provenance import provenance, write_json
from utils import ASSIGNMENT_ATTACK, BadInput, writing

ROOT = Path(__file__).resolve().parents[2]
COUNT = number(int, 1)  # argparse type

# ------------------------------------------------------------------------------------------------- flags


def parser(name: str, doc: str, data: bool = True, resume: str | None = None,
           trains: dict | None = None) -> argparse.ArgumentParser:
    """The flags that labs share.

    `resume`: the lab evaluates "one" checkpoint or "several". `trains`: it trains, with these defaults of the training
    flags.
    """
    made = argparse.ArgumentParser(prog=f"python -m labs {name}", description=doc.split("\n\n")[0], allow_abbrev=False)
    add = made.add_argument
    if data:
        add("data", metavar="DIR", help="data, as for main.py")
    if data and resume:
        add("--images", type=COUNT, metavar="N", help="number of validation images, evenly spaced (default: all)")
        add("-b", "--batch-size", type=COUNT, default=100, metavar="N", help="images per batch (default: 100)")
    if resume == "one":
        add("--resume", required=True, metavar="PATH", help="checkpoint of the network")
    elif resume == "several":
        add("--resume", required=True, nargs="+", metavar="PATH", help="checkpoints of the networks")
        add("--names", nargs="+", metavar="NAME", help="their names in the table (default: their models)")
    if trains is not None:
        add("--epochs", type=COUNT, metavar="N", help="epochs of each training (default: %(default)s)")
        add("--lr", type=number(float, 0, above=True), metavar="LR", help="peak learning rate (default: %(default)s)")
        add("--train-batch", type=COUNT, default=64, metavar="N", help="images per iteration (default: %(default)s)")
        add("--seed", type=number(int, 0, 2**63), default=0, metavar="N", help="seed of all trainings (default: 0)")
        add("--logs", type=Path, default=ROOT / "logs/labs", metavar="DIR",
            help="parent of the run folders (default: logs/labs)")
        made.set_defaults(**trains)
    add("--out", type=Path, default=ROOT / "results/labs" / name, metavar="DIR",
        help=f"folder for the table and the figures (default: results/labs/{name})")
    add("--gpu", type=int, metavar="N", help="CUDA device, -1 for the CPU (default: the best device)")
    return made


def add_reference(made: argparse._ActionsContainer) -> None:
    made.add_argument("--reference", action="store_true", help="use the attack of extras/attacks.py instead of "
                      "default_attack of student_code.py, which does not support all settings")


def add_threat(made: argparse.ArgumentParser) -> None:
    """Flags of the attack; the defaults are the assignment's."""
    steps, step_size, epsilon = (ASSIGNMENT_ATTACK[name] for name in ("num_steps", "step_size", "epsilon"))
    group = made.add_argument_group("attack (defaults: the assignment's)")
    group.add_argument("--epsilon", type=float, default=epsilon, metavar="E", help="L-inf bound, in normalised units: "
                       "0.1 is about 6 of 255 levels (default: %(default)s)")
    group.add_argument("--steps", type=COUNT, default=steps, metavar="N", help="steps (default: %(default)s)")
    group.add_argument("--step-size", type=float, default=step_size, metavar="S", help="in normalised units; 0 "
                       "means 2.5 * epsilon / steps (default: %(default)s)")
    group.add_argument("--objective", default="least-likely", choices=OBJECTIVES[:3],
                       help="towards the least likely label, or away from the most likely or true one (default: "
                       "least-likely)")
    group.add_argument("--once", action="store_true", help="choose that label once, on the clean image, instead of "
                       "at each step")
    group.add_argument("--strong", action="store_true", help="instead: untargeted APGD on the margin loss, 50 steps, "
                       "two restarts")
    add_reference(group)


def threat_of(args: argparse.Namespace) -> Threat:
    """The threat model that the flags describe. Raises BadInput."""
    try:
        if args.strong:
            return strong(args.epsilon)
        return Threat(args.epsilon, args.objective, steps=args.steps, step_size=args.step_size or None,
                      relabel=not args.once)
    except ValueError as error:
        raise BadInput(str(error)) from None


def run(name: str, lab: ModuleType, argv: Sequence[str]) -> None:
    """Parse the flags of a lab and run it; bad input ends in a message and exit code 2."""
    made = lab.get_args_parser()
    args = made.parse_args(argv)
    args.started = time.perf_counter()
    if getattr(args, "quick", False):  # must not overwrite results and checkpoints of full runs
        for flag in {"out", "logs"} & vars(args).keys():
            if getattr(args, flag) == made.get_default(flag):
                setattr(args, flag, getattr(args, flag) / "quick")
    try:
        if "out" in args:
            create_folder(args.out)
        if not getattr(lab, "MEASURES_MEMORY", False):
            hardware.keep_memory()
        args.device = hardware.pick_device(args.gpu)
        lab.run(args)
    except BadInput as error:
        made.exit(2, f"labs {name}: error: {error}\n")


def create_folder(folder: Path) -> None:
    """Raises BadInput, before hours of work, if it cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {folder}: {error.strerror}; name a folder that can be written to") from None


def run_main(args: argparse.Namespace, *flags: str) -> Path:
    """Train with main.py in a subprocess, with the lab's flags and these. Returns the run folder."""
    before, gpu = set(args.logs.glob("exp_*")), () if args.gpu is None else ("--gpu", str(args.gpu))
    command = ["main.py", args.data, "--epochs", str(args.epochs), "--lr", str(args.lr), "-b", str(args.train_batch),
               "--seed", str(args.seed), *gpu, *flags, "--logs", str(args.logs)]
    print(f"\n$ python {' '.join(command)}", flush=True)
    code = subprocess.run([sys.executable, str(ROOT / "code/main.py"), *command[1:]]).returncode
    if code:
        raise BadInput(f"main.py ended with exit code {code}; see its message above")
    return (set(args.logs.glob("exp_*")) - before).pop()


# ----------------------------------------------------------------------------------------------- results


def publish(args: argparse.Namespace, name: str, rows: Sequence[dict], figures: dict[str, Figure], **facts) -> None:
    """Print `rows` as a table; write OUT/NAME.csv, OUT/NAME.json (with `facts` and provenance) and OUT/FIGURE.png."""
    print(table(rows))
    with writing(args.out / f"{name}.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: rounded(value) for key, value in row.items()} for row in rows)
    made_by = {**provenance(), "seconds": time.perf_counter() - args.started}
    write_json(args.out / f"{name}.json", {"rows": rows, **facts, "made_by": made_by})
    for title, figure in figures.items():
        plots.save(figure, args.out / f"{title}.png")
    files = f"{name}.csv", f"{name}.json", *(f"{title}.png" for title in figures)
    print("written:", ", ".join(str(args.out / file) for file in files))


def rounded(value):
    return round(value, 4) if isinstance(value, float) else "" if value is None else value


def table(rows: Sequence[dict]) -> str:
    """Rows as aligned text columns; numbers right-aligned, floats with two decimals."""
    cells = [[*rows[0]], *([f"{v:,.2f}" if isinstance(v, float) else "-" if v is None else
                            f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()] for row in rows)]
    numeric = [all(isinstance(row[key], (int, float, type(None))) for row in rows) for key in rows[0]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in
                               zip(line, widths, numeric)).rstrip() for line in cells)
