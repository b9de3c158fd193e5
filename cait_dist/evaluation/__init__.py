"""Measuring a model on labelled images, each image exactly once whatever the number of ranks."""

from .accuracy import Accuracy, CountingError, count_correct

__all__ = ["Accuracy", "CountingError", "count_correct"]
