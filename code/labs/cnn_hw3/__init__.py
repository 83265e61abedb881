"""CNN Homework 3: its six deliverables."""
