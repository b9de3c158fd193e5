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
) -> Accuracy:
    """Run the model over this rank's batches and add the counts of all ranks. Collective.

    Args:
        forward: uint8 images (b, 3, H, W) on the host → logits (b, classes)
        batches: this rank's part of the set
        rounds: forward passes every rank makes: those of the rank with the most batches
        total: images in the whole set
        spare: (1, 3, H, W), what a rank that ran out of images feeds the model
        reduce: sums a tensor over all ranks

    Raises:
        CountingError: when the ranks together did not count ``total`` images
    """
    sums = torch.zeros(4, dtype=torch.float64)
    for batch in _fill_up(batches, rounds):
        logits = forward(spare if batch is None else batch.images).float()
        if batch is not None:
            sums += _count(logits, batch.labels.to(logits.device)).cpu()
    top1, top5, loss, count = reduce(sums).tolist()
    if count != total:
        raise CountingError(f"the set holds {total} images, but {count:.0f} were counted")
    return Accuracy(100 * top1 / count, 100 * top5 / count, loss / count, int(count))


def _count(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sums over the batch, (4,): top-1 correct, top-5 correct, cross-entropy, images."""
    best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    loss = F.cross_entropy(logits.double(), labels, reduction="sum")
    return torch.stack([best[:, 0].sum().double(), best.sum().double(), loss, loss.new_tensor(len(labels))])


def _fill_up(batches: Iterable[EvalBatch], rounds: int) -> Iterator[EvalBatch | None]:
    made = 0
    for batch in batches:
        made += 1
        yield batch
    for _ in range(rounds - made):
        yield None
