"""cait-dist: train the CaiT vision transformer at scale.

This package imports nothing heavy by itself: torch, DeepSpeed and MLflow are loaded by the parts that need them,
so that ``import cait_dist`` and ``cait --help`` answer at once.
"""

__version__ = "0.1.0"
