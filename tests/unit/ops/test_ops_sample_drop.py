"""Stochastic depth with an explicit mask."""

import math

import pytest
import torch

from cait_dist.ops import draw_keep_mask, drop_path


def test_kept_samples_are_divided_and_dropped_ones_are_zero():
    x = torch.randn(4, 3, 2)
    keep = torch.tensor([True, False, True, False])
    y = drop_path(x, keep, 0.2)
    assert torch.equal(y[~keep], torch.zeros(2, 3, 2))
    torch.testing.assert_close(y[keep], x[keep] / 0.8)


@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 3, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_rank_and_dtype(shape, dtype):
    x = torch.ones(shape, dtype=dtype)
    y = drop_path(x, torch.ones(4, dtype=torch.bool), 0.5)
    assert y.dtype == dtype
    assert torch.equal(y, 2 * x)


@pytest.mark.parametrize("keep", [torch.ones(4), torch.ones(3, dtype=torch.bool), torch.ones(4, 1, dtype=torch.bool)])
def test_only_a_boolean_mask_over_the_samples_is_taken(keep):
    with pytest.raises(ValueError, match=r"boolean mask of shape \(4,\)"):
        drop_path(torch.ones(4, 2), keep, 0.1)


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_rates_outside_the_half_open_unit_interval_are_refused(rate):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        drop_path(torch.ones(1), torch.ones(1, dtype=torch.bool), rate)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        draw_keep_mask(1, 1, rate)


def test_masks_are_independent_coins_of_the_right_probability():
    rate, n = 0.3, 20_000
    keep = draw_keep_mask(n, 3, rate, generator=torch.Generator().manual_seed(0))
    assert keep.shape == (n, 3, 2)
    coins = keep.flatten(1).double()
    four_sigma = 4 * math.sqrt(rate * (1 - rate) / n)
    assert (coins.mean(0) - (1 - rate)).abs().max() < four_sigma
    correlation = torch.corrcoef(coins.T) - torch.eye(6, dtype=torch.float64)
    assert correlation.abs().max() < 4 / math.sqrt(n)


def test_rate_zero_keeps_everything_and_the_generator_decides():
    assert draw_keep_mask(8, 4, 0.0).all()
    a, b = (draw_keep_mask(8, 4, 0.5, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
