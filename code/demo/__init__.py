"""The embedded data set of drawn scenes, and what `make demo` runs."""
