"""Test solutions for the grader: wrong ones, unusual right ones, and attempts to cheat or to escape the sandbox.

Each is the reference student_code.py with code appended, usually the textbook version of one part (textbook.py) with a
small change. The text to change must occur exactly once, so that an outdated variant is an error.
"""

from typing import NamedTuple

from autograder.variants import textbook


class Variant(NamedTuple):
    """A test solution. Only `part` is graded. `reason`, `review` and `allowed` are regular expressions."""

    name: str
    part: str
    source: str  # appended to the reference
    reason: str = ""  # expected in the title or feedback of a failed check
    max_points: float | None = None  # for cheats; default: all points of the part
    review: str = ""  # expected in the lines for staff
    allowed: str = ""  # for wrong ones: what further failed checks may say; others are false reasons


def changed(part: str, *changes: tuple[str, str]) -> str:
    """The textbook version of `part` with each (old, new) replaced. Raises ValueError unless `old` occurs once."""
    source = textbook.PARTS[part]
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{part}: {old!r} occurs {source.count(old)} times, not once")
        source = source.replace(old, new)
    return source
