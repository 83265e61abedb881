"""The Gradescope bundle: setup.sh and run_autograder at the root of the zip, the grader, pinned requirements."""

import json
import os
import platform
import shutil
import tempfile
import zipfile
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from autograder.grade import new_seed
from autograder.solution import ROOT, write_starter_files

# What the grader and student_code.py import, pinned to the versions installed where the bundle is built.
PINNED_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
# Test solutions and documentation.
EXCLUDED = {"selftest.py", "variants", "mutation", "STARTER.md", "__pycache__", "README.md"}

VISIBILITIES = ("visible", "hidden", "after_due_date", "after_published")

SETUP_SH = """#!/usr/bin/env bash
# Run once, when Gradescope builds the image. Not below /root, which other users cannot read.
set -euo pipefail
source="${{AUTOGRADER:-/autograder}}/source"
venv="${{GRADER_VENV:-/opt/grader}}"
apt-get update
apt-get install -y --no-install-recommends python3 python3-venv
python3 -m venv "$venv"
# First PyTorch's wheels for CPUs: the default ones bring CUDA, most of the image, and there is no GPU.
"$venv/bin/pip" install --no-cache-dir --index-url {cpu_wheels} {torch} ||
  echo "{cpu_wheels} cannot be reached or lacks these versions: installing the default wheels, with CUDA" >&2
"$venv/bin/pip" install --no-cache-dir -r "$source/requirements.txt" || {{
  echo "The pinned versions come from Python {python}; this image has $(python3 --version): choose a newer image" >&2
  exit 1
}}
"$venv/bin/python" -c "import cv2, numpy, torch, torchvision"
"""
RUN_AUTOGRADER = """#!/usr/bin/env bash
# Run for each submission. grade writes a result before it starts: a timeout would show nothing otherwise.
base="${{AUTOGRADER:-/autograder}}"
mkdir -p "$base/results"
cd "$base/source" || exit 1
"${{GRADER_VENV:-/opt/grader}}/bin/python" -B -m autograder grade "$base/submission" --handed-in \\
  --seed {seed} --year {year} --visibility {visibility} --metadata "$base/submission_metadata.json" \\
  --json "$base/results/results.json"
code=$?
if [ ! -s "$base/results/results.json" ]; then
  echo '{{"score": 0, "output": "The grader did not start; please tell the staff."}}' > "$base/results/results.json"
fi
[ "$code" -eq 2 ] && exit 0  # results.json says why it could not be graded
exit "$code"
"""


def build(args) -> int:
    """Write the bundle `args.out`. Its seed is fixed, so that a submission gets the same test cases each time."""
    seed = new_seed() if args.seed is None else args.seed
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".bundle-") as folder:
        tree = Path(folder) / "tree"
        write_starter_files(tree / "code", args.year)
        shutil.copytree(ROOT / "autograder", tree / "autograder", ignore=lambda _, names: EXCLUDED & set(names))
        shutil.copy(ROOT / "zip_submission.py", tree)
        pins = [f"{name}=={version(name).split('+')[0]}" for name in PINNED_PACKAGES]
        (tree / "requirements.txt").write_text("\n".join(pins) + "\n")
        (tree / "setup.sh").write_text(SETUP_SH.format(python=platform.python_version(), cpu_wheels=CPU_WHEELS,
                                                       torch=" ".join(pins[:2])))
        (tree / "run_autograder").write_text(RUN_AUTOGRADER.format(seed=seed, year=args.year,
                                                                   visibility=args.visibility))
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


def late_note(metadata: Path) -> str:
    """A sentence if the submission was late, by Gradescope's submission_metadata.json and the student's extension.

    No points are taken off: Gradescope, or staff, do that.
    """
    try:
        facts = json.loads(metadata.read_text(encoding="utf-8"))
        dates = [(user.get("assignment") or {}).get("due_date") for user in facts.get("users") or []]
        due = max(map(moment, filter(None, dates)), default=None) or moment(facts["assignment"]["due_date"])
        late = moment(facts["created_at"]) - due if due else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"Whether it was in time is not known: {metadata.name} cannot be read ({type(error).__name__})."
    if late is None or late.total_seconds() <= 0:
        return ""
    hours, minutes = divmod(int(late.total_seconds()) // 60, 60)
    return f"Late by {hours // 24} d {hours % 24} h {minutes} min (due {due:%Y-%m-%d %H:%M %z})."


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
