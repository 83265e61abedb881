"""What `main.py` is made of. `docs/architecture.md` shows the order in which a run passes through these files."""
