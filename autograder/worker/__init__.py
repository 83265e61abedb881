"""What runs beside a student's code, in a process that decides nothing: takes inputs, calls, sends raw arrays back."""
