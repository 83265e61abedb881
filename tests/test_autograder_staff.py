"""What staff get for a class: pages, hand marks, roster, names of Canvas and Gradescope, Canvas's table. No torch."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from autograder import __main__ as cli
from autograder import batch, class_pages, class_table, hand_marks, report, roster
from autograder.class_table import Entry
from autograder.grade import Mark, PartMark, Verdict
from autograder.intake import CannotGrade
from autograder.roster import Owner, Student

SCRIPT = "<script>alert(1)</script>"
SYNTAX = "student_code.py:1 is not valid Python (invalid syntax): def f(:"
UNWRITTEN = "is not written yet (student_code.py:9)"


def marked(convolution: str = "", adversarial: str = UNWRITTEN, violations=(), seed: int = 5,
           **more) -> dict:
    """results.json of a submission with two automatic parts of two checks each and two parts graded by hand."""
    parts = [PartMark("convolution", "3.1.1 convolution", 2.0, verdicts("forward", "backward", convolution)),
             PartMark("adversarial", "3.3 bonus", 2.0, verdicts("training", "evaluation", adversarial, both=True),
                      bonus=True),
             *(PartMark(name, name, 1.0, [Verdict("graded by hand", 0.0, 1.0)], manual=True)
               for name in ("simplenet", "resnet18"))]
    return report.gradescope(Mark("x", seed, parts=parts, violations=list(violations), level={"process": True},
                                  **more))


def verdicts(first: str, second: str, feedback: str, both: bool = False) -> list[Verdict]:
    return [Verdict(first, 0.0 if feedback else 1.0, 1.0, feedback),
            Verdict(second, 0.0 if both and feedback else 1.0, 1.0, feedback if both else "")]


def entry(name: str = "ann.zip", results: dict | None = None, **more) -> Entry:
    return Entry(Path(name), marked() if results is None else results, **more)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------ the table


def test_a_bonus_that_was_not_attempted_is_no_failure_but_a_wrong_one_is():
    left_out, wrong = entry(), entry(results=marked(adversarial="in evaluation mode it attacks, too"))
    assert class_table.row(left_out)["failed"] == ""
    assert class_table.row(wrong)["failed"] == "adversarial: all checks"
    page = class_table.class_summary([left_out, wrong])
    assert "| adversarial: training | 0 | 1 |" in page
    assert "not written" not in page
    assert "| 3.3 bonus | 0 | 2 | bonus; not attempted |" in class_pages.student_markdown(left_out)


def test_the_reason_that_all_checks_share_is_in_the_row_once():
    row = class_table.row(entry(results=report.gradescope(Mark("x", 5, parts=[
        PartMark("convolution", "c", 2.0, verdicts("forward", "backward", SYNTAX, both=True))]))))
    assert (row["failed"], row["why"], row["points"]) == ("all checks", SYNTAX, 0)


def test_what_is_not_known_is_an_empty_cell(tmp_path):
    entries = [entry(), entry("cut.zip", report.not_graded("cut.zip", "cut.zip is cut off", True))]
    batch.write_csv(tmp_path / "t.csv", class_table.columns(entries), list(map(class_table.row, entries)))
    with (tmp_path / "t.csv").open() as file:
        graded, cut = csv.DictReader(file)
    assert {graded[name] for name in ("hand-in", "total", "simplenet", "pgd", "late", "comment", "failed")} == {""}
    assert {value for name, value in cut.items() if name not in ("name", "status", "why")} == {""}
    assert cut["why"] == "cut.zip is cut off"


def test_the_total_has_hand_marks_and_rules_and_is_open_until_all_are_there():
    half = entry(results=marked(violations=["one", "two", "three"]), by_hand={"simplenet": 0.5})
    assert (half.to_fill, half.total) == (["resnet18"], None)
    half.by_hand["resnet18"] = 1.0
    assert half.mark["penalty"] > 0
    assert half.total == round(2 + 1.5 - half.mark["penalty"], 2)
    assert f"| total | {half.total:g} |" in class_pages.student_markdown(half)


# ------------------------------------------------------------------------------------------ the pages


class Structure(HTMLParser):
    """Which elements a page has, and whether each one is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.rows = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_text_of_students_as_text_and_loads_nothing():
    hostile = entry(f"{SCRIPT}.zip", marked(f"raises {SCRIPT} \u202e & \"quoted\"", notes=[f"note {SCRIPT}"],
                                            review=[f"x.py line 1: {SCRIPT}"], violations=[SCRIPT]),
                    owner=Owner([Student(SCRIPT, id=SCRIPT)], SCRIPT), comment=SCRIPT)
    text = class_pages.class_html([hostile, entry()], [Student(SCRIPT, late_days="1")])
    page = Structure(text)
    assert not page.open
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "alert(1)</script>" not in text
    assert "\u202e" not in text
    assert not [attrs for tag, attrs in page.tags if "src" in attrs or (tag != "a" and "href" in attrs)]
    assert len(set(page.rows)) == 1, "each row has a cell for each column"
    assert len(page.rows) == 4
    assert "for staff: x.py line 1" in text


