"""Solutions that the grader is tested with: wrong ones, unusual right ones, and attempts to cheat or to break out.

Each is the reference student_code.py with something appended, most of them a textbook version of one part (textbook.py)
with a small change. A change whose old text is not there exactly once is an error, so that none goes stale.
"""

from typing import NamedTuple

from autograder.variants import textbook


class Variant(NamedTuple):
    """`because`: what the feedback has to say (a regular expression). Checks of `part` alone are run."""

    name: str
    part: str
    source: str  # appended to the reference
    because: str = ""
    at_most: float | None = None  # points of the part that a cheat may get
    review: str = ""  # what has to be among the lines for staff (a regular expression)


def changed(part: str, *changes: tuple[str, str]) -> str:
    """The textbook version of `part` with each (old, new) replaced."""
    source = textbook.PARTS[part]
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{part}: {old!r} is there {source.count(old)} times, not once")
        source = source.replace(old, new)
    return source
