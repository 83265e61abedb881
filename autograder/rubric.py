"""The points. Sheet 003: 12 and 2 bonus points, of which attention, block and SimpleViT share 3.2's four.

A part's points are set here; its checks share them in proportion to their weights.
"""

PARTS = {  # name: (points, title), in the order of the sheet
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
}
RULE_PENALTY = 0.05  # of the regular points, for each rule of section 5 that is broken

REGULAR = sum(points for name, (points, _) in {**PARTS, **MANUAL}.items() if name not in BONUS)
GIVEN_UNTIL_2023 = {"attention", "block"}  # helper code in custom_blocks.py in 2022 and 2023
