"""Looking into a trained model: what its branches add, where the class token looks, what LayerScale and heads learned.

The model is watched from outside, by hooks: its own files know nothing of this. Each analysis gives values that can be
read (JSON, npz) and a picture.
"""

from .errors import AnalysisError
from .subject import Subject, subject_of_file, subject_of_run

__all__ = ["AnalysisError", "Subject", "subject_of_file", "subject_of_run"]
