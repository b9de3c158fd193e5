"""Exact top-1, top-5 and loss over a set of images that is divided over ranks.

Ranks hold slices of different lengths, and no slice is padded. But a model partitioned by ZeRO-3 gathers its
parameters in every forward pass, which all ranks must do together; so a rank that has run out of images repeats one
of its inputs without counting it. At the end the counts are summed and compared with the size of the set.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cait_dist.data.loader import EvalBatch

from .answers import Answers


class CountingError(RuntimeError):
    """Images were lost or counted twice."""


@dataclass(frozen=True)
class Accuracy:
    """Result over a whole set; ``top1`` and ``top5`` in percent, ``loss`` the mean cross-entropy."""

    top1: float
    top5: float
    loss: float
    count: int


@torch.no_grad()
def count_correct(
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[EvalBatch],
    rounds: int,
    total: int,
    spare: torch.Tensor,
    reduce: Callable[[torch.Tensor], torch.Tensor],
    answers: Answers | None = None,
) -> Accuracy:
    """Run the model over this rank's batches and add the counts of all ranks. Collective.

    Args:
        forward: uint8 images (b, 3, H, W) on the host → logits (b, classes)
        batches: this rank's part of the set
        rounds: forward passes every rank makes: those of the rank with the most batches
        total: images in the whole set
        spare: (1, 3, H, W), what a rank that ran out of images feeds the model
        reduce: sums a tensor over all ranks
        answers: filled with what the model says about each image, on every rank

    Raises:
        CountingError: when the ranks together did not count ``total`` images
    """
    sums = torch.zeros(4, dtype=torch.float64)
    for batch in _fill_up(batches, rounds):
        logits = forward(spare if batch is None else batch.images).float()
        if batch is not None:
            sums += _count(logits, batch, answers).cpu()
    top1, top5, loss, count = reduce(sums).tolist()
    if count != total:
        raise CountingError(f"the set holds {total} images, but {count:.0f} were counted")
    if answers is not None:
        answers.merge(reduce)
    return Accuracy(100 * top1 / count, 100 * top5 / count, loss / count, int(count))


def _count(logits: torch.Tensor, batch: EvalBatch, answers: Answers | None) -> torch.Tensor:
    """Sums over the batch, (4,): top-1 correct, top-5 correct, cross-entropy, images."""
    labels = batch.labels.to(logits.device)
    best = logits.topk(min(5, logits.shape[1])).indices
    losses = F.cross_entropy(logits.double(), labels, reduction="none")
    if answers is not None:
        answers.note(batch.ids, labels, best[:, 0], losses)
    correct = best == labels[:, None]
    return torch.stack(
        [correct[:, 0].sum().double(), correct.sum().double(), losses.sum(), losses.new_tensor(len(labels))]
    )


def _fill_up(batches: Iterable[EvalBatch], rounds: int) -> Iterator[EvalBatch | None]:
    made = 0
    for batch in batches:
        made += 1
        yield batch
    for _ in range(rounds - made):
        yield None
