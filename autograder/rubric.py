"""The points, and what differs between the years of the sheet. 12 points and 2 bonus points in each.

A part's points are set here; its checks share them in proportion to their weights.
"""

from typing import NamedTuple

PARTS = {  # graded automatically: name -> (points in 2025, title), in the order of the sheet
    "convolution": (2.0, "3.1.1 convolution from unfold and fold"),
    "attention": (2.0, "3.2.1 multi-head self-attention"),
    "block": (1.0, "3.2.1 transformer block and windows"),
    "vit": (1.0, "3.2.2 SimpleViT"),
    "pgd": (2.0, "3.3 PGD attack"),
    "adversarial": (2.0, "3.3 adversarial training (bonus)"),
}
BONUS = {"adversarial"}
MANUAL = {  # graded by hand, from the writeup
    "simplenet": (1.0, "3.1.2 SimpleNet trained: curves and evaluation"),
    "own-convolution": (1.0, "3.1.2 training with your own convolution: memory, speed, loss"),
    "own-network": (1.0, "3.1.2 your own network: design, training, results"),
    "resnet18": (1.0, "3.1.2 fine-tuned ResNet18: comparison"),
    "saliency": (0.0, "saliency maps: implementation and examples"),
}
WRITEUP = {  # to be read by hand, without points of their own: they are in those of the part
    "vit-writeup": "3.2.2 writeup: design of the transformer, training scheme, results",
    "pgd-writeup": "3.3 writeup: implementation of PGD, accuracy drop, adversarial samples",
    "adv-writeup": "3.3 writeup (bonus): design of the experiment, results",
}
RULE_PENALTY = 0.05  # of the regular points, for each broken rule of section 5 "after the first"

REGULAR = sum(points for name, (points, _) in {**PARTS, **MANUAL}.items() if name not in BONUS)


class Year(NamedTuple):
    """How a year's sheet differs from that of 2025."""

    points: dict[str, float]  # of PARTS and MANUAL; 0: not on this sheet
    given: frozenset[str]  # solution blocks that students get, by the tags of code/


# The documents have only the sheet of 2024. That of 2022 and 2023 is inferred: attention and block were helper code,
# and saliency maps were a section of the reports, whose two points self-attention has since 2024.
UNTIL_2023 = Year({"attention": 0.0, "block": 0.0, "vit": 2.0, "saliency": 2.0}, frozenset({"attention", "block"}))
YEARS = {2022: UNTIL_2023, 2023: UNTIL_2023, 2024: Year({"block": 0.0, "vit": 2.0}, frozenset({"block", "bias"})),
         2025: Year({}, frozenset())}


def of_year(year: int) -> Year:
    """The differences of `year`; earlier years are taken for 2022."""
    return YEARS[max(year, min(YEARS))]


def parts(year: int) -> dict[str, tuple[float, str]]:
    """The automatically graded parts on the sheet of `year`: name -> (points, title)."""
    return _on_the_sheet(PARTS, year)


def manual(year: int) -> dict[str, tuple[float, str]]:
    """What staff grade by hand; the items of WRITEUP have 0 points."""
    return _on_the_sheet(MANUAL, year) | {name: (0.0, title) for name, title in WRITEUP.items()}


def _on_the_sheet(table: dict[str, tuple[float, str]], year: int) -> dict[str, tuple[float, str]]:
    changed = of_year(year).points
    found = {name: (changed.get(name, points), title) for name, (points, title) in table.items()}
    return {name: (points, title) for name, (points, title) in found.items() if points}


def penalty(violations: int) -> float:
    """Points off for that many broken rules: "every time after the first", so the first one is free."""
    return round(max(0, violations - 1) * RULE_PENALTY * REGULAR, 2)
