"""What was said about each image is kept, and agrees with the counts."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_cases import CLASSES, TOTAL, as_one_rank, batches

from cait_dist.evaluation import Answers, SeveralLabels, count_correct


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn((TOTAL, CLASSES), generator=torch.Generator().manual_seed(1))


def test_the_answers_are_those_that_were_counted(logits: torch.Tensor, tmp_path: Path) -> None:
    answers = Answers(TOTAL)
    as_one_rank(logits, answers=answers)
    answers.save(tmp_path / "predictions" / "val-raw.npz", 12, "abc", {"crop_ratio": 0.875, "precision": "fp32"})
    with np.load(tmp_path / "predictions" / "val-raw.npz") as kept:
        assert (int(kept["step"]), str(kept["digest"])) == (12, "abc")
        assert (float(kept["crop_ratio"]), str(kept["precision"])) == (0.875, "fp32")
        labels = torch.arange(TOTAL) % CLASSES
        assert kept["sample"].tolist() == list(range(TOTAL))
        assert kept["label"].tolist() == labels.tolist()
        assert kept["predicted"].tolist() == logits.argmax(1).tolist()
        np.testing.assert_allclose(kept["loss"], F.cross_entropy(logits, labels, reduction="none"), rtol=1e-6)
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["val-raw.npz"]


def test_images_that_do_not_count_are_left_out_and_right_is_where_label_and_prediction_agree(
    logits: torch.Tensor, tmp_path: Path
) -> None:
    best = logits.argmax(1).tolist()
    # By turns: no label, the prediction and another, two others.
    kinds = [[], [1, 0], [2, 1]]
    real = [[(b + shift) % CLASSES for shift in kinds[i % 3]] for i, b in enumerate(best)]
    answers = Answers(TOTAL)
    accuracy = as_one_rank(logits, answers=answers, judge=SeveralLabels(real))
    answers.save(tmp_path / "a.npz", 1, "d")
    with np.load(tmp_path / "a.npz") as kept:
        assert kept["sample"].tolist() == [i for i in range(TOTAL) if i % 3]
        right = kept["label"] == kept["predicted"]
        assert right.tolist() == [i % 3 == 1 for i in range(TOTAL) if i % 3]
        assert accuracy.top1 == pytest.approx(100 * right.mean())
        assert all(label in real[i] for i, label in zip(kept["sample"], kept["label"], strict=True))


def test_ranks_bring_their_parts_together(logits: torch.Tensor) -> None:
    whole, mine, theirs = Answers(TOTAL), Answers(TOTAL), Answers(TOTAL)
    as_one_rank(logits, answers=whole)
    spare = torch.zeros((1, 3, 2, 2), dtype=torch.uint8)
    for part, answers, reduce in (
        (list(range(20, 37)), theirs, lambda v: v if v.dim() == 2 else v + torch.tensor([0, 0, 0, 0, 20.0, 0])),
        (
            list(range(20)),
            mine,
            lambda v: v + theirs.table if v.dim() == 2 else v + torch.tensor([0, 0, 0, 0, 17.0, 0]),
        ),
    ):
        # What a sum over ranks does, with the other rank's values at hand.
        count_correct(lambda x: logits[x[:, 0, 0, 0].long()], batches([part]), 3, TOTAL, spare, reduce, answers)
    torch.testing.assert_close(mine.table, whole.table)
