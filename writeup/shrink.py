"""Make the photographs among results/**/*.png smaller: python writeup/shrink.py. 256 colours, dithered, same names.

For figures to be committed. One that is small already, or was shrunk before, is left alone.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image

LARGE = 300_000  # bytes


def shrink(path: Path) -> bool:
    """Whether it was large and got smaller."""
    with Image.open(path) as image:
        if path.stat().st_size < LARGE or image.mode == "P":
            return False
        rgb = image.convert("RGB")
    palette = rgb.quantize(256, method=Image.Quantize.MEDIANCUT)
    values = palette.getpalette()
    colours = [values[i : i + 3] for i in range(0, len(values), 3)]
    colours[colours.index(max(colours, key=sum))] = [255, 255, 255]  # paper stays white
    palette.putpalette([value for colour in colours for value in colour])
    small = rgb.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    is_paper = Image.fromarray((np.asarray(rgb) == 255).all(axis=2))  # Pillow's search for the nearest colour is rough
    small.paste(colours.index([255, 255, 255]), mask=is_paper)
    part = path.with_suffix(".part")
    small.save(part, "PNG", optimize=True)
    os.replace(part, path)
    return True


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent / "results",
                        metavar="DIR", help="folder with figures (default: results/)")
    args = parser.parse_args(argv)
    for path in sorted(args.folder.rglob("*.png")):
        before = path.stat().st_size
        if shrink(path):
            print(f"{path}: {before / 1e6:.2f} -> {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
