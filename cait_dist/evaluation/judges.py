"""Who says whether an answer is right: the split's labels, ReaL's several labels, or a choice among few of the outputs.

A judge sees the logits of some images and gives a verdict about each. It knows the whole set, and nothing of ranks:
images are known by their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from cait_dist.data.batches import EvalBatch


@dataclass(frozen=True)
class Verdict:
    """About the images of a batch; tensors of shape (b,), on the device of the logits.

    Attributes:
        counted: whether the image counts at all.
        right: whether the most likely class is right.
        among_five: whether a right class is among the five most likely; None where that is not defined.
        losses: float64.
        labels: a right class: the predicted one if it is right.
        predicted: the most likely class, in the numbering of the labels.
    """

    counted: torch.Tensor
    right: torch.Tensor
    among_five: torch.Tensor | None
    losses: torch.Tensor
    labels: torch.Tensor
    predicted: torch.Tensor


class Judge(Protocol):
    """Judges logits."""

    def __call__(self, logits: torch.Tensor, batch: EvalBatch) -> Verdict:
        """The verdict about a batch.

        Args:
            logits: (b, outputs) float32
            batch: the images they belong to
        """


class OneLabel:
    """The label of the split is the truth, and the loss is the cross-entropy.

    Args:
        outputs: of the model, that are the set's classes, in their order; None where all outputs are in question, and
            class i is output i. The others are not looked at, as in the evaluation of ImageNet-A and ImageNet-R, which
            hold 200 of the 1,000 classes.
    """

    def __init__(self, outputs: Sequence[int] | None = None) -> None:
        self._outputs = None if outputs is None else torch.tensor(outputs)

    def __call__(self, logits: torch.Tensor, batch: EvalBatch) -> Verdict:
        """See `Judge`."""
        if self._outputs is not None:
            logits = logits[:, self._outputs.to(logits.device)]
        labels = batch.labels.to(logits.device)
        best = logits.topk(min(5, logits.shape[1])).indices
        correct = best == labels[:, None]
        return Verdict(
            counted=torch.ones_like(labels, dtype=torch.bool),
            right=correct[:, 0],
            among_five=correct.any(1),
            losses=F.cross_entropy(logits.double(), labels, reduction="none"),
            labels=labels,
            predicted=best[:, 0],
        )


class SeveralLabels:
    """Any of an image's labels is right, and an image without a label is not counted (ReaL, Beyer et al. 2020).

    The loss is minus the logarithm of the probability that the model gives to the image's labels together: with one
    label, the cross-entropy.

    Args:
        labels: entry i belongs to the image with id i
    """

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        self._labels = labels

    def __call__(self, logits: torch.Tensor, batch: EvalBatch) -> Verdict:
        """See `Judge`."""
        theirs = [self._labels[int(image)] for image in batch.ids]
        true = torch.zeros(logits.shape, dtype=torch.bool)
        for row, labels in enumerate(theirs):
            true[row, list(labels)] = True
        true = true.to(logits.device)
        predicted = logits.argmax(1)
        right = true.gather(1, predicted[:, None])[:, 0]
        counted = true.any(1)
        wide = logits.double()
        losses = wide.logsumexp(1) - wide.masked_fill(~true, -torch.inf).logsumexp(1)
        first = torch.tensor([labels[0] if labels else -1 for labels in theirs], device=logits.device)
        return Verdict(
            counted=counted,
            right=right,
            among_five=None,
            losses=torch.where(counted, losses, 0.0),
            labels=torch.where(right, predicted, first),
            predicted=predicted,
        )
