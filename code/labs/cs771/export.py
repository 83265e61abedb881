"""Export the weights of a checkpoint in fp16, with class names and without optimizer state.

The file is a checkpoint like any other (`main.py DIR --resume FILE -e`, `python -m labs classify PHOTO --resume FILE`)
and is read with `weights_only=True`.
"""

import argparse
from pathlib import Path

import torch

from custom_dataloader import open_split
from labs import common
from libs import checkpoint, networks
from libs.provenance import provenance
from utils import writing


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("export", __doc__, resume="one")
    parser.add_argument("--file", type=Path, required=True, metavar="FILE", help="output file")
    return parser


def run(args: argparse.Namespace) -> None:
    saved = checkpoint.load(args.resume)
    _, class_names = open_split(args.data, "val")
    name, settings = networks.name_of(saved), saved.get("settings", {})
    content = {"epoch": saved["epoch"], "model_arch": name, "best_acc1": saved["best_acc1"], "classes": class_names,
               "settings": {key: settings[key] for key in ("use_custom_conv",) if key in settings},
               "state_dict": {key: value.half() if value.is_floating_point() else value
                              for key, value in saved["state_dict"].items()}, "made_by": provenance()}
    args.file.parent.mkdir(parents=True, exist_ok=True)
    with writing(args.file) as part:
        torch.save(content, part)
    parameters = sum(value.numel() for value in content["state_dict"].values())
    print(f"{args.file}: {name} after {saved['epoch']} epochs, {parameters:,} numbers, "
          f"{args.file.stat().st_size / 1e6:.2f} MB")
