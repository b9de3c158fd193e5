"""From runs to a comparison: which metric decides, what the others are held against, and that hundreds take no time."""

import time
from dataclasses import replace

import numpy as np
import pytest
from compared_runs import a_run, curve, seeds, total, two_settings

from cait_dist.compare.compare_runs import compare_runs
from cait_dist.compare.errors import CompareError
from cait_dist.compare.measures import higher_is_better
from cait_dist.compare.run_data import Curve, RunData
from cait_dist.errors import is_for_user


def only(run: RunData, **curves: Curve) -> RunData:
    return replace(run, curves={name.replace("__", "/"): value for name, value in curves.items()})


def test_top1_of_the_first_set_and_the_raw_weights_decides() -> None:
    sets = {"evaluation.sets": '[{"name": "v2"}, {"name": "val"}]'}
    more = {"val_ema/top1": curve(99.0), "v2/top1": curve(50.0), "train/loss": curve(0.1)}
    assert compare_runs([a_run("a", curves=more)]).metric == "val/top1"
    assert compare_runs([a_run("a", curves=more, settings=sets)]).metric == "v2/top1"


def test_the_metric_that_most_runs_have_decides() -> None:
    runs = [a_run("a"), *(only(a_run(f"b{i}", seed=i), other__top1=curve(1.0)) for i in range(2))]
    assert compare_runs(runs).metric == "other/top1"


def test_a_set_whose_name_ends_like_the_average_is_no_average() -> None:
    sets = {"evaluation.sets": '[{"name": "val_ema"}]'}
    run = only(a_run("a", settings=sets), val_ema__top1=curve(5.0))
    assert compare_runs([run]).metric == "val_ema/top1"


def test_without_accuracies_a_loss_decides() -> None:
    assert compare_runs([only(a_run("a"), val__loss=curve(1.0), train__loss=curve(1.0))]).metric == "val/loss"
    assert compare_runs([only(a_run("a"), train__loss=curve(1.0))]).metric == "train/loss"
    assert not compare_runs([only(a_run("a"), train__loss=curve(1.0))]).higher_is_better


def test_accuracy_and_speed_are_better_when_higher_and_losses_and_times_when_lower() -> None:
    better = {name: higher_is_better(name) for name in ("val/top1", "val_ema/top5", "perf/images_per_second", "v/loss")}
    assert better == {"val/top1": True, "val_ema/top5": True, "perf/images_per_second": True, "v/loss": False}
    assert not higher_is_better("perf/step_seconds")
    assert not higher_is_better("perf/data_wait_share")


def test_an_unknown_metric_is_refused_with_the_nearest_one_and_a_list() -> None:
    with pytest.raises(
        CompareError, match=r"unknown metric 'val/top' — did you mean 'val/top1'\? \(metrics: val/loss, "
    ):
        compare_runs([a_run("a")], metric="val/top")


def test_runs_without_any_result_are_refused() -> None:
    with pytest.raises(CompareError, match="none of these runs holds a result yet"):
        compare_runs([only(a_run("a"))])


def test_no_run_and_two_runs_of_one_name_are_refused() -> None:
    with pytest.raises(CompareError, match="there is no run to compare"):
        compare_runs([])
    with pytest.raises(CompareError, match="two runs are called 'a'"):
        compare_runs([a_run("a"), a_run("a", 91.0)])


def test_what_is_refused_is_told_to_the_user_without_a_traceback() -> None:
    with pytest.raises(CompareError) as refused:
        compare_runs([])
    assert is_for_user(refused.value)


def test_the_first_run_is_the_baseline_unless_another_is_named_by_run_or_by_label() -> None:
    runs = two_settings()
    assert compare_runs(runs).baseline == "lr=0.001"
    assert compare_runs(runs[::-1]).baseline == "lr=0.0001"
    assert compare_runs(runs, baseline="low-seed_2").baseline == "lr=0.0001"
    assert compare_runs(runs, baseline="lr=0.0001").baseline == "lr=0.0001"


def test_an_unknown_baseline_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(
        CompareError, match=r"unknown baseline 'lr=0.01' — did you mean 'lr=0.001' or 'lr=0.0001'\?.*low-seed_2"
    ):
        compare_runs(two_settings(), baseline="lr=0.01")


def test_a_row_holds_last_and_best_of_what_was_measured_and_how_far_the_run_came() -> None:
    (row,) = compare_runs([a_run("a", [80.0, 92.0, 90.0])]).rows
    assert (row.last["val/top1"], row.best["val/top1"]) == (90.0, 92.0)
    assert row.best["val/loss"] == pytest.approx(1.08)
    assert (row.outcome, row.steps) == ("finished", 300)
    assert row.epochs == pytest.approx(300 * 64 / 1437)
    assert row.last["perf/images_per_second"] == 1000.0


def test_best_passes_over_what_is_no_number() -> None:
    (row,) = compare_runs([a_run("a", [80.0, float("inf"), 70.0])]).rows
    assert row.best["val/top1"] == 80.0


def test_of_a_speed_the_typical_value_stands_for_the_run() -> None:
    speeds = {"perf/images_per_second": curve(5.0, 900.0, 1.0)}
    run = a_run("a", curves=speeds, totals={"perf/images_per_second": total(400.0, typical=880.0)})
    assert compare_runs([run], metric="perf/images_per_second").groups[0].mean == 880.0


def test_the_papers_rows_are_there_if_asked_for() -> None:
    assert compare_runs([a_run("a")]).paper == ()
    assert len(compare_runs([a_run("a")], paper=True).paper) == 23


def test_a_single_run_is_enough() -> None:
    found = compare_runs([a_run("a", 90.0)])
    assert [group.label for group in found.groups] == ["a"]
    assert (found.tests, found.differences) == ((), ())


def test_the_order_of_the_runs_changes_nothing_but_the_order_of_the_rows() -> None:
    runs = [*two_settings(), *seeds("mid", [70.5, 70.9, 70.1], settings={"optimizer.lr": 5})]
    shuffled = [runs[place] for place in np.random.default_rng(10).permutation(len(runs))]
    first, again = (compare_runs(each, baseline="lr=5") for each in (runs, shuffled))
    assert again.verdict == first.verdict
    assert [(group.label, group.mean) for group in again.groups] == [
        (group.label, pytest.approx(group.mean)) for group in first.groups
    ]
    assert [test.sentence for test in again.tests] == [test.sentence for test in first.tests]


def test_runs_keep_their_order() -> None:
    runs = [*seeds("z", [1.0, 2.0]), *seeds("a", [3.0], settings={"optimizer.lr": 1})]
    assert [row.name for row in compare_runs(runs).rows] == ["z-seed_0", "z-seed_1", "a-seed_0"]


@pytest.mark.parametrize("settings", [5, 200])
def test_two_hundred_runs_of_fifty_metrics_are_compared_in_three_seconds(settings: int) -> None:
    random = np.random.default_rng(8)
    steps = np.arange(1.0, 1001)
    curves = {f"health/{i}": Curve(steps, random.normal(size=1000), steps) for i in range(47)}
    runs = [
        a_run(
            f"r{i}",
            70 + random.normal(),
            seed=i // settings,
            settings={"optimizer.lr": i % settings + 1},
            curves=curves,
        )
        for i in range(200)
    ]
    began = time.process_time()
    found = compare_runs(runs, paper=True)
    assert time.process_time() - began < 3
    assert len(found.tests) <= settings
