"""The input of a run, measured on the user's own data: its parts, what limits it, and whom it can feed."""
