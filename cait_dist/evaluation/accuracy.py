"""Exact top-1, top-5 and loss over a set of images that is divided over ranks.

Ranks hold slices of different lengths, and no slice is padded. But a model partitioned by ZeRO-3 gathers its
parameters in every forward pass, which all ranks must do together; so a rank that has run out of images repeats one
of its inputs without counting it. At the end the counts are summed and compared with the size of the set.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from cait_dist.data.loader import EvalBatch

from .answers import Answers
from .judges import Judge, OneLabel, Verdict


class CountingError(RuntimeError):
    """Images were lost or counted twice."""


@dataclass(frozen=True)
class Accuracy:
    """Result over a whole set.

    Attributes:
        top1: in percent.
        top5: in percent; None where it is not defined, as with several labels per image.
        loss: mean over the images that count.
        count: images that count.
        excluded: images that do not, for want of a label.
    """

    top1: float
    top5: float | None
    loss: float
    count: int
    excluded: int = 0


@torch.no_grad()
def count_correct(
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[EvalBatch],
    rounds: int,
    total: int,
    spare: torch.Tensor,
    reduce: Callable[[torch.Tensor], torch.Tensor],
    answers: Answers | None = None,
    judge: Judge | None = None,
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
        judge: says what is right; None for the labels of the split

    Raises:
        CountingError: when the ranks together did not see ``total`` images
    """
    judge = judge or OneLabel()
    sums = torch.zeros(6, dtype=torch.float64)
    for batch in _fill_up(batches, rounds):
        logits = forward(spare if batch is None else batch.images).float()
        if batch is not None:
            verdict = judge(logits, batch)
            sums += _sums(verdict).cpu()
            if answers is not None:
                answers.note(batch.ids, verdict)
    top1, top5, judged_five, loss, count, excluded = reduce(sums).tolist()
    if count + excluded != total:
        apart = f", {excluded:.0f} of them without a label" if excluded else ""
        raise CountingError(f"the set holds {total} images, but {count + excluded:.0f} were counted{apart}")
    if answers is not None:
        answers.merge(reduce)
    return Accuracy(
        100 * top1 / count, 100 * top5 / count if judged_five else None, loss / count, int(count), int(excluded)
    )


def _sums(verdict: Verdict) -> torch.Tensor:
    """Over the batch, (6,): right, right among five, judged so, losses, images that count and that do not."""
    counted = verdict.counted
    five = verdict.among_five
    none = counted.new_zeros(()).double()
    return torch.stack(
        [
            (verdict.right & counted).sum().double(),
            none if five is None else (five & counted).sum().double(),
            none if five is None else counted.sum().double(),
            verdict.losses[counted].sum(),
            counted.sum().double(),
            (~counted).sum().double(),
        ]
    )


def _fill_up(batches: Iterable[EvalBatch], rounds: int) -> Iterator[EvalBatch | None]:
    made = 0
    for batch in batches:
        made += 1
        yield batch
    for _ in range(rounds - made):
        yield None
