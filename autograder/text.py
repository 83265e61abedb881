"""Words of strangers, made harmless before anybody reads them."""

import re
import unicodedata

LONGEST = 1000  # characters of one sentence


def printable(words: str, longest: int = LONGEST) -> str:
    """One line without control characters, terminal escapes, surrogates or letters that turn the writing round."""
    words = str(words)[: longest + 1]
    words = "".join(f"\\x{ord(letter):02x}" if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co") else letter
                    for letter in words.replace("\n", " ").replace("\t", " "))
    return words if len(words) <= longest else words[:longest] + " ..."


def markdown(words: str) -> str:
    """Words that a Markdown page shows as they are."""
    return "".join("\\" + letter if letter in "\\`*_[]<>#|" else letter for letter in printable(words))


def general(feedback: str) -> str:
    """The same mistake in the same words, whatever the numbers were: those of the case are cut away."""
    without_case = re.sub(r" \((N|B)=[^)]*\)|`[^`]*`", "", feedback)
    return re.sub(r"(?<![\w.])-?\d+(\.\d+)?(e-?\d+)?\b", "#", without_case)[:300]
