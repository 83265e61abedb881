"""Whose submission a file is: names of Canvas and Gradescope, their tables, and a roster of the class."""

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from autograder.intake import CannotGrade
from autograder.tables import read_csv
from autograder.text import printable

CANVAS = re.compile(r"(?P<name>[^_]+)(?P<late>_late)?_(?P<id>\d+)_\d+_.+", re.IGNORECASE)  # lee_LATE_123_4567_hw2.zip
GRADESCOPE = re.compile(r"submission_(\d+)")  # a folder of its export
GRADESCOPE_METADATA = "submission_metadata.yml"  # beside these folders: who handed in what
COLUMNS = {"student": "name", "sid": "id", "sis login id": "login", "sections": "section", "late days": "late_days",
           "submission id": "submission", "lateness (h:m:s)": "lateness"}  # of Canvas's and Gradescope's tables


@dataclass
class Student:
    """A row of the roster, or what a file name says of its owner."""

    name: str = ""
    id: str = ""
    email: str = ""
    login: str = ""
    section: str = ""
    team: str = ""
    late_days: str = ""
    submission: str = ""  # Gradescope's number of the submission
    lateness: str = ""  # of it, in Gradescope's words

    def answers_to(self, word: str) -> bool:
        """Whether `word` is the student's id, login, e-mail address or the part of it before the @."""
        return word.casefold() in {known.casefold() for known in (self.id, self.login, self.email,
                                                                  self.email.split("@")[0]) if known}


@dataclass
class Owner:
    """Whose a submission is, whether it was late, and why that is not known."""

    students: list[Student] = field(default_factory=list)
    late: str = ""
    problem: str = ""


def read_roster(path: Path) -> list[Student]:
    """The students of a table with the columns of Student (name, id or email), or exported by Canvas or Gradescope.

    Raises CannotGrade, with file and line.
    """
    columns, rows = read_csv(path)
    known = {COLUMNS.get(column, column) for column in columns}
    if not known & {"name", "id", "email", "login", "first name"}:
        raise CannotGrade(f"{path}:1: none of the columns is name, id, email or login")
    students, lines = [], {}
    for line, row in rows:
        if row.get("student", "").startswith("Points Possible"):  # Canvas's second row
            continue
        cells = {COLUMNS.get(column, column): cell for column, cell in row.items()}
        cells.setdefault("name", " ".join(filter(None, (row.get("first name"), row.get("last name")))))
        student = Student(**{name: cells.get(name, "") for name in Student.__dataclass_fields__})
        if not re.fullmatch(r"(\d+(\.\d+)?)?", student.late_days):
            raise CannotGrade(f"{path}:{line}: late_days is {student.late_days!r}, not a number")
        for key in filter(None, (student.id, student.email.casefold())):
            if key in lines:
                raise CannotGrade(f"{path}:{line}: {key} is in line {lines[key]}, too")
            lines[key] = line
        students.append(student)
    return students


def owners(paths: list[Path], students: list[Student] | None) -> dict[Path, Owner]:
    """The owner of each submission, by its file name and, if there is one, the roster."""
    submitters = {folder: gradescope_submitters(folder) for folder in {path.parent for path in paths}}
    return {path: owner(path, submitters[path.parent], students) for path in paths}


def owner(path: Path, submitters: dict[str, list[Student]], students: list[Student] | None) -> Owner:
    stem = path.name.split(".zip")[0]
    if canvas := CANVAS.fullmatch(path.name):
        claims, late = [Student(name=canvas["name"], id=canvas["id"])], "late (Canvas)" if canvas["late"] else ""
    elif gradescope := GRADESCOPE.fullmatch(path.name):
        claims, late = submitters.get(path.name) or [Student(submission=gradescope[1])], ""
    else:
        claims, late = [Student(name=stem)], ""
    if students is None:
        return Owner([claim for claim in claims if claim.id or claim.email], late)
    sure, problems = [], []
    for claim in claims:
        hits = who_it_is(claim, students)
        if len(hits) > 1 and not all(student.team and student.team == claim.name for student in hits):
            problems.append(f"{claim.name} may be any of {', '.join(student.name or student.id for student in hits)}")
        elif not hits:
            problems.append(f"{claim.name or claim.id or stem} is not in the roster")
        else:
            sure += hits
    lateness = [student.lateness for student in sure if student.lateness.strip("0:")]
    late = f"late by {lateness[0]} (Gradescope)" if lateness else late
    return Owner(sure, late, printable("; ".join(problems)))


def who_it_is(claim: Student, students: list[Student]) -> list[Student]:
    """The students that fit by number, or else by address, whole name, team, or a word of the file name."""
    tests = [lambda student: claim.submission and student.submission == claim.submission,
             lambda student: claim.id and student.answers_to(claim.id),
             lambda student: claim.email and student.answers_to(claim.email),
             lambda student: student.answers_to(claim.name) or letters(claim.name) in spellings(student.name),
             lambda student: student.team and student.team == claim.name,
             lambda student: any(student.answers_to(word) for word in re.split(r"[\s_]+", claim.name))]
    return next((hits for test in tests if (hits := [student for student in students if test(student)])), [])


def letters(text: str) -> str:
    """The letters and digits of a name, without case and accents, as Canvas's file names have them."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in plain if letter.isalnum())


def spellings(name: str) -> set[str]:
    """A name with its words in turn: "Ann B. Lee" is annblee, bleeann and leeannb."""
    words = name.replace(",", " ").split()
    return {letters(" ".join(words[start:] + words[:start])) for start in range(len(words))} - {""}


def gradescope_submitters(folder: Path) -> dict[str, list[Student]]:
    """{folder of a submission: its submitters} from the submission_metadata.yml of a Gradescope export, if it is there.

    Only its keys `:submitters:`, `:name:`, `:sid:` and `:email:` are read.
    """
    found: dict[str, list[Student]] = {}
    path, names = folder / GRADESCOPE_METADATA, {"name": "name", "sid": "id", "email": "email"}
    if path.is_symlink() or not path.is_file():
        return found
    submission, reading = "", False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if top := re.fullmatch(r"[\"']?(submission_\d+)[\"']?:\s*", line):
            submission, reading = top[1], False
            found[submission] = []
        elif key := re.fullmatch(r"  (\S.*?):\s*(.*)", line):
            reading = key[1] == ":submitters" if not key[1].startswith("- ") else reading
        if reading and submission and (entry := re.fullmatch(r"\s*(- )?:(name|sid|email):\s*(.*)", line)):
            if entry[1]:
                found[submission].append(Student())
            if found[submission]:
                setattr(found[submission][-1], names[entry[2]], entry[3].strip().strip("'\""))
    return found


def missing(students: list[Student], owners: dict[Path, Owner]) -> list[Student]:
    """The students of the roster without a submission."""
    handed_in = [id(student) for owner in owners.values() for student in owner.students]
    return [student for student in students if id(student) not in handed_in]
