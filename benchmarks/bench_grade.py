"""Time and memory of the autograder: one submission, and a class of them."""

import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import measure

ROOT = Path(__file__).resolve().parent.parent
# Appended to the reference solution: correct, wrong, incomplete, failing on import.
ENDINGS = ["", "\nAttention.forward = lambda self, x: x\n", "\ndel PGDAttack\n", "\nraise NotImplementedError('all')\n"]


def hand_ins(folder: Path, count: int) -> None:
    """Write `count` zips of the reference solution, cycling through ENDINGS."""
    source = (ROOT / "code/student_code.py").read_text()
    for n in range(count):
        with zipfile.ZipFile(folder / f"{n:03}.zip", "w") as archive:
            archive.writestr("code/student_code.py", source + ENDINGS[n % len(ENDINGS)])


# Run by a small process: a child's ru_maxrss includes what its parent had when it forked.
MEASURE = ("import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
           "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)")


def autograder(*words: str) -> tuple[float, float]:
    """Seconds of a command, and peak MB of its largest process."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE, sys.executable, "-m", "autograder", *words], cwd=ROOT,
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - began, int(done.stdout.split()[-1]) / 1e3


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--hand-ins", type=int, default=20, metavar="N", help="submissions in the class (default: 20)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="graded in parallel (default: 2)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        zips = Path(folder) / "zips"
        zips.mkdir()
        hand_ins(zips, args.hand_ins)
        runs = [autograder("grade", str(zips / "000.zip"), "--seed", "1") for _ in range(args.rounds)]
        one, largest = [run[0] for run in runs], max(run[1] for run in runs)
        many, _ = autograder("batch", str(zips), "--csv", f"{folder}/marks.csv", "--jobs", str(args.jobs))
    print(f"one hand-in, all parts: {measure.spread(one, 1)} s; the largest process {largest:.0f} MB")
    print(f"{args.hand_ins} hand-ins, {args.jobs} at a time: {many:.0f} s")
    measure.save(args, {"seconds": one, "largest_process_mb": largest, "hand_ins": args.hand_ins, "jobs": args.jobs,
                        "batch_seconds": many})


if __name__ == "__main__":
    main()
