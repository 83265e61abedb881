"""SimpleNet with own convolutions, forward and backward: time and peak memory against nn.Conv2d.

    python benchmarks/bench_conv.py [--json FILE]

`unfold` is the assignment's CustomConv2d, `flat` that of flat_conv.py. nn.Conv2d runs in the default memory format, and
in channels last, which is faster (`best`). Batch 64, 128 px, cross-entropy, gradients of all parameters. Times are with
main.py's allocator settings for all of them; peak memory is with the default allocator and, as `kept`, with those
settings, which keep freed memory.
"""

import argparse
import sys
from collections.abc import Callable

import measure
import torch
from torch import nn

from extras.flat_conv import FlatConv2d
from libs import hardware
from student_code import CustomConv2d, SimpleNet

CONVS = {"default": (nn.Conv2d, torch.contiguous_format), "best": (nn.Conv2d, torch.channels_last),
         "unfold": (CustomConv2d, torch.contiguous_format), "flat": (FlatConv2d, torch.channels_last)}
TYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_step(conv: str, number_type: str, device: str, batch: int) -> Callable[[], None]:
    """A function that runs one forward and backward pass."""
    conv_op, layout = CONVS[conv]
    torch.manual_seed(0)
    model = SimpleNet(conv_op).to(device, memory_format=layout)
    images = torch.randn(batch, 3, 128, 128).to(device, memory_format=layout)
    labels = torch.randint(0, 100, (batch,), device=device)
    dtype = TYPES[number_type]

    def step() -> None:
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(model(images), labels)
        model.zero_grad(set_to_none=True)
        loss.backward()

    return step


def compare(number_type: str, args: argparse.Namespace) -> dict:
    """Time and memory of each convolution, and their ratios to nn.Conv2d's."""
    calls = {conv: training_step(conv, number_type, args.device, args.batch) for conv in CONVS}
    times = measure.interleaved(calls, args.rounds, args.device)
    del calls
    memory, kept = ({conv: measure.peak_memory(["--memory", conv, number_type, allocator, "--device", args.device,
                                                "--batch", str(args.batch)]) for conv in CONVS}
                    for allocator in ("given-back", "kept"))
    print(f"\n{number_type:8} ms per step: median (range)   time/default   time/best   peak MB   /default   /best"
          "   kept: MB   /default")
    ratios = {}
    for conv in CONVS:
        ratios[conv] = {"time_ratio": measure.ratio(times, conv, "default"),
                        "best_ratio": measure.ratio(times, conv, "best"),
                        "memory_ratio": memory[conv] / memory["default"],
                        "memory_best_ratio": memory[conv] / memory["best"],
                        "memory_kept_ratio": kept[conv] / kept["default"],
                        "seconds": times[conv], "memory_mb": memory[conv], "memory_kept_mb": kept[conv]}
        found = ratios[conv]
        print(f"{conv:8}{measure.spread(times[conv]):28}{found['time_ratio']:13.2f}{found['best_ratio']:12.2f}"
              f"{memory[conv]:10.0f}{found['memory_ratio']:11.2f}{found['memory_best_ratio']:8.2f}"
              f"{kept[conv]:11.0f}{found['memory_kept_ratio']:11.2f}")
    return ratios


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--memory", nargs=3, metavar=("CONV", "TYPE", "ALLOCATOR"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        conv, number_type, allocator = args.memory
        if allocator == "kept":
            hardware.keep_memory()
        measure.print_peak_memory(lambda: training_step(conv, number_type, args.device, args.batch), args.device)
        sys.exit()
    hardware.keep_memory()
    types = ["fp32", "bf16"] if args.device == "cpu" else list(TYPES)
    found = {number_type: compare(number_type, args) for number_type in types}
    figures = {conv: {number_type: found[number_type][conv] for number_type in types} for conv in CONVS}
    measure.save(args, figures)


if __name__ == "__main__":
    main()
