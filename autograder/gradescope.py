"""The Gradescope bundle: setup.sh and run_autograder at the root of the zip, the grader, pinned requirements."""

import os
import platform
import shutil
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from autograder.grade import new_seed
from autograder.solution import ROOT, write_starter_files

# What the grader and student_code.py import, pinned to the versions installed where the bundle is built.
PINNED_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless")
EXCLUDED = {"selftest.py", "variants", "STARTER.md", "__pycache__", "README.md"}  # test solutions and documentation

SETUP_SH = """#!/usr/bin/env bash
# Run once, when Gradescope builds the image. Not below /root, which other users cannot read.
set -euo pipefail
apt-get update
apt-get install -y --no-install-recommends python3 python3-venv
python3 -m venv /opt/grader
/opt/grader/bin/pip install --no-cache-dir -r /autograder/source/requirements.txt || {{
  echo "The pinned versions come from Python {python}; this image has $(python3 --version): choose a newer image" >&2
  exit 1
}}
"""
RUN_AUTOGRADER = """#!/usr/bin/env bash
# Run for each submission. grade writes a result before it starts: a timeout would show nothing otherwise.
base="${{AUTOGRADER:-/autograder}}"
mkdir -p "$base/results"
cd "$base/source" || exit 1
"${{GRADER_PYTHON:-/opt/grader/bin/python}}" -B -m autograder grade "$base/submission" --handed-in \\
  --seed {seed} --year {year} --json "$base/results/results.json"
code=$?
if [ ! -s "$base/results/results.json" ]; then
  echo '{{"score": 0, "output": "The grader did not start; please tell the staff."}}' > "$base/results/results.json"
fi
[ "$code" -eq 2 ] && exit 0  # results.json says why it could not be graded
exit "$code"
"""


def build(args) -> int:
    """Write the bundle `args.out`. Its seed is fixed, so that all submissions get the same test cases."""
    seed = new_seed() if args.seed is None else args.seed
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".bundle-") as folder:
        tree = Path(folder) / "tree"
        write_starter_files(tree / "code", with_blocks=args.year <= 2023)
        shutil.copytree(ROOT / "autograder", tree / "autograder", ignore=lambda _, names: EXCLUDED & set(names))
        shutil.copy(ROOT / "zip_submission.py", tree)
        pins = [f"{name}=={version(name).split('+')[0]}" for name in PINNED_PACKAGES]
        (tree / "requirements.txt").write_text("\n".join(pins) + "\n")
        (tree / "setup.sh").write_text(SETUP_SH.format(python=platform.python_version()))
        (tree / "run_autograder").write_text(RUN_AUTOGRADER.format(seed=seed, year=args.year))
        for name in ("setup.sh", "run_autograder"):
            (tree / name).chmod(0o755)
        packed = Path(folder) / "bundle.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(tree.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(tree))
        os.replace(packed, args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e3:.0f} kB, seed {seed}; pinned: {', '.join(pins)}")
    return 0
