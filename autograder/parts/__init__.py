"""The checks, a module per part of the sheet; importing this package registers them (autograder.checks)."""

from autograder.parts import adversarial, attention, block, convolution, pgd, pgd_calls, vit, vit_blocks, vit_invariants

__all__ = ["adversarial", "attention", "block", "convolution", "pgd", "pgd_calls", "vit", "vit_blocks",
           "vit_invariants"]
