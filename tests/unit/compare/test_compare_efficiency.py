"""What runs cost, from what they recorded."""

import pytest
from compared_runs import BEGAN, a_run, attempt, curve, total

from cait_dist.compare.compare_runs import compare_runs
from cait_dist.compare.comparison import Efficiency
from cait_dist.compare.run_data import RunData


def costs(*runs: RunData, **options: float) -> list[Efficiency]:
    return [row.efficiency for row in compare_runs(runs, **options).rows]  # type: ignore[arg-type]


def test_speed_and_share_of_the_peak_are_those_of_one_device() -> None:
    (cost,) = costs(a_run("a", attempts=(attempt(processes=4),)))
    assert (cost.images_per_second, cost.images_per_second_per_device) == (1000, 250)
    assert cost.mfu == pytest.approx(250 * 6 * 20e6 / 1e12)


def test_the_typical_speed_counts_and_not_the_mean() -> None:
    (cost,) = costs(a_run("a", totals={"perf/images_per_second": total(500.0, typical=900.0)}))
    assert cost.images_per_second == 900


def test_hours_are_those_of_every_device_in_every_attempt_and_money_is_their_price() -> None:
    attempts = (
        attempt(1, processes=2, ended=BEGAN + 1800, outcome="lost"),
        attempt(2, processes=4, began=BEGAN + 7200, ended=BEGAN + 10_800, redone_steps=30, lost_seconds=600.0),
    )
    (cost,) = costs(a_run("a", attempts=attempts), price=2.5)
    assert cost.device_hours == pytest.approx(1 + 4)
    assert cost.cost == pytest.approx(12.5)
    assert cost.wall_seconds == 10_800
    assert (cost.restarts, cost.redone_steps, cost.lost_seconds) == (1, 30, 600.0)


def test_without_a_price_nothing_has_a_cost() -> None:
    assert costs(a_run("a"))[0].cost is None


def test_waiting_is_a_mean_and_memory_the_highest() -> None:
    totals = {"perf/data_wait_share": total(0.2, typical=0.1), "perf/peak_memory_gb": total(3.0, high=5.0)}
    (cost,) = costs(a_run("a", totals=totals))
    assert (cost.data_wait_share, cost.peak_memory_gb) == (0.2, 5.0)


def test_a_target_is_reached_at_the_first_evaluation_that_is_as_good() -> None:
    run = a_run("a", curves={"val/top1": curve(50, 80, 79, 90, seconds=900)})
    (cost,) = costs(run, target=80)
    assert cost.seconds_to_target == 1800
    assert cost.device_hours_to_target == pytest.approx(2 * 1800 / 3600)
    assert costs(run, target=91)[0].seconds_to_target is None
    assert costs(run)[0].seconds_to_target is None


def test_a_loss_reaches_its_target_from_above() -> None:
    run = a_run("a", curves={"val/loss": curve(2.0, 1.0, 0.5, seconds=60)})
    cost = compare_runs([run], metric="val/loss", target=1.0).rows[0].efficiency
    assert cost.seconds_to_target == 120


def test_scaling_is_the_speed_per_device_against_the_run_on_the_fewest() -> None:
    runs = [
        a_run("one", attempts=(attempt(processes=1),), totals={"perf/images_per_second": total(100.0)}),
        a_run("four", attempts=(attempt(processes=4),), totals={"perf/images_per_second": total(320.0)}),
        a_run("other", settings={"model.depth": 9}, attempts=(attempt(processes=8),)),
    ]
    assert [cost.scaling for cost in costs(*runs)] == [1.0, pytest.approx(0.8), None]


def test_scaling_compares_neither_other_hardware_nor_equal_numbers_of_devices() -> None:
    one, two = attempt(processes=1), attempt(processes=2)
    hardware = costs(a_run("a", attempts=(one,)), a_run("b", attempts=(two,), device="H100"))
    assert [cost.scaling for cost in hardware] == [None, None]
    assert [cost.scaling for cost in costs(a_run("a"), a_run("b"))] == [None, None]


def test_the_devices_are_those_of_the_attempt_that_did_the_most() -> None:
    attempts = (
        attempt(1, processes=8, last_step=250, outcome="lost"),
        attempt(2, processes=1, first_step=250, last_step=300),
    )
    assert costs(a_run("a", attempts=attempts))[0].images_per_second_per_device == 125


def test_a_run_that_tells_nothing_costs_nothing_known() -> None:
    run = a_run("a", attempts=(), macs=None)
    silent = RunData(run.name, run.source, run.config, run.facts, (), run.curves, {})
    assert costs(silent, price=1, target=1) == [Efficiency()]
