"""Sanitise untrusted text before it is printed or written."""

import re
import unicodedata

MAX_LENGTH = 1000  # characters


def printable(text: str, max_length: int = MAX_LENGTH) -> str:
    """Text as one line, with control, bidirectional, surrogate and private-use characters escaped."""
    text = str(text)[: max_length + 1]
    text = "".join(f"\\x{ord(letter):02x}" if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") else letter
                   for letter in text.replace("\n", " ").replace("\t", " "))
    return text if len(text) <= max_length else text[:max_length] + " ..."


def escape_markdown(text: str) -> str:
    """Printable text with Markdown's special characters escaped."""
    return "".join("\\" + letter if letter in "\\`*_[]<>#|" else letter for letter in printable(text))


def normalize(feedback: str) -> str:
    """Feedback without case and numbers, so that the same mistake gives the same text for every case."""
    without_case = re.sub(r" \((N|B)=[^)]*\)|`[^`]*`", "", feedback)
    return re.sub(r"(?<![\w.])-?\d+(\.\d+)?(e-?\d+)?\b", "#", without_case)[:300]
