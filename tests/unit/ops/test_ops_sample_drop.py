"""The coins of stochastic depth; what they do to a branch is tested with the model."""

import math

import pytest
import torch

from cait_dist.ops import draw_keep_mask


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_rates_outside_the_half_open_unit_interval_are_refused(rate):
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


def test_masks_are_drawn_on_the_host_whatever_the_default_device():
    with torch.device("meta"):
        assert draw_keep_mask(2, 3, 0.5).device == torch.device("cpu")
