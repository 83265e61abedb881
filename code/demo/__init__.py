"""The synthetic scene data set, and `make demo`."""
