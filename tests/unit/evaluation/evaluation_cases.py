"""Images that are known by their first pixel, and a model that is a table of logits."""

from typing import Any

import numpy as np
import torch

from cait_dist.data.batches import EvalBatch
from cait_dist.evaluation import Accuracy, count_correct

TOTAL, CLASSES = 37, 7


def batches(ids: list[list[int]], labels: list[int] | None = None) -> list[EvalBatch]:
    """Images whose first pixel is their number; image i has label i % CLASSES unless told otherwise."""
    made = []
    for part in ids:
        images = torch.zeros((len(part), 3, 2, 2), dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.tensor(part)
        theirs = [i % CLASSES if labels is None else labels[i] for i in part]
        made.append(EvalBatch(np.array(part), images, torch.tensor(theirs)))
    return made


def as_one_rank(logits: torch.Tensor, labels: list[int] | None = None, **options: Any) -> Accuracy:
    """Count over all images, in two batches."""
    total = len(logits)
    parts = batches([part for part in (list(range(total // 2)), list(range(total // 2, total))) if part], labels)
    spare = torch.zeros((1, 3, 2, 2), dtype=torch.uint8)
    forward = lambda images: logits[images[:, 0, 0, 0].long()]  # noqa: E731
    return count_correct(forward, parts, 9, total, spare, lambda values: values, **options)
