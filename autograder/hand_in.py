"""The submission rules (section 5 of the sheet). Each broken rule after the first costs five per cent."""

from pathlib import PurePosixPath

from zip_submission import FOLDERS, absolute_paths

from autograder.intake import Submission, is_code

MODELS = (".pth", ".pth.tar", ".pt", ".ckpt", ".safetensors")


def violations(submission: Submission) -> list[str]:
    """A sentence for each broken rule. Data, logs and models are allowed in a working folder, not in a zip."""
    names, capitals = names_of(submission)
    found = []
    if capitals:
        found.append(f"capitals in the names of folders: {', '.join(capitals)}; the sheet's names are "
                     f"{', '.join(f'{name.lower()}/' for name in capitals)}, which are other folders on Linux")
    for folder in FOLDERS:
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


def names_of(submission: Submission) -> tuple[list[PurePosixPath], list[str]]:
    """The paths from the folder that contains code/, and the names of FOLDERS that have capitals, e.g. Code.

    Those names are in small letters in the paths, so that capitals break one rule only.
    """
    root = submission_root(submission)
    names = [PurePosixPath(name).relative_to(root) for name, _ in submission.files
             if root in PurePosixPath(name).parents]
    tops = {name.parts[0] for name in names if len(name.parts) > 1}
    small = {top: top.lower() for top in tops if top.lower() in FOLDERS}
    return ([PurePosixPath(small.get(name.parts[0], name.parts[0]), *name.parts[1:]) for name in names],
            sorted(top for top in small if top not in FOLDERS))


def submission_root(submission: Submission) -> PurePosixPath:
    """The folder that contains code/ with the graded student_code.py: the root of the zip, or a folder in it."""
    folder = submission.student.parent if submission.student else PurePosixPath(".")
    return folder.parent if is_code(folder) else folder


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
