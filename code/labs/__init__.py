"""Tables, figures and deliverables, a package for each assignment: `python -m labs` lists them."""
