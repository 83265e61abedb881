"""Tables that staff write and read: CSV files, checked cell by cell, and files written in one piece."""

import csv
import io
import os
from pathlib import Path

from autograder.intake import CannotGrade

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a spreadsheet's formulas begin


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    os.replace(part, path)


def write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    """Write a table atomically; a leading quote keeps spreadsheets from reading text as a formula."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
                      for key, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a table, in lower case, and (line, {column: cell}) of each row that is not empty.

    Raises CannotGrade, with file and line, if it cannot be read, or a row is longer than the first line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""))
        columns = [cell.strip().lower() for cell in next(reader, [])]
        rows = [(reader.line_num, [plain(cell) for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except OSError as error:
        raise CannotGrade(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CannotGrade(f"{path} is not UTF-8: save it as CSV UTF-8") from None
    except csv.Error as error:
        raise CannotGrade(f"{path} is not a CSV table: {error}") from None
    named = [column for column in columns if column]
    if twice := sorted({column for column in named if named.count(column) > 1}):
        raise CannotGrade(f"{path}:1: the column {twice[0]!r} is there twice")
    for line, cells in rows:
        if any(cells[len(columns):]):
            raise CannotGrade(f"{path}:{line}: the row has more cells than the first line has columns; a cell with a "
                              "comma in it needs quotes")
    return named, [(line, {column: cell for column, cell in zip(columns, cells) if column}) for line, cells in rows]


def plain(cell: str) -> str:
    """A cell without blanks around it, and without the quote that write_csv puts before what looks like a formula."""
    return cell[1:].strip() if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell.strip()
