"""Measuring weights: which sets, which checkpoints, in which precision, and what is written down about it."""
