"""Measuring a model on labelled images, each image exactly once whatever the number of ranks."""

from .accuracy import Accuracy, CountingError, count_correct
from .answers import Answers

__all__ = ["Accuracy", "Answers", "CountingError", "count_correct"]
