"""What a solution does, as numbers: run in processes of its own, with torch and without the grader's checks."""
