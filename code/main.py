"""Train, evaluate and attack an image classifier: python main.py DIR [flags]. See --help, and the README."""

import shlex
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from libs import checkpoint, faults, hardware, plots
from libs.arguments import RESTORED_ON_RESUME, parse_args, resuming
from libs.engine import Stopped, Training, fit
from libs.evaluation import attack_model, evaluate_model
from libs.interruption import Requests
from libs.processes import started
from libs.run import Run, introduce, resolve
from utils import BadInput


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    hardware.keep_memory()
    with exit_with_sentence(2):
        device = hardware.pick_device(args.gpu, args.use_mps)
    with started(device) as (rank, world):
        with exit_with_sentence(2):
            run = resolve(args, device, rank, world)
        introduce(run)
        with exit_with_sentence(1), run.folder, faults.in_sentences(run.args.batch_size, world):
            {"train": train, "evaluate": evaluate_model, "attack": attack_model}[args.mode](run)


@contextmanager
def exit_with_sentence(code: int) -> Iterator[None]:
    """Exit with `code` and a sentence for bad input and for a hole in student_code, with 130 after Ctrl-C."""
    try:
        yield
    except BadInput as error:
        print(f"main.py: error: {strip_worker_traceback(error)}", file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(130)
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
    """Train to --epochs, and report. Ends early with exit code 130 (Ctrl-C) or 143 (SIGTERM), and says how to go on."""
    args, folder = run.args, run.folder
    folder.json("settings", {key: str(value) for key, value in vars(args).items()})
    continued_at = take_over(run) if resuming(args) else 0.0
    with Requests(args.checkpoint_minutes, run.hardware) as requests:

        def save(is_best: bool) -> None:
            if run.hardware.is_main:
                folder.save(content_of(run), is_best, newer_than=continued_at)
            run.say_left_out()
            requests.saved()

        training = Training(run.model, run.loaders, run.state, run.hardware, folder, save, seed=args.seed,
                            clip_grad=args.clip_grad, print_freq=args.print_freq, adversary=run.adversary,
                            before_epoch=run.resizing, request=requests)
        try:
            with faults.in_sentences(args.batch_size, run.hardware.world):
                summary = fit(training, args.epochs)
        except BadInput as error:
            raise BadInput(f"{strip_worker_traceback(error)}\n{how_to_continue(run)}") from None
        except (Stopped, KeyboardInterrupt) as stop:
            run.say(f"\nstopped; {run.state.epoch} of {args.epochs} epochs are done; {how_to_continue(run)}")
            sys.exit(128 + (stop.args or [signal.SIGINT])[0])
    report(run, summary)


def take_over(run: Run) -> float:
    """Give the new run folder what the run that it continues has: the best model, which may remain so, and curves.

    Returns when the checkpoint was written, in seconds.
    """
    source = Path(run.args.resume)
    if run.folder.active:
        run.folder.replay(run.saved.get("scalars", {}))
        if (best := source.with_name(checkpoint.BEST)).exists():
            checkpoint.copy(best, run.folder.models / checkpoint.BEST)
    return source.stat().st_mtime


def how_to_continue(run: Run) -> str:
    """The command that goes on from the last good checkpoint, with the flags that are not restored from there."""
    if not run.hardware.is_main:
        return ""
    args, last = run.args, run.folder.models / checkpoint.LAST
    good = last if last.exists() else args.resume if resuming(args) else None
    if good is None:
        return "nothing is saved yet"
    start = f"torchrun --nproc-per-node {run.hardware.world} -- main.py" if run.hardware.world > 1 else "python main.py"
    words = [str(args.data), "--resume", str(good)]
    for name in sorted(args.given & {"gpu", "workers", "logs", "checkpoint_minutes"}):
        words += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return f"to continue: {start} {shlex.join(words)}" + (" --use-mps" if args.use_mps else "")


def content_of(run: Run) -> dict:
    """The checkpoint of the present state."""
    settings = {**{name: getattr(run.args, name) for name in RESTORED_ON_RESUME},
                "precision": run.args.amp, "amp": run.hardware.precision.training, "device": run.hardware.device.type,
                "loader": type(run.loaders["train"]).__name__}
    content = {**run.state.to_checkpoint(run.args.model, run.model, settings), "classes": run.class_names,
               "data": run.data_key, "scalars": run.folder.logged()}
    if run.adversary is not None:
        content["adversary"] = run.adversary.state_dict()
    return content


def report(run: Run, summary: dict) -> None:
    """Save curves, confusion matrix, per-class accuracy and results.json; print where they are."""
    folder, state = run.folder, run.state
    folder.json("results", {"mode": "train", "model": run.args.model, "best_top1": state.best_acc1,
                            "history": state.history, "classes": run.class_names, "last": summary,
                            "left_out": run.left_out()})
    folder.figure("curves", plots.curves(state.history, f"{run.args.model} on {Path(run.args.data).name}"))
    folder.class_report(summary, run.class_names)
    if folder.active:
        run.say(f"best top-1 {state.best_acc1:.2f} %: {folder.models / checkpoint.BEST}\n"
                f"curves: {folder.path / 'curves.png'}\nTensorBoard: tensorboard --logdir {folder.path}")


if __name__ == "__main__":
    main()
