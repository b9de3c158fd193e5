"""ReaL and subsets of the classes, against cases that are worked out by hand; counts that are exact over any ranks."""

import threading
from collections.abc import Callable
from math import log

import pytest
import torch
from evaluation_cases import CLASSES, TOTAL, as_one_rank, batches

from cait_dist.data.loader import eval_slice
from cait_dist.evaluation import Accuracy, Answers, CountingError, Judge, OneLabel, SeveralLabels, count_correct

# Probabilities of four images over four classes.
PROBABILITIES = [[0.5, 0.2, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1], [0.25, 0.3, 0.05, 0.4], [0.7, 0.1, 0.1, 0.1]]


def logits() -> torch.Tensor:
    return torch.tensor(PROBABILITIES).log() + torch.tensor([[3.0], [-1.0], [0.0], [7.0]])  # shifts change nothing


def test_real_counts_any_label_and_leaves_out_images_without_one() -> None:
    real = [[2, 0], [0, 3], [], [0]]
    found = as_one_rank(logits(), labels=[1, 1, 3, 0], judge=SeveralLabels(real))
    # Right: the first (0 is a label, not the first one) and the last; wrong: the second, whatever the split's label.
    assert (found.count, found.excluded) == (3, 1)
    assert found.top1 == pytest.approx(100 * 2 / 3)
    assert found.top5 is None
    assert found.loss == pytest.approx(-(log(0.5 + 0.2) + log(0.1 + 0.1) + log(0.7)) / 3, rel=1e-6)


def test_real_with_one_label_each_is_the_ordinary_measure() -> None:
    labels = [0, 2, 3, 1]
    real = as_one_rank(logits(), labels=[3, 3, 3, 3], judge=SeveralLabels([[label] for label in labels]))
    ordinary = as_one_rank(logits(), labels=labels)
    assert (real.top1, real.count, real.excluded) == (ordinary.top1, 4, 0) == (50.0, 4, 0)
    assert real.loss == pytest.approx(ordinary.loss, rel=1e-12)


def test_a_subset_decides_among_its_outputs_only_and_in_the_sets_numbering() -> None:
    # Class 0 of the set is output 3, class 1 is output 2, class 2 is output 0.
    judge = OneLabel([3, 2, 0])
    answers = Answers(4)
    found = as_one_rank(logits(), labels=[2, 1, 2, 0], judge=judge, answers=answers)
    # Without output 1 the second image is taken for output 2, class 1: right. The third for output 3, class 0: wrong.
    assert answers.table[:, 1].tolist() == [2, 1, 0, 2]
    assert (found.top1, found.count, found.excluded) == (50.0, 4, 0)
    assert found.top5 == 100.0
    losses = [-log(0.5 / 0.8), -log(0.2 / 0.4), -log(0.25 / 0.7), -log(0.1 / 0.9)]
    assert found.loss == pytest.approx(sum(losses) / 4, rel=1e-6)


def test_top5_asks_for_five() -> None:
    scores = torch.arange(7.0).repeat(7, 1)  # class 6 first, then 5, …
    found = as_one_rank(scores, labels=list(range(7)))
    assert (found.top1, found.top5) == (pytest.approx(100 / 7), pytest.approx(500 / 7))


def on_ranks(size: int, work: Callable[[int, Callable[[torch.Tensor], torch.Tensor]], Accuracy]) -> list[Accuracy]:
    """Let threads be ranks; each waits in a sum until all have come, as in a collective."""
    barrier, given = threading.Barrier(size, timeout=20), dict[int, torch.Tensor]()
    results = dict[int, Accuracy]()

    def rank(number: int) -> None:
        def add(values: torch.Tensor) -> torch.Tensor:
            given[number] = values
            barrier.wait()
            total = sum(given[other] for other in range(size))
            barrier.wait()
            assert isinstance(total, torch.Tensor)
            return total

        results[number] = work(number, add)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(size)]


JUDGES: dict[str, Judge] = {
    "split": OneLabel(),
    "real": SeveralLabels([[] if i % 5 == 0 else [i % CLASSES, (i + 3) % CLASSES][: 1 + i % 2] for i in range(TOTAL)]),
    "subset": OneLabel([6, 4, 5, 3, 2, 0, 1]),
}


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_counts_are_the_same_over_any_number_of_ranks(name: str, size: int) -> None:
    scores = torch.randn((TOTAL, CLASSES), generator=torch.Generator().manual_seed(3))
    alone, tables = Answers(TOTAL), [Answers(TOTAL) for _ in range(size)]
    expected = as_one_rank(scores, judge=JUDGES[name], answers=alone)

    def work(rank: int, add: Callable[[torch.Tensor], torch.Tensor]) -> Accuracy:
        mine = list(eval_slice(TOTAL, rank, size))
        parts = [mine[start : start + 4] for start in range(0, len(mine), 4)]
        spare = torch.zeros((1, 3, 2, 2), dtype=torch.uint8)
        forward = lambda images: scores[images[:, 0, 0, 0].long()]  # noqa: E731
        return count_correct(forward, batches(parts), 10, TOTAL, spare, add, tables[rank], JUDGES[name])

    for found, table in zip(on_ranks(size, work), tables, strict=True):
        assert (found.top1, found.top5, found.count) == (expected.top1, expected.top5, expected.count)
        assert found.excluded == expected.excluded == (8 if name == "real" else 0)
        assert found.loss == pytest.approx(expected.loss, rel=1e-12)
        torch.testing.assert_close(table.table, alone.table, rtol=0, atol=0)


def test_lost_images_are_told_whether_they_have_labels_or_not() -> None:
    judge = SeveralLabels([[], [0], [1], [2], [3]])
    scores = torch.randn(5, 4)
    spare = torch.zeros((1, 3, 2, 2), dtype=torch.uint8)
    with pytest.raises(CountingError, match=r"holds 5 images, but 3 were counted, 1 of them without a label"):
        count_correct(
            lambda x: scores[x[:, 0, 0, 0].long()], batches([[0, 1, 2]]), 1, 5, spare, lambda v: v, judge=judge
        )
