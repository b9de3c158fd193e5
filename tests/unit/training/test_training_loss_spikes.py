"""The rule that says whether a loss has spiked."""

import json
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cait_dist.config.training import RollbackConfig
from cait_dist.training.recovering.loss_spikes import LAG, LossSpikeError, LossSpikes, LossWatch


def rule() -> LossSpikes:
    """High above median + 4 quartile distances of 20 losses; three in a row are a spike."""
    return LossSpikes(spike=4.0, window=20, steps=3)


def seen(spikes: LossSpikes, losses: list[float], first: int = 1) -> LossSpikes:
    for step, loss in enumerate(losses, first):
        spikes.see(step, loss)
    return spikes


def calm(count: int = 20) -> list[float]:
    """Median 2, quartiles 0.1 apart: the bound is 2.4."""
    return ([1.9, 1.95, 2.0, 2.05, 2.1] * count)[:count]


def test_so_many_high_losses_in_a_row_are_a_spike() -> None:
    spikes = seen(rule(), [*calm(), 9.0, 9.0])
    with pytest.raises(
        LossSpikeError, match=r"loss of step 23 is 9 and was usually below 2\.4 before step 21"
    ) as spike:
        spikes.see(23, 9.0)
    assert spike.value.began == 21
    assert spike.value.sound == 19, "the weights after step 20 gave the first high loss"
    assert spike.value.until == 23 + LAG
    assert spike.value.losses == {21: 9.0, 22: 9.0, 23: 9.0}


def test_what_is_just_below_the_bound_or_interrupted_is_none() -> None:
    seen(rule(), [*calm(), *[2.39] * 10])
    seen(rule(), [*calm(), *[9.0, 9.0, 2.0] * 10])


def test_high_losses_do_not_raise_the_bound() -> None:
    spikes = seen(rule(), [*calm(), *[9.0, 9.0, 2.0] * 20])
    with pytest.raises(LossSpikeError):
        seen(spikes, [2.7, 2.7, 2.7], first=100)


def test_none_is_high_before_the_window_is_full() -> None:
    seen(rule(), [*calm(19), 9.0])


def test_losses_that_are_not_finite_count_neither_way() -> None:
    spikes = seen(rule(), [*calm(), 9.0, math.nan, 9.0, math.inf])
    assert spikes.suspicious
    with pytest.raises(LossSpikeError):
        spikes.see(25, 9.0)


def test_a_loss_that_hardly_varies_is_not_ill_for_a_little_more() -> None:
    seen(rule(), [*[2.0] * 20, *[2.07] * 10])
    with pytest.raises(LossSpikeError):
        seen(rule(), [*[2.0] * 20, *[2.09] * 10])


def test_a_loss_at_the_bound_is_not_high() -> None:
    seen(rule(), [0.0] * 40)


def test_all_ranks_losses_are_held_against_the_rule_two_steps_late_and_none_is_outstanding_at_a_checkpoint() -> None:
    # Stands in for two ranks whose losses are equal.
    both: Any = SimpleNamespace(size=2, sum=lambda losses: 2 * losses)
    watch = LossWatch(RollbackConfig(spike=4.0, spike_window=20, spike_steps=3), both)
    told = []
    for step in range(1, 6):
        told.append(mine := watch.due())
        watch.put(step, torch.tensor(float(step)))
        watch.learn(2 * mine)
    assert told == [0.0, 0.0, 1.0, 2.0, 3.0]
    state = watch.state()
    assert state is not None
    assert state["usual"] == [1.0, 2.0, 3.0]
    watch.settle()
    assert watch.state() == {"usual": [1.0, 2.0, 3.0, 4.0, 5.0], "high": []}
    watch.put(6, torch.tensor(6.0))
    watch.put(7, torch.tensor(7.0))
    watch.restore(state)
    assert watch.due() == 0.0, "what was outstanding belongs to steps that are done again"
    assert watch.state() == state


def test_a_noisy_falling_loss_never_spikes() -> None:
    draw = random.Random(1)
    seen(rule(), [7 * math.exp(-step / 2000) + draw.gauss(0, 0.2) for step in range(5000)])


def test_a_rule_that_goes_on_from_what_was_written_down_decides_the_same() -> None:
    draw = random.Random(2)
    losses = [*(2 + draw.gauss(0, 0.1) for _ in range(200)), 9.0, 9.0, 9.0]
    for cut in (5, 30, 201, 202):
        again = rule()
        again.restore(json.loads(json.dumps(seen(rule(), losses[:cut]).state())))
        with pytest.raises(LossSpikeError) as spike:
            seen(again, losses[cut:], first=cut + 1)
        assert spike.value.began == 201
