"""Train, evaluate and attack an image classifier: python main.py DIR [flags]. See --help, and the README."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from libs import checkpoint, hardware, plots
from libs.arguments import RESTORED_ON_RESUME, parse_args, resuming
from libs.engine import Training, fit
from libs.evaluation import attack_model, evaluate_model
from libs.run import Run, introduce, resolve
from utils import BadInput


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    hardware.keep_memory()
    with exit_with_sentence(2):
        device = hardware.pick_device(args.gpu, args.use_mps)
    with hardware.processes(device) as (rank, world):
        with exit_with_sentence(2):
            run = resolve(args, device, rank, world)
        introduce(run)
        try:
            with exit_with_sentence(1):
                {"train": train, "evaluate": evaluate_model, "attack": attack_model}[args.mode](run)
        finally:
            run.folder.close()


@contextmanager
def exit_with_sentence(code: int) -> Iterator[None]:
    """Exit with `code` and a sentence for bad input, and for a hole in student_code. Other errors are bugs."""
    try:
        yield
    except BadInput as error:
        print(f"main.py: error: {strip_worker_traceback(error)}", file=sys.stderr)
        sys.exit(code)
    except NotImplementedError as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        if Path(place.filename).stem != "student_code":
            raise
        sys.exit(f"main.py: error: {place.filename}:{place.lineno}: {place.name} is not written yet: {error}")


def strip_worker_traceback(error: BadInput) -> str:
    """The message alone: a DataLoader worker puts its traceback in front of it."""
    return str(error).rpartition(f"{BadInput.__name__}: ")[2].strip()


# ---------------------------------------------------------------------------------------------- training


def train(run: Run) -> None:
    """Train to --epochs, and report. Ctrl-C ends with exit code 130 and the command that continues the run."""
    args, folder, state = run.args, run.folder, run.state
    folder.json("settings", {key: str(value) for key, value in vars(args).items()})
    if resuming(args) and folder.active and (best := Path(args.resume).parent / checkpoint.BEST).exists():
        checkpoint.copy(best, folder.models / checkpoint.BEST)  # it may remain the best
    training = Training(run.model, run.loaders, state, run.hardware, folder, lambda is_best: save(run, is_best),
                        seed=args.seed, clip_grad=args.clip_grad, print_freq=args.print_freq, adversary=run.adversary,
                        before_epoch=run.resizing)
    try:
        summary = fit(training, args.epochs)
    except KeyboardInterrupt:
        if folder.active:
            last = folder.models / checkpoint.LAST
            command = f"to continue: python main.py {args.data} --resume {last}"
            print(f"\nstopped; {state.epoch} of {args.epochs} epochs are done; "
                  f"{command if last.exists() else 'nothing is saved yet'}")
        sys.exit(130)
    report(run, summary)


def save(run: Run, is_best: bool) -> None:
    """Write the checkpoint of the epoch just finished."""
    if run.hardware.is_main:
        settings = {**{name: getattr(run.args, name) for name in RESTORED_ON_RESUME},
                    "amp": run.hardware.precision.training, "device": run.hardware.device.type,
                    "loader": type(run.loaders["train"]).__name__}
        content = {**run.state.to_checkpoint(run.args.model, run.model, settings), "classes": run.class_names}
        if run.adversary is not None:
            content["adversary"] = run.adversary.state_dict()
        checkpoint.save(run.folder.models, content, is_best)


def report(run: Run, summary: dict) -> None:
    """Save curves, confusion matrix, per-class accuracy and results.json; print where they are."""
    folder, state = run.folder, run.state
    folder.json("results", {"mode": "train", "model": run.args.model, "best_top1": state.best_acc1,
                            "history": state.history, "classes": run.class_names, "last": summary})
    folder.figure("curves", plots.curves(state.history, f"{run.args.model} on {Path(run.args.data).name}"))
    folder.class_report(summary, run.class_names)
    if folder.active:
        run.say(f"best top-1 {state.best_acc1:.2f} %: {folder.models / checkpoint.BEST}\n"
                f"curves: {folder.path / 'curves.png'}\nTensorBoard: tensorboard --logdir {folder.path}")


if __name__ == "__main__":
    main()
