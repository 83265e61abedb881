"""Grade a folder of submissions into a CSV table, with a cache, so that an interrupted run resumes."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from autograder import class_table, report
from autograder.class_table import Entry
from autograder.grade import fingerprint
from autograder.intake import CannotGrade
from autograder.roster import GRADESCOPE, GRADESCOPE_METADATA, Owner
from autograder.solution import ROOT
from autograder.tables import write_csv
from autograder.text import printable

TIMEOUT = 1200  # seconds for one submission; grade.PART_SECONDS limits each part


def find_submissions(folder: Path, outputs: list[Path]) -> list[Path]:
    """Everything in `folder` but hidden files, `outputs` and Gradescope's metadata; what is no submission gets a row.

    Raises CannotGrade if there is nothing.
    """
    if not folder.is_dir():
        raise CannotGrade(f"{folder}: there is no such folder")
    written = {path.resolve() for path in outputs}
    found = [path for path in sorted(folder.iterdir())
             if not path.name.startswith(".") and path.name != GRADESCOPE_METADATA and path.resolve() not in written]
    if not found:
        raise CannotGrade(f"{folder}: contains no zip and no folder with code/ in it")
    return found


def grade_all(owners: dict[Path, Owner], csv_path: Path, jobs: int, options: dict, log=print) -> list[Entry]:
    """Grade all submissions, `jobs` in parallel. `options`: seed, year.

    Writes `csv_path`, a row for each as soon as it is graded, and beside it each results.json (`.marks/`).
    """
    marks = marks_folder(csv_path)
    marks.mkdir(parents=True, exist_ok=True)
    entries, began = [], time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        futures = {path: pool.submit(grade_one, path, marks, options) for path in owners}
        try:
            for path, future in futures.items():
                results, fresh = future.result()
                entries.append(Entry(path, results, owners[path]))
                write_csv(csv_path, class_table.columns(entries), list(map(class_table.row, entries)))
                done = f"graded, {results['score']:g} points" if entries[-1].mark else "not graded"
                log(f"{len(entries)}/{len(owners)} {entries[-1].name}: {done}{'' if fresh else ' (cached)'}, "
                    f"{time.monotonic() - began:.0f} s")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return entries


def marks_folder(csv_path: Path) -> Path:
    return csv_path.with_suffix(".marks")


def seed_before(csv_path: Path) -> int | None:
    """The seed of an earlier run into the same table: with it, what was graded need not be graded again."""
    seeds = (read_cached(path).get("results", {}).get("extra_data", {}).get("mark", {}).get("seed")
             for path in sorted(marks_folder(csv_path).glob("*.json")))
    return next((seed for seed in seeds if seed is not None), None)


def grade_one(path: Path, marks: Path, options: dict) -> tuple[dict, bool]:
    """results.json of one submission, and False if it came from the cache.

    Failures and timeouts of the grader itself are not cached.
    """
    try:
        if kind := what_it_is(path):
            return report.not_graded(path.name, f"{printable(path.name)} is {kind}, not a zip or a folder",
                                     hand_in_at_fault=True), True
        # The name alone may be too long with a suffix, or not printable.
        stem = f"{printable(path.name, 60)}-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}"
        cached, key = marks / f"{stem.replace('/', '-')}.json", cache_key(path, options)
        if (before := read_cached(cached)).get("key") == key:
            return before["results"], False
        results = grade_in_subprocess(path, options)
        if "mark" in results["extra_data"] or results["extra_data"].get("hand_in_at_fault"):
            report.write_json(cached, {"key": key, "results": results})
        return results, True
    except OSError as error:
        return report.not_graded(path.name, f"{printable(path.name)}: {error.strerror or error}"), True


def what_it_is(path: Path) -> str:
    """What a path is that can be no submission, and would block if it were read; else an empty string."""
    kinds = {"a link": path.is_symlink(), "a named pipe": path.is_fifo(), "a socket": path.is_socket(),
             "a device": path.is_block_device() or path.is_char_device()}
    return next((kind for kind, true in kinds.items() if true), "")


def read_cached(cached: Path) -> dict:
    try:
        return json.loads(cached.read_text())
    except (OSError, ValueError):
        return {}


def grade_in_subprocess(path: Path, options: dict) -> dict:
    """results.json of one submission, graded in a process of its own, whose crash or timeout affects no other."""
    with tempfile.TemporaryDirectory(prefix="batch-") as folder:
        out = Path(folder) / "results.json"
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        flags += ["--handed-in"] * bool(GRADESCOPE.fullmatch(path.name))  # an unpacked zip
        command = [sys.executable, "-m", "autograder", "grade", str(path.resolve()), "--json", str(out), *flags]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, stderr = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.terminate()  # SIGTERM, so that it removes its workers and folders
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            return report.not_graded(path.name, f"the grader took longer than {TIMEOUT} s: please report it")
        if process.returncode in (0, 2) and out.exists():
            return json.loads(out.read_text())
        last = (stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        return report.not_graded(path.name, f"the grader failed, not the submission: {printable(last)}")


def cache_key(path: Path, options: dict) -> str:
    """Submission, grader with its starter files, versions of Python, torch and NumPy, and options."""
    grader = hashlib.sha256()
    for source in sorted([*Path(__file__).parent.rglob("*.py"), *(ROOT / "code").rglob("*.py")]):
        grader.update(source.read_bytes())
    versions = [platform.python_version(), *map(installed_version, ("torch", "numpy"))]
    return "-".join([fingerprint(path)[:16], grader.hexdigest()[:16], *versions, json.dumps(options, sort_keys=True)])


def installed_version(package: str) -> str:
    """The version of a package, without importing it; "none" if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
