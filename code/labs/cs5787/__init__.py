"""CS 5787 Homework 2: its problems 1 to 4 (problem 0 is derived in writeup/batchnorm.md)."""
