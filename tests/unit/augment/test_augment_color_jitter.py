"""Colour jitter: its law against torchvision's, its pixels against torchvision's on Pillow images."""

from itertools import permutations

import numpy as np
import pytest
import torch
from augment_reference import as_batch, photos, through_pillow, timm_data
from pydantic import ValidationError

from cait_dist.augment.color_jitter import COLOR_JITTER_DRAWS, color_jitter_plan
from cait_dist.augment.operations import Kind, apply_operations
from cait_dist.config.augment import AugmentConfig
from cait_dist.data.randomness import Stream, uniform

AMOUNT = 0.4


def draws(count: int) -> np.ndarray:
    return uniform(2, Stream.COLOR_JITTER, np.arange(count), COLOR_JITTER_DRAWS)


@pytest.mark.parametrize("amount", [0.4, 1.5])
def test_pixels_are_exactly_those_of_torchvision(amount: float) -> None:
    timm_data("mixup")  # lets torchvision be imported next to a CPU build of torch
    functional = pytest.importorskip("torchvision.transforms.functional")
    adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    batch = as_batch(photos(40, 56) * 12)
    uniforms = draws(len(batch))
    found = apply_operations(batch, color_jitter_plan(uniforms, amount), torch.zeros(3, dtype=torch.uint8))
    low = max(0.0, 1 - amount)
    for i, row in enumerate(uniforms):
        expected = batch[i : i + 1]
        for which in list(permutations(range(3)))[int(row[3] * 6)]:
            factor = low + row[which] * (1 + amount - low)
            expected = through_pillow(lambda image, f=adjust[which], by=factor: f(image, by), expected)
        assert torch.equal(found[i : i + 1], expected)


def test_factors_and_orders_are_distributed_as_torchvisions() -> None:
    stats = pytest.importorskip("scipy.stats")
    timm_data("mixup")
    jitter = pytest.importorskip("torchvision.transforms").ColorJitter(AMOUNT, AMOUNT, AMOUNT)
    torch.manual_seed(0)
    drawn = [
        jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)[:4] for _ in range(4000)
    ]
    plan = color_jitter_plan(draws(4000), AMOUNT)
    for kind, column in ((Kind.CONTRAST, 2), (Kind.COLOR, 3)):
        ours = np.concatenate([g.arguments[:, 0].numpy() for layer in plan for g in layer if g.kind is kind])
        assert stats.ks_2samp(ours, [row[column] for row in drawn]).pvalue > 1e-3
    first = [sum(len(g.rows) for g in plan[0] if g.kind is kind) for kind in (Kind.TABLE, Kind.CONTRAST, Kind.COLOR)]
    theirs = np.bincount([next(int(n) for n in row[0] if n < 3) for row in drawn], minlength=3)
    assert stats.chi2_contingency([first, theirs]).pvalue > 1e-3


def test_every_sample_undergoes_all_three_once() -> None:
    plan = color_jitter_plan(draws(200), AMOUNT)
    for kind in (Kind.TABLE, Kind.CONTRAST, Kind.COLOR):
        rows = np.concatenate([g.rows.numpy() for layer in plan for g in layer if g.kind is kind])
        assert sorted(rows) == list(range(200))
    assert color_jitter_plan(draws(200), 0.0) == []


def test_it_excludes_randaugment() -> None:
    with pytest.raises(ValidationError, match="set one of them to 0"):
        AugmentConfig(color_jitter=0.4, rand_layers=2)
