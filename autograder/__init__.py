"""The autograder: python -m autograder --help, from the root of the repository."""