def test_the_page_of_a_student_has_reasons_and_blanks_but_nothing_for_staff():
    text = class_pages.student_markdown(entry(results=marked("output wrong by 2", review=["line 3: imports ctypes"],
                                                             notes=["a [note](http://x)"]), comment="well done"))
    assert "| simplenet | \\_\\_\\_ | 1 | by hand |" in text
    assert "| total | \\_\\_\\_ |  | without simplenet, resnet18: 1 |" in text
    assert "- 3.1.1 convolution: -1.00 forward: output wrong by 2" in text
    assert "ctypes" not in text
    assert "\\[note\\](http" in text
    assert text.endswith("## Comment\n\nwell done\n")


def test_pages_of_names_that_differ_in_odd_characters_only_are_two_files(tmp_path):
    class_pages.write(tmp_path, [entry("a b.zip"), entry("a_b.zip"), entry("../x"), entry("a/../b.zip")], [])
    names = [path.name for path in (tmp_path / "students").iterdir()]
    assert len(names) == 4
    assert all(re.fullmatch(r"[\w.-]+\.md", name) for name in names)
    links = re.findall(r'href="([^"]+)"', (tmp_path / "class.html").read_text())
    assert all((tmp_path / link).is_file() for link in links)


# ------------------------------------------------------------------------------------------ whose it is

CLASS = [Student("Ann Lee", "101", "alee@example.edu"), Student("Bö Öz, Ünal", "102", "uboz@example.edu", "ub7"),
         Student("Cy Lee", "103", "cy@example.edu", team="7"), Student("Di Ray", "104", team="7", submission="55")]


@pytest.mark.parametrize("name, ids, late", [
    ("leeann_101_9876_submission.zip", "101", ""),
    ("leeann_LATE_999_9876_my_hw.zip", "101", "late (Canvas)"),
    ("unalbooz_31_9876_x.zip", "102", ""),
    ("ub7.zip", "102", ""),
    ("UBOZ@example.edu", "102", ""),
    ("Cy Lee.zip", "103", ""),
    ("hw2_alee.zip", "101", ""),
    ("7.zip", "103 104", ""),
    ("submission_55", "104", ""),
    ("zoe.zip", "", ""),
])
def test_file_names_of_canvas_gradescope_and_others(name, ids, late):
    found = roster.owner(Path(name), {}, CLASS)
    assert (" ".join(student.id for student in found.students), found.late) == (ids, late)
    assert found.problem == ("" if ids else "zoe is not in the roster")


def test_two_students_of_one_name_are_not_taken_for_each_other():
    found = roster.owner(Path("Ann Lee.zip"), {}, [*CLASS, Student("Ann Lee", "109")])
    assert not found.students
    assert found.problem == "Ann Lee may be any of Ann Lee, Ann Lee"


def test_canvas_names_are_enough_without_a_roster():
    found = roster.owner(Path("leeann_101_9876_submission.zip"), {}, None)
    assert [(student.name, student.id) for student in found.students] == [("leeann", "101")]
    assert roster.owner(Path("ann.zip"), {}, None).students == []


