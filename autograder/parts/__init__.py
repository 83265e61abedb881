"""The checks, a module per part of the sheet; importing this package registers them (autograder.checks)."""

from autograder.parts import adversarial, attention, block, convolution, pgd, vit

__all__ = ["adversarial", "attention", "block", "convolution", "pgd", "vit"]
