"""Tables, figures and deliverables of the sheets, a folder for each: `python -m labs` lists them."""
