"""Beyond the sheet, and not in the starter: attack toolkit, adversarial training, self-check, explanations."""
