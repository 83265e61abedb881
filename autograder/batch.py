"""A class: every hand-in of a folder, a row of a table each, what the class got wrong. Interrupted, it goes on."""

import csv
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from autograder import report, rubric
from autograder.grade import fingerprint
from autograder.intake import CannotGrade
from autograder.solution import ROOT
from autograder.text import general, markdown, printable

SECONDS = 1200  # for one hand-in, all parts; a part has a limit of its own


def hand_ins(folder: Path) -> list[Path]:
    """Zips, and folders with a code/ or a student_code.py in them."""
    if not folder.is_dir():
        raise CannotGrade(f"{folder}: there is no such folder")
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and (
        (path.is_file() and path.suffix.lower() in (".zip", ".rar", ".7z", ".gz", ".tar", ".tgz", ".py"))
        or (path.is_dir() and (any(path.glob("**/student_code.py")) or (path / "code").is_dir())))]
    if not found:
        raise CannotGrade(f"{folder}: holds no zip, and no folder with code/ in it")
    return found


def grade_all(folder: Path, table: Path, jobs: int, options: dict, tell=print) -> list[dict]:
    """Grade all, write `table` (CSV), beside it `<table>.marks/` with each result and `<table>.md` about the class."""
    marks = table.with_suffix(".marks")
    marks.mkdir(parents=True, exist_ok=True)
    paths, rows, contents, began = hand_ins(folder), {}, {}, time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {path: pool.submit(grade_one, path, marks, options) for path in paths}
        try:
            for done, (path, result) in enumerate(waiting.items(), 1):
                contents[path], fresh = result.result()
                name = printable(path.name)
                rows[name] = row(name, contents[path])
                write_table(table, list(rows.values()))
                tell(f"{done}/{len(paths)} {name}: {rows[name]['status']}, {rows[name]['points']:g} "
                     f"points{'' if fresh else ' (from before)'}, {time.monotonic() - began:.0f} s")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    write_text(table.with_suffix(".md"), about_the_class(contents))
    return list(rows.values())


def grade_one(path: Path, marks: Path, options: dict) -> tuple[dict, bool]:
    """results.json of one hand-in, from an earlier run if nothing has changed since; whether it is new.

    What the grader itself failed at, or was stopped in, is not kept: it is tried again the next time.
    """
    try:
        # A name may be too long or too odd to get one more suffix.
        short = f"{printable(path.name, 60)}-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}"
        kept, key = marks / f"{short.replace('/', '-')}.json", key_of(path, options)
        if (before := read_kept(kept)).get("key") == key:
            return before["results"], False
        results = in_a_process(path, options)
        if "mark" in results["extra_data"] or results["extra_data"].get("hand_in_at_fault"):
            report.write_json(kept, {"key": key, "results": results})
        return results, True
    except OSError as error:
        return report.not_graded(path.name, f"{printable(path.name)}: {error.strerror or error}"), True


def read_kept(kept: Path) -> dict:
    try:
        return json.loads(kept.read_text())
    except (OSError, ValueError):
        return {}


def in_a_process(path: Path, options: dict) -> dict:
    """Whatever happens to the grader over one hand-in, the others are graded."""
    with tempfile.TemporaryDirectory(prefix="batch-") as folder:
        out = Path(folder) / "results.json"
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "autograder", "grade", str(path.resolve()), "--json", str(out), *flags]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, said = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # so that it cleans up behind itself
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            return report.not_graded(path.name, f"the grader itself took longer than {SECONDS} s: tell its authors")
        if process.returncode in (0, 2) and out.exists():
            return json.loads(out.read_text())
        last = (said.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        return report.not_graded(path.name, "the grader itself failed, which is no fault of the hand-in: "
                                            f"{printable(last)}")


def key_of(path: Path, options: dict) -> str:
    """Of the hand-in, the options and the grader: if one changes, what was graded before does not count."""
    grader = hashlib.sha256()
    for source in sorted([*Path(__file__).parent.rglob("*.py"), *(ROOT / "code").rglob("*.py")]):
        grader.update(source.read_bytes())
    return "-".join([fingerprint(path)[:16], grader.hexdigest()[:16], json.dumps(options, sort_keys=True)])


def row(name: str, results: dict) -> dict:
    mark = results["extra_data"].get("mark")
    if mark is None:
        return {"name": name, "status": "not graded", "points": 0.0, "why": results["output"]}
    parts = {part["name"]: round(sum(verdict["points"] for verdict in part["verdicts"]), 2) for part in mark["parts"]
             if not part["manual"]}
    failed = [f"{part['name']}: {verdict['title']}" for part in mark["parts"] if not part["manual"]
              for verdict in part["verdicts"] if verdict["feedback"]]
    return {"name": name, "status": "graded", "points": mark["points"], **parts,
            "hand-in": -round(len(mark["violations"]) * rubric.HAND_IN_PENALTY * rubric.REGULAR, 2),
            "seed": mark["seed"], "seconds": mark["seconds"], "review": len(mark["review"]),
            "isolation": report.isolation(mark["level"]).removeprefix("isolation: "), "failed": "; ".join(failed),
            "why": "; ".join(mark["violations"] + mark["notes"])}


COLUMNS = ["name", "status", "points", *rubric.PARTS, "hand-in", "seed", "seconds", "review", "isolation", "failed",
           "why"]


def write_table(path: Path, rows: list[dict]) -> None:
    """A spreadsheet program must not take a student's words for a formula."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows({key: f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
                      for key, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    os.replace(part, path)


def about_the_class(contents: dict[Path, dict]) -> str:
    """Markdown: points, how many passed each check, the commonest failures with examples."""
    marks, rest = [], []
    for path, content in contents.items():
        if "mark" in content["extra_data"]:
            marks.append((markdown(path.name), content["extra_data"]["mark"]))
        else:
            rest.append((markdown(path.name), markdown(content["output"])))
    lines = ["# The class", "", f"{len(marks)} graded, {len(rest)} not graded."]
    if marks:
        points = [mark["points"] for _, mark in marks]
        lines += [f"Points by machine: median {statistics.median(points):g}, from {min(points):g} to "
                  f"{max(points):g}.", "",
                  "| check | passed | of |", "|---|---|---|"]
        passed, failures = Counter(), defaultdict(list)
        for name, mark in marks:
            for part, verdict in verdicts(mark):
                passed[f"{part['name']}: {verdict['title']}"] += not verdict["feedback"]
            for sentence in sentences(mark):
                failures[sentence].append(name)
        lines += [f"| {title} | {count} | {len(marks)} |" for title, count in passed.items()]
        lines += ["", "## The commonest failures", ""]
        lines += [f"- {len(names)} x {markdown(sentence)} (for instance {', '.join(names[:3])})"
                  for sentence, names in sorted(failures.items(), key=lambda item: -len(item[1]))[:20]]
    if rest:
        lines += ["", "## Not graded", "", *[f"- {name}: {why}" for name, why in rest]]
    return "\n".join(lines) + "\n"


def sentences(mark: dict) -> set[str]:
    """What one hand-in got wrong, each mistake once in a part, and one that spoils every check once for all."""
    failed = [(part["name"], general(verdict["feedback"])) for part, verdict in verdicts(mark) if verdict["feedback"]]
    if len({said for _, said in failed}) == 1 and len(failed) == len(list(verdicts(mark))):
        return {f"everything: {failed[0][1]}"}
    return {f"{part}: {said}" for part, said in failed}


def verdicts(mark: dict):
    return ((part, verdict) for part in mark["parts"] if not part["manual"] for verdict in part["verdicts"])
