"""Measuring a model on labelled images, each image exactly once whatever the number of ranks."""

from .accuracy import Accuracy, CountingError, count_correct
from .answers import Answers
from .judges import Judge, OneLabel, SeveralLabels, Verdict

__all__ = ["Accuracy", "Answers", "CountingError", "Judge", "OneLabel", "SeveralLabels", "Verdict", "count_correct"]
