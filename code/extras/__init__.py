"""Beyond the assignment, and not in the starter: attacks, adversarial training, explanations, a convolution."""
