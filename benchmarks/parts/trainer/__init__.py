"""The cost of the trainer: the run whose steps alternate with bare ones."""
