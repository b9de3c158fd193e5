"""Checkpoints: which there are, how they are written while training goes on, and what is made of their weights."""
