"""The submission rules (section 5 of the sheet). Each rule that is broken costs five per cent."""

from pathlib import PurePosixPath

from zip_submission import absolute_paths

from autograder.intake import Submission

MODELS = (".pth", ".pth.tar", ".pt", ".ckpt", ".safetensors")


def violations(submission: Submission) -> list[str]:
    """A sentence for each broken rule. Data, logs and models are allowed in a working folder, not in a zip."""
    root = submission_root(submission)
    names = [PurePosixPath(name).relative_to(root) for name, _ in submission.files
             if PurePosixPath(name).is_relative_to(root)]
    found = []
    for folder in ("code", "writeup", "results"):
        if not any(name.parts[0] == folder and len(name.parts) > 1 for name in names):
            found.append(f"{folder}/ is missing or empty")
    if any(name.parts[0] == "writeup" for name in names) and not any(
            name.parts[0] == "writeup" and name.suffix.lower() == ".pdf" for name in names):
        found.append("writeup/ contains no PDF: the report must be a PDF")
    if submission.is_zip and (extra := unwanted_files(names)):
        found.append("data, logs or models are in the zip: "
                     f"{', '.join(map(str, extra[:3]))}{', ...' if len(extra) > 3 else ''}")
    if paths := absolute_paths_of(submission):
        found.append(f"absolute paths: {'; '.join(paths[:3])}")
    return found


def submission_root(submission: Submission) -> PurePosixPath:
    """The folder that contains code/: the root of the zip, or a folder in it."""
    for name, _ in submission.files:
        if name.endswith("code/student_code.py"):
            return PurePosixPath(name).parent.parent
    return PurePosixPath(".")


def unwanted_files(names: list[PurePosixPath]) -> list[PurePosixPath]:
    """Data, logs and models, which must not be in the zip."""
    inside = [name for name in names if name.name.endswith(MODELS) or name.name.startswith("events.out.tfevents")
              or (name.suffix != ".py" and len(name.parts) > 1 and (name.parts[0] in ("data", "logs", "models")
                                                                    or name.parts[:2] in (("code", "logs"),
                                                                                          ("code", "models"))))]
    return [name for name in inside if name.name != "README.md"]


def absolute_paths_of(submission: Submission) -> list[str]:
    """`file:line: text` of the absolute paths in the student's Python files, by the rule of zip_submission.py."""
    return [f"{path.relative_to(submission.code)}:{line}: {value[:60]!r}"
            for path in sorted(submission.code.rglob("*.py")) for line, value in absolute_paths(path)]
