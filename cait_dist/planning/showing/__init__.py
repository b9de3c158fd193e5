"""A plan for its readers: in words, on the terminal, as a picture and as JSON."""
