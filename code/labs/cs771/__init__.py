"""CS 771 Homework 2: the tables and figures of its reports."""
