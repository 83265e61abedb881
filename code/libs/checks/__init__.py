"""What `python check.py` runs, a module for each part. The oracles are torch's own modules and closed formulas."""