def test_gradescopes_metadata_names_the_submitters(tmp_path):
    write(tmp_path / "submission_metadata.yml", """---
submission_11:
  :submitters:
  - :name: Ann Lee
    :sid: '101'
    :email: alee@example.edu
  - :name: Cy Lee
    :sid: '103'
    :email: cy@example.edu
  :created_at: 2026-02-01 10:00:00 Z
  :history:
  - :name: nobody
submission_12:
  :submitters:
  - :name: "Zoe X"
    :sid:
    :email: zoe@example.edu
""")
    paths = [tmp_path / "submission_11", tmp_path / "submission_12", tmp_path / "submission_13"]
    found = roster.owners(paths, CLASS)
    assert [student.id for student in found[paths[0]].students] == ["101", "103"]
    assert found[paths[1]].problem == "Zoe X is not in the roster"
    assert found[paths[2]].problem == "submission_13 is not in the roster"
    assert [student.name for student in roster.missing(CLASS, found)] == ["Bö Öz, Ünal", "Di Ray"]
    (tmp_path / "submission_11").mkdir()
    assert batch.find_submissions(tmp_path, []) == [tmp_path / "submission_11"]


def test_the_roster_may_be_a_table_of_canvas_or_gradescope(tmp_path):
    canvas = write(tmp_path / "c.csv", "\ufeffStudent,ID,SIS User ID,SIS Login ID,Section,HW 1 (5)\n"
                   "    Points Possible,,,,,10\n\"Lee, Ann\",101,S1,alee,A,9\n")
    gradescope = write(tmp_path / "g.csv", "First Name,Last Name,SID,Email,Submission ID,Lateness (H:M:S)\n"
                       "Ann,Lee,101,a@b.edu,55,26:00:01\n")
    assert roster.read_roster(canvas) == [Student("Lee, Ann", "101", login="alee", section="A")]
    students = roster.read_roster(gradescope)
    assert students[0].name == "Ann Lee"
    assert roster.owner(Path("submission_55"), {}, students).late == "late by 26:00:01 (Gradescope)"


@pytest.mark.parametrize("text, words", [
    ("id,late_days\n1,two\n", "r.csv:2: late_days is 'two', not a number"),
    ("id,email\n1,a\n\n2,b\n1,c\n", "r.csv:5: 1 is in line 2, too"),
    ("points\n3\n", "r.csv:1: none of the columns is name, id, email or login"),
    ("id,id\n1,2\n", "r.csv:1: the column 'id' is there twice"),
    ("name,id\nLee, Ann,1\n", "r.csv:2: the row has more cells than the first line has columns"),
])
def test_errors_of_the_roster_name_the_line(tmp_path, text, words):
    with pytest.raises(CannotGrade, match=re.escape(words)):
        roster.read_roster(write(tmp_path / "r.csv", text))


# ------------------------------------------------------------------------------------------ marks by hand

OWNERS = {Path("ann.zip"): Owner([CLASS[0]]), Path("=bob.zip"): Owner()}


def test_hand_marks_are_merged_by_file_or_student(tmp_path):
    table = write(tmp_path / "m.csv", "Name,simplenet,resnet18,comment\nalee@example.edu,0.5,,good\n'=bob.zip,0,1,\n")
    entries = [entry("ann.zip"), entry("=bob.zip")]
    hand_marks.merge(table, hand_marks.read_marks(table, OWNERS), entries)
    assert [item.by_hand for item in entries] == [{"simplenet": 0.5}, {"simplenet": 0.0, "resnet18": 1.0}]
    assert entries[0].comment == "good"
    assert (entries[0].total, entries[1].total) == (None, 3.0)


@pytest.mark.parametrize("text, words", [
    ("name,simplenet\nanne,1\n", "m.csv:2: 'anne' names no submission here; is it 'ann'?"),
    ("name,simplenet\nann,1\n\nAnn Lee,1\n", "m.csv:4: 'Ann Lee' is in line 2, too"),
    ("name,simplenet\nann,1.5\n", "m.csv:2: simplenet is 1.5, more than its 1"),
    ("name,simplenet\nann,-1\n", "m.csv:2: simplenet is '-1', not a number of at least 0"),
    ("name,simplenet\nann,nan\n", "m.csv:2: simplenet is 'nan', not a number of at least 0"),
    ("name,simplenet\nann,\"0,5\"\n", "m.csv:2: simplenet is '0,5', not a number"),
    ("name,convolution\nann,1\n", "m.csv:2: 'convolution' is no part that is graded by hand; these are: simplenet, re"),
    ("student,simplenet\nann,1\n", "m.csv:1: there is no column name"),
])
def test_errors_of_hand_marks_name_the_line(tmp_path, text, words):
    table = write(tmp_path / "m.csv", text)
    with pytest.raises(CannotGrade, match=re.escape(words)):
        hand_marks.merge(table, hand_marks.read_marks(table, OWNERS), [entry("ann.zip"), entry("=bob.zip")])


