"""Tables and figures of the sheets, a file for each: python -m labs.NAME --help, from the folder code/."""
