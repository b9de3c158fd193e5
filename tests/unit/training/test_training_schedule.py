"""Length and learning rate of a run are pure functions of the step."""

import math

import pytest

from cait_dist.config.optimizer import OptimizerConfig, ScheduleConfig
from cait_dist.training.schedule import Calendar, learning_rate, peak_learning_rate

IMAGENET = Calendar(num_samples=1_281_167, global_batch=1024, epochs=400)
PAPER = OptimizerConfig(lr=5e-4, lr_reference_batch=512)


def test_every_sample_is_seen_the_asked_number_of_times() -> None:
    assert IMAGENET.total_steps == math.ceil(400 * 1_281_167 / 1024)


def test_the_paper_s_peak_for_a_batch_of_1024_is_1e_minus_3() -> None:
    assert peak_learning_rate(PAPER, 1024) == pytest.approx(1e-3)


def test_warm_up_begins_at_warmup_lr_and_rises_linearly_to_the_cosine() -> None:
    schedule = ScheduleConfig(warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5)
    assert learning_rate(0, IMAGENET, PAPER, schedule) == pytest.approx(1e-6)
    middle = learning_rate(round(IMAGENET.steps_in(2.5)), IMAGENET, PAPER, schedule)
    assert middle == pytest.approx((1e-6 + 1e-3) / 2, rel=1e-3)


def test_the_cosine_is_not_shifted_by_the_warm_up_and_ends_at_min_lr() -> None:
    schedule = ScheduleConfig(warmup_epochs=5, min_lr=1e-5)
    half = IMAGENET.total_steps // 2
    assert learning_rate(half, IMAGENET, PAPER, schedule) == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-4)
    assert learning_rate(IMAGENET.total_steps, IMAGENET, PAPER, schedule) == pytest.approx(1e-5)


def test_constant_stays_at_the_peak() -> None:
    schedule = ScheduleConfig(kind="constant", warmup_epochs=0)
    rates = {learning_rate(step, IMAGENET, PAPER, schedule) for step in (0, 7, 10**5)}
    assert rates == {peak_learning_rate(PAPER, 1024)}


@pytest.mark.parametrize("every", [0.5, 1, 3])
@pytest.mark.parametrize("batch", [7, 10, 64])
def test_something_due_every_n_epochs_happens_once_per_period(every: float, batch: int) -> None:
    calendar = Calendar(num_samples=100, global_batch=batch, epochs=30)
    due = [step for step in range(1, calendar.total_steps + 1) if calendar.is_due(step, every)]
    periods = math.floor(calendar.epoch_of(calendar.total_steps) / every + 1e-9)
    assert len(due) == min(periods, calendar.total_steps)
    assert all(calendar.epoch_of(step) >= every for step in due)


def test_never_is_never_due() -> None:
    assert not any(IMAGENET.is_due(step, None) for step in range(5000))