# ------------------------------------------------------------------------------------------ the command


@pytest.fixture
def quick_grader(monkeypatch):
    """Grades by a file's first word, and counts."""
    calls = []

    def grade(path, options):
        calls.append((path.name, options))
        if path.suffix == ".pdf":
            return report.not_graded(path.name, f"{path.name} is a PDF", True)
        return marked(path.read_text(), seed=options["seed"])

    monkeypatch.setattr(batch, "grade_in_subprocess", grade)
    return calls


def test_batch_from_a_canvas_download_to_canvas(tmp_path, capsys, quick_grader):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write(folder / "leeann_101_1_hw.zip", "")
    write(folder / "leeann_101_2_report.pdf", "")
    write(folder / "leecy_LATE_103_3_hw.zip", "wrong")
    people = write(folder / "roster.csv", "name,id,login,section,late_days\nAnn Lee,101,alee,A,1\nCy Lee,103,cy,A,3\n"
                   "Di Ray,104,di,B,\n")
    command = ["batch", str(folder), "--out", str(out), "--roster", str(people), "--canvas", "HW 2 (47)", "--jobs", "1"]
    assert cli.main(command) == 2, "the PDF was not graded"
    printed = capsys.readouterr().out
    assert "2 without a total: marks by hand are missing. Fill in" in printed
    assert "no mark in canvas.csv: Di Ray: no submission" in printed

    table = out / "manual.csv"
    rows = table.read_text().splitlines()
    assert rows[:2] == ["name,student,simplenet,resnet18,comment", "leeann_101_1_hw.zip,Ann Lee,,,"]
    write(table, "\n".join([rows[0], "leeann_101_1_hw.zip,Ann Lee,1,0.5,fine"]) + "\n")
    calls = len(quick_grader)
    assert cli.main([*command, "--manual", str(table)]) == 2
    assert len(quick_grader) == calls, "the seed of the run before is taken, so that its results count"
    assert (out / "canvas.csv").read_text().splitlines() == [
        "Student,ID,SIS Login ID,Section,HW 2 (47)", "Ann Lee,101,alee,A,3.5", "Cy Lee,103,cy,A,", "Di Ray,104,di,B,"]
    assert "fine" in table.read_text(), "a table that is there is not written over"
    with (out / "marks.csv").open() as file:
        found = {row["name"] or row["student"]: row for row in csv.DictReader(file)}
    assert found["leecy_LATE_103_3_hw.zip"]["late"] == "late (Canvas)"
    assert found["leecy_LATE_103_3_hw.zip"]["late_days"] == "3"
    assert found["leecy_LATE_103_3_hw.zip"]["points"] == "1.0", "late days are shown, no points are taken off"
    assert found["leeann_101_1_hw.zip"]["total"] == "3.5"
    assert found["Di Ray"]["status"] == "no submission"
    assert len(list((out / "students").iterdir())) == 3
    assert "Di Ray" in (out / "class.html").read_text()


def test_an_error_in_a_table_of_staff_comes_before_grading(tmp_path, capsys, quick_grader):
    write(tmp_path / "ann.zip", "")
    table = write(tmp_path / "m.csv", "name,simplenet\nbob,1\n")
    assert cli.main(["batch", str(tmp_path), "--out", str(tmp_path / "out"), "--manual", str(table)]) == 2
    assert "m.csv:2: 'bob' names no submission here" in capsys.readouterr().err
    assert not quick_grader
    assert cli.main(["batch", str(tmp_path), "--csv", str(tmp_path / "t.csv"), "--canvas", "x"]) == 2
    assert "give --out" in capsys.readouterr().err


def test_a_folder_of_gradescope_is_an_unpacked_zip(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(batch.subprocess, "Popen", lambda command, **_: commands.append(command) or 1 / 0)
    for name in ("submission_12", "ann"):
        with pytest.raises(ZeroDivisionError):
            batch.grade_in_subprocess(tmp_path / name, {"seed": 1})
    assert ["--handed-in" in command for command in commands] == [True, False]
