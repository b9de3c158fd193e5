"""What was said about each image is kept, and agrees with the counts."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cait_dist.data.batches import EvalBatch
from cait_dist.evaluation import Answers, count_correct

TOTAL, CLASSES = 37, 7


def batches(ids: list[list[int]]) -> list[EvalBatch]:
    """Images whose first pixel is their number."""
    made = []
    for part in ids:
        images = torch.zeros((len(part), 3, 2, 2), dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.tensor(part)
        made.append(EvalBatch(np.array(part), images, torch.tensor(part) % CLASSES))
    return made


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn((TOTAL, CLASSES), generator=torch.Generator().manual_seed(1))


def answers_of(logits: torch.Tensor, ids: list[list[int]], reduce=lambda values: values, total: int = TOTAL) -> Answers:
    answers = Answers(total)
    spare = torch.zeros((1, 3, 2, 2), dtype=torch.uint8)
    count_correct(lambda images: logits[images[:, 0, 0, 0].long()], batches(ids), 9, total, spare, reduce, answers)
    return answers


def test_the_answers_are_those_that_were_counted(logits: torch.Tensor, tmp_path: Path) -> None:
    ids = [list(range(0, 20)), list(range(20, 37))]
    answers_of(logits, ids).save(tmp_path / "predictions" / "val-raw.npz", 12, "abc")
    with np.load(tmp_path / "predictions" / "val-raw.npz") as kept:
        assert (int(kept["step"]), str(kept["digest"])) == (12, "abc")
        labels = torch.arange(TOTAL) % CLASSES
        assert kept["sample"].tolist() == list(range(TOTAL))
        assert kept["label"].tolist() == labels.tolist()
        assert kept["predicted"].tolist() == logits.argmax(1).tolist()
        np.testing.assert_allclose(kept["loss"], F.cross_entropy(logits, labels, reduction="none"), rtol=1e-6)
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["val-raw.npz"]


def test_ranks_bring_their_parts_together(logits: torch.Tensor) -> None:
    # What a sum over ranks does, with the other rank's values at hand.
    other = answers_of(
        logits, [list(range(20, 37))], lambda v: v if v.dim() == 2 else v + torch.tensor([0, 0, 0, 20.0])
    )
    both = answers_of(
        logits,
        [list(range(0, 20))],
        lambda v: v + other.table if v.dim() == 2 else v + torch.tensor([0, 0, 0, 17.0]),
    )
    whole = answers_of(logits, [list(range(TOTAL))])
    torch.testing.assert_close(both.table, whole.table)
