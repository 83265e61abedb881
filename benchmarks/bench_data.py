"""Data loading, from a warm cache to an augmented batch, in images per second on one core, against stock.py.

    python benchmarks/bench_data.py [--data DIR] [--json FILE]

stock.py decodes JPEGs, transforms image by image, and collates; ours is a batch of libs/batch_transforms.py. `per
image` is custom_transforms on decoded images, the fallback for a student's own transforms. All in one thread.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import cv2
import measure
import numpy as np
import stock
import torch
from torch.utils.data import default_collate

from custom_dataloader import open_split
from demo import data as demo_data
from libs import hardware, networks
from libs.batch_transforms import BatchTransforms
from libs.decoded_cache import decode
from libs.loaders import CachedDataset


def compare(args: argparse.Namespace) -> dict:
    dataset, _ = open_split(args.data, "train", networks.student_transforms("train"))
    samples = [(dataset.path(i), dataset.targets[i]) for i in range(len(dataset))]
    plain, images = stock.StockDataset(samples), decode(dataset)
    transforms = BatchTransforms.of(dataset.transforms)
    draws = transforms.draw(0, images=len(images))
    cached = CachedDataset(dataset, images)
    order = {side: np.random.default_rng(0) for side in ("stock", "per image", "ours", "GPU")}

    def batch(side: str) -> np.ndarray:
        """New images each time, so that none is in the CPU's cache; the same ones for every side."""
        return order[side].permutation(len(images))[:args.batch]

    def ours() -> torch.Tensor:
        indices = batch("ours")
        return transforms.on_cpu([images[i] for i in indices], draws[indices])

    calls = {"stock": lambda: default_collate([plain[i] for i in batch("stock")]),
             "per image": lambda: default_collate([cached[i] for i in batch("per image")]), "ours": ours}
    if args.device == "cuda":
        resident = images.on(torch.device("cuda"))

        def on_gpu() -> torch.Tensor:
            indices = batch("GPU")
            return transforms.on_device(resident[torch.from_numpy(indices)], draws[indices])

        calls["ours on the GPU"] = on_gpu
    times = measure.interleaved(calls, max(args.rounds, 15), args.device)
    speedup = 1 / measure.ratio(times, "ours", "stock")
    print(f"images/s on one core, {max(args.rounds, 15)} batches of {args.batch}: median (range)")
    for name, seconds in times.items():
        print(f"  {name:18}{measure.spread([args.batch / s for s in seconds], 1):28}"
              f"{1 / measure.ratio(times, name, 'stock'):8.1f}x")
    return {"speedup": speedup, "images_per_second": {k: args.batch / median(v) for k, v in times.items()}}


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="MiniPlaces' layout (default: drawn scenes)")
    args = parser.parse_args()
    hardware.keep_memory()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            args.data = Path(folder)
            demo_data.make(args.data, 200, 100)
        measure.save(args, compare(args))


if __name__ == "__main__":
    main()
