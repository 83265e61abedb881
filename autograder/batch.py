"""Grade a folder of submissions: a CSV table, a class summary, and a cache, so that an interrupted run resumes."""

import csv
import hashlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from autograder import report, rubric
from autograder.grade import fingerprint
from autograder.intake import CannotGrade
from autograder.solution import ROOT
from autograder.text import escape_markdown, normalize, printable

TIMEOUT = 1200  # seconds for one submission; grade.PART_SECONDS limits each part


def find_submissions(folder: Path, outputs: list[Path]) -> list[Path]:
    """Everything in `folder` but hidden files and `outputs`: what is no submission gets a row that says what it is.

    Raises CannotGrade if there is nothing.
    """
    if not folder.is_dir():
        raise CannotGrade(f"{folder}: there is no such folder")
    written = {path.resolve() for path in outputs}
    found = [path for path in sorted(folder.iterdir())
             if not path.name.startswith(".") and path.resolve() not in written]
    if not found:
        raise CannotGrade(f"{folder}: contains no zip and no folder with code/ in it")
    return found


def grade_all(folder: Path, csv_path: Path, jobs: int, options: dict, log=print) -> list[dict]:
    """Grade all submissions in `folder`, `jobs` in parallel. Returns the rows of the table.

    Writes `csv_path`, and beside it each results.json (`.marks/`) and the class summary (`.md`). `options`: seed, year.
    """
    marks = csv_path.with_suffix(".marks")
    marks.mkdir(parents=True, exist_ok=True)
    outputs = [csv_path, marks, csv_path.with_suffix(".md")]
    paths, rows, results, began = find_submissions(folder, outputs), {}, {}, time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        futures = {path: pool.submit(grade_one, path, marks, options) for path in paths}
        try:
            for done, (path, result) in enumerate(futures.items(), 1):
                results[path], fresh = result.result()
                rows[path] = row(printable(path.name), results[path])
                write_table(csv_path, list(rows.values()))
                log(f"{done}/{len(paths)} {rows[path]['name']}: {rows[path]['status']}, {rows[path]['points']:g} "
                    f"points{'' if fresh else ' (cached)'}, {time.monotonic() - began:.0f} s")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    write_text(csv_path.with_suffix(".md"), class_summary(results))
    return list(rows.values())


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


def row(name: str, results: dict) -> dict:
    """One row of the CSV table."""
    mark = results["extra_data"].get("mark")
    if mark is None:
        return {"name": name, "status": "not graded", "points": 0.0, "why": results["output"]}
    parts = {part["name"]: round(sum(verdict["points"] for verdict in part["verdicts"]), 2) for part in mark["parts"]
             if not part["manual"]}
    failed = [f"{part['name']}: {verdict['title']}" for part in mark["parts"] if not part["manual"]
              for verdict in part["verdicts"] if verdict["feedback"]]
    return {"name": name, "status": "graded", "points": mark["points"], **parts,
            "hand-in": -round(len(mark["violations"]) * rubric.RULE_PENALTY * rubric.REGULAR, 2),
            "seed": mark["seed"], "seconds": mark["seconds"], "review": len(mark["review"]),
            "isolation": report.isolation(mark["level"]).removeprefix("isolation: "), "failed": "; ".join(failed),
            "why": "; ".join(mark["violations"] + mark["notes"])}


COLUMNS = ["name", "status", "points", *rubric.PARTS, "hand-in", "seed", "seconds", "review", "isolation", "failed",
           "why"]


def write_table(path: Path, rows: list[dict]) -> None:
    """Write the CSV atomically; a leading quote keeps spreadsheets from reading text as a formula."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows({key: f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
                      for key, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    os.replace(part, path)


def class_summary(results: dict[Path, dict]) -> str:
    """Markdown: points, how many passed each check, the most frequent failures with examples."""
    marks, ungraded = [], []
    for path, content in results.items():
        if "mark" in content["extra_data"]:
            marks.append((escape_markdown(path.name), content["extra_data"]["mark"]))
        else:
            ungraded.append((escape_markdown(path.name), escape_markdown(content["output"])))
    lines = ["# The class", "", f"{len(marks)} graded, {len(ungraded)} not graded."]
    if marks:
        points = [mark["points"] for _, mark in marks]
        lines += [f"Automatic points: median {statistics.median(points):g}, from {min(points):g} to "
                  f"{max(points):g}.", "",
                  "| check | passed | of |", "|---|---|---|"]
        passed, failures = Counter(), defaultdict(list)
        for name, mark in marks:
            for part, verdict in verdicts(mark):
                passed[f"{part['name']}: {verdict['title']}"] += not verdict["feedback"]
            for sentence in failure_reasons(mark):
                failures[sentence].append(name)
        lines += [f"| {title} | {count} | {len(marks)} |" for title, count in passed.items()]
        lines += ["", "## Most frequent failures", ""]
        lines += [f"- {len(names)} x {escape_markdown(sentence)} (e.g. {', '.join(names[:3])})"
                  for sentence, names in sorted(failures.items(), key=lambda item: -len(item[1]))[:20]]
    if ungraded:
        lines += ["", "## Not graded", "", *[f"- {name}: {why}" for name, why in ungraded]]
    return "\n".join(lines) + "\n"


def failure_reasons(mark: dict) -> set[str]:
    """The distinct reasons of one submission, once per part, or a single one if all checks failed for it."""
    failed = [(part["name"], normalize(verdict["feedback"])) for part, verdict in verdicts(mark) if verdict["feedback"]]
    if len({stderr for _, stderr in failed}) == 1 and len(failed) == len(list(verdicts(mark))):
        return {f"all parts: {failed[0][1]}"}
    return {f"{part}: {stderr}" for part, stderr in failed}


def verdicts(mark: dict):
    return ((part, verdict) for part in mark["parts"] if not part["manual"] for verdict in part["verdicts"])
