"""What rank 0 says and writes down of a run, and what it prints where printing must not end it."""
