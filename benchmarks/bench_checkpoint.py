"""What a checkpoint inside an epoch costs: seconds to write one, and its share of the minute between two.

    python benchmarks/bench_checkpoint.py [--folder DIR] [--json FILE]

Each network is saved as main.py saves it after 60 epochs of MiniPlaces: weights, momenta, position, random states, and
every TensorBoard scalar so far. The disk is that of --folder, and each file is complete on it before the clock stops.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import measure
import torch

from libs import checkpoint, networks
from libs.hardware import Hardware
from libs.progress import Progress
from libs.training_state import TrainingState, WarmupCosine, position_of

NETWORKS = "simplenet", "customnet", "vit", "resnet18"
EPOCHS, STEPS = 60, 390  # of MiniPlaces at 256 images a step


def content(name: str) -> dict:
    """A checkpoint in the middle of the last epoch."""
    model = networks.build(name, 100, (128, 128))
    optimizer = (torch.optim.AdamW if name == "vit" else torch.optim.SGD)(
        model.parameters(), 0.1, **({} if name == "vit" else {"momentum": 0.9}))
    sum(p.sum() for p in model.parameters()).backward()
    state = TrainingState(optimizer, WarmupCosine(EPOCHS, 5, STEPS), torch.amp.GradScaler("cpu", enabled=False))
    state.epoch = EPOCHS - 1
    state.start(STEPS)
    optimizer.step()
    progress = Progress("", range(STEPS), show=False)
    progress.started = time.perf_counter()
    progress.update(256, loss=torch.tensor(2.0), top1=torch.tensor(40.0), top5=torch.tensor(70.0))
    state.position = position_of(progress, Hardware(torch.device("cpu")))
    steps = range(10, EPOCHS * STEPS, 10)
    curve = [(step, 1 / step, time.time()) for step in steps]
    scalars = {"data/training_loss": curve, "data/learning_rate": list(curve)}
    return {**state.to_checkpoint(name, model, {}), "scalars": scalars}


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    rows = {}
    for name in NETWORKS:
        state = content(name)
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            save = partial(checkpoint.save, folder, state, is_best=False)
            seconds = measure.interleaved({name: save}, args.rounds)[name]
            size = (Path(folder) / checkpoint.LAST).stat().st_size / 1e6
        rows[name] = {"megabytes": size, "seconds": seconds, "percent_of_a_minute": 100 * median(seconds) / 60}
        print(f"{name:10}{size:7.1f} MB {measure.spread(seconds)} ms, "
              f"{rows[name]['percent_of_a_minute']:.2f} % of a minute")
    measure.save(args, rows)


if __name__ == "__main__":
    main()
