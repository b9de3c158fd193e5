"""The curves on the page: real points, with the lowest, the highest and the ends."""

import json
from typing import Any

import numpy as np
import pytest
from comparisons import comparison_of, make_comparison, make_curve, make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from cait_dist.compare.run_data import AttemptData, RunFacts
from cait_dist.compare.showing.page.metrics import charts, overview, split_average
from cait_dist.compare.showing.page.payload import as_json, payload
from cait_dist.compare.showing.page.thinning import share_points, thin

VALUES = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=300)


@given(VALUES, st.integers(4, 60))
@settings(max_examples=200, deadline=None)
def test_a_thinned_curve_keeps_ends_minimum_maximum_and_that_something_was_not_finite(values: Any, points: int) -> None:
    curve = make_curve(np.array(values))
    less = thin(curve, points)
    assert len(less.steps) <= max(points, 5)
    assert less.steps[0] == curve.steps[0]
    assert less.steps[-1] == curve.steps[-1]
    whole, kept = np.array(curve.values), less.values
    finite = np.isfinite(whole)
    assert np.isfinite(kept).all() == finite.all()
    if finite.any():
        assert np.nanmin(kept[np.isfinite(kept)]) == whole[finite].min()
        assert np.nanmax(kept[np.isfinite(kept)]) == whole[finite].max()
    where = (less.steps - 1).astype(int)
    np.testing.assert_array_equal(kept, whole[where], "all points are real ones")
    np.testing.assert_array_equal(less.times, curve.times[where])
    assert (np.diff(less.steps) > 0).all()


def test_of_every_stretch_of_steps_the_extremes_are_kept() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    less = thin(make_curve(values), 202)
    for stretch in range(100):
        here = values[stretch * 100 + 1 : (stretch + 1) * 100 - 1]
        inside = less.values[(less.steps > stretch * 100) & (less.steps <= (stretch + 1) * 100)]
        assert inside.min() <= here.min()
        assert inside.max() >= here.max()


def test_short_curves_are_kept_whole_and_long_ones_share_the_rest() -> None:
    assert share_points([10, 1000, 50, 1000], 460, 40, 600) == [10, 200, 50, 200]
    assert share_points([10, 20], 1000, 40, 600) == [10, 20]
    assert share_points([900, 900], 10_000, 40, 600) == [600, 600]
    assert share_points([100] * 5, 10, 40, 600) == [40] * 5
    assert share_points([], 10, 40, 600) == []


def decoded(curve: list[Any], tick: float) -> tuple[Any, Any, Any]:
    _, _, steps, values, times = curve
    return np.cumsum(steps), np.array([np.nan if v is None else v for v in values]), np.cumsum(times) * tick


def test_a_curve_comes_back_with_its_steps_times_and_five_digits() -> None:
    comparison = make_comparison(1, 2)
    data = json.loads(as_json(payload(comparison)))
    checked = 0
    for key in ("val/top1", "train/loss"):
        for curve in data["curves"][key]:
            run = comparison.runs[curve[0]]
            name = key.replace("/", "_ema/") if curve[1] else key
            steps, values, times = decoded(curve, data["runs"][curve[0]]["tick"])
            real = run.curves[name]
            where = np.searchsorted(real.steps, steps)
            np.testing.assert_array_equal(real.steps[where], steps)
            np.testing.assert_allclose(values, real.values[where], rtol=5.1e-5)
            whole = run.attempts[-1].ended - run.attempts[0].began
            np.testing.assert_allclose(times, real.times[where] - run.attempts[0].began, atol=whole / 1e4)
            checked += 1
    assert checked == 2 + 2 + 2, "accuracy raw and average, loss"


def test_every_evaluation_of_an_ordinary_run_is_there() -> None:
    data = payload(make_comparison(3, 3, evaluations=50))
    assert [len(curve[2]) for curve in data["curves"]["val/top1"]] == [50] * 18


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_null(bad: float) -> None:
    run = make_run("a", {"train/loss": make_curve(np.array([3.0, bad, 2.0]))})
    data = json.loads(as_json(payload(comparison_of([run], target=bad))))
    assert data["curves"]["train/loss"][0][3] == [3, None, 2]
    assert data["target"] is None


def test_steps_that_are_no_whole_numbers_are_kept() -> None:
    run = make_run("a", {"train/loss": make_curve(np.array([3.0, 2.0]), steps=np.array([0.25, 1.5]))})
    assert payload(comparison_of([run]))["curves"]["train/loss"][0][2] == [0.25, 1.25]


def test_the_script_can_compute_every_axis() -> None:
    attempts = [AttemptData(1, 100.0, 200.0, 0, 10, 4, "lost"), AttemptData(2, 300.0, 500.0, 8, 20, 2, "finished")]
    run = make_run("a", {}, attempts, RunFacts(global_batch=64, train_images=1280))
    told = payload(comparison_of([run]))["runs"][0]
    assert told["attempts"] == [[1, 0, 100, 0, 4, "lost"], [2, 200, 400, 8, 2, "finished"]]
    assert (told["batch"], told["train"], told["timed"]) == (64, 1280, True)


def test_no_character_of_the_json_can_end_its_element() -> None:
    text = as_json({"a": "</script><!--&\u2028\u2029"})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": "</script><!--&\u2028\u2029"}


def test_the_deciding_metric_comes_first_and_the_average_shares_its_chart() -> None:
    keys = ["perf/images_per_second", "train/loss", "real/top1", "val_ema/top1", "val/top1", "train/lr", "health/x"]
    metrics = charts(keys, "real/top1")
    assert [metric.key for metric in metrics][:4] == ["real/top1", "train/loss", "train/lr", "perf/images_per_second"]
    assert "val_ema/top1" not in [metric.key for metric in metrics]
    assert {metric.key: metric.family for metric in metrics}["health/x"] == "health"
    assert overview(metrics, "real/top1") == ["real/top1", "train/loss", "train/lr", "perf/images_per_second"]


@pytest.mark.parametrize(("key", "split"), [("val_ema/top1", ("val/top1", True)), ("val/top1", ("val/top1", False))])
def test_the_average_of_a_metric_is_known_by_its_name(key: str, split: tuple[str, bool]) -> None:
    assert split_average(key) == split


def test_with_few_runs_each_has_its_colour_and_with_many_each_group() -> None:
    few, many = payload(make_comparison(2, 4))["runs"], payload(make_comparison(3, 3))["runs"]
    assert len({run["colour"] for run in few}) == 8
    assert [run["colour"] for run in many] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [run["shape"] for run in many] == [0, 1, 2] * 3, "those of a group differ in shape"
