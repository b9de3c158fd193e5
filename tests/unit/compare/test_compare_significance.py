"""Which pairs are tested, by what, corrected how, and what is said where nothing can be."""

import math
from pathlib import Path

import numpy as np
import pytest
from compared_runs import a_run, save_predictions, seeds, two_settings
from scipy import stats

from cait_dist.compare.compare_runs import compare_runs
from cait_dist.compare.comparison import Group, PairTest
from cait_dist.compare.judging.significance import holm, judge_pairs
from cait_dist.compare.run_data import RunData, SetFacts


def all_tests(runs: list[RunData], **options: str) -> tuple[PairTest, ...]:
    return compare_runs(runs, **options).tests  # type: ignore[arg-type]


def single(runs: list[RunData], **options: str) -> PairTest:
    (test,) = all_tests(runs, **options)
    return test


def with_predictions(folder: Path, right_a: list[bool], right_b: list[bool], **more: int) -> list[RunData]:
    files = [save_predictions(folder / "a.npz", right_a), save_predictions(folder / "b.npz", right_b, **more)]
    return [
        a_run("a", 90.0, predictions={"val/raw": files[0]}),
        a_run("b", 80.0, predictions={"val/raw": files[1]}, settings={"optimizer.lr": 1}),
    ]


def test_two_settings_with_common_seeds_get_a_paired_test() -> None:
    test = single(two_settings(), baseline="lr=0.0001")
    reference = stats.ttest_rel((71.1, 71.7, 71.0), (69.8, 70.4, 69.2))
    assert (test.a, test.b, test.method) == ("lr=0.001", "lr=0.0001", "paired t over seeds")
    assert test.p == pytest.approx(reference.pvalue)
    assert test.significant
    assert test.sentence == (
        "lr=0.001 against lr=0.0001: +1.47 points, significant "
        "(95 % CI 0.75 to 2.18, p = 0.013; paired over 3 common seeds)."
    )


def test_the_sign_is_that_of_the_first_minus_the_second() -> None:
    test = single(two_settings(), baseline="lr=0.001")
    assert (test.a, test.b) == ("lr=0.0001", "lr=0.001")
    assert test.difference == pytest.approx(-1.4666667)
    assert "−1.47 points" in test.sentence


def test_equal_settings_are_said_not_to_differ_and_how_many_seeds_would_tell() -> None:
    test = single(two_settings((71.0, 71.5, 70.2), (70.9, 71.6, 70.0)))
    assert not test.significant
    assert "not significant" in test.sentence
    assert f"about {test.needed} seeds per setting would be needed" in test.sentence


def test_settings_with_other_seeds_get_welchs_test() -> None:
    runs = [*seeds("a", [71.0, 72.0, 71.5]), *seeds("b", [70.0, 70.5], first=7, settings={"optimizer.lr": 1})]
    test = single(runs)
    assert test.method == "Welch t over seeds"
    assert "Welch's t, 2 and 3 seeds" in test.sentence


def test_runs_of_unknown_seeds_are_not_paired() -> None:
    runs = [a_run(f"a{i}", 70.0 + i, seed=None) for i in range(3)]
    runs += [a_run(f"b{i}", 80.0 + i, seed=None, settings={"optimizer.lr": 1}) for i in range(3)]
    assert single(runs).method == "Welch t over seeds"


def test_diverged_runs_are_in_no_test() -> None:
    clean = single(two_settings())
    diverged = single([*two_settings(), *seeds("high", [math.nan], first=3, settings={"optimizer.lr": 0.001})])
    assert diverged.p == clean.p


def test_one_run_each_with_predictions_is_compared_over_images_and_said_to_be_about_weights(tmp_path: Path) -> None:
    test = single(with_predictions(tmp_path, [True] * 60 + [False] * 40, [True] * 45 + [False] * 55), baseline="b")
    assert test.method == "McNemar"
    assert test.p == pytest.approx(stats.binomtest(15, 15).pvalue)
    assert test.difference == pytest.approx(15.0)
    assert test.low is not None
    assert test.significant
    assert "on 100 images, significant" in test.sentence
    assert "about these two sets of weights: whether the setting is better, only more seeds can tell" in test.sentence


def test_predictions_of_another_step_are_said_to_be_so(tmp_path: Path) -> None:
    test = single(with_predictions(tmp_path, [True, True], [True, False], step=200))
    assert "at steps 200 and 300" in test.sentence


def test_seeds_win_over_predictions(tmp_path: Path) -> None:
    path = save_predictions(tmp_path / "a.npz", [True] * 9)
    runs = [
        *seeds("a", [71.0, 72.0], predictions={"val/raw": path}),
        *seeds("b", [70.0, 70.5], predictions={"val/raw": path}, settings={"optimizer.lr": 1}),
    ]
    assert single(runs).method == "paired t over seeds"


def test_over_images_the_runs_of_the_same_seed_are_compared(tmp_path: Path) -> None:
    files = [save_predictions(tmp_path / f"{i}.npz", [i > 0, True]) for i in range(3)]
    runs = [
        a_run("a0", 70.0, seed=0, predictions={"val/raw": files[0]}),
        a_run("a5", 71.0, seed=5, predictions={"val/raw": files[1]}),
        a_run("b5", 70.0, seed=5, predictions={"val/raw": files[2]}, settings={"optimizer.lr": 1}),
    ]
    assert single(runs).sentence.startswith("b5 against a5")


def test_the_average_of_weights_has_predictions_of_its_own(tmp_path: Path) -> None:
    runs = with_predictions(tmp_path, [True], [False])
    assert single(runs, metric="val/loss").method == "none"
    assert "saved predictions tell of top1, not of loss" in single(runs, metric="val/loss").sentence


def test_one_run_each_without_predictions_is_no_test_and_the_remedy_is_said() -> None:
    test = single([a_run("a", 90.0), a_run("b", 91.0, settings={"optimizer.lr": 1})])
    assert (test.method, test.p, test.significant) == ("none", None, False)
    assert test.difference == 1.0
    assert test.sentence == (
        "lr=1 against lr=0.003: +1.00 points, but no test, as a single run tells nothing of luck, and b and a saved "
        "no predictions: repeat each with seed=0..2."
    )


def test_runs_measured_on_other_images_are_not_tested() -> None:
    runs = two_settings()
    other = [
        a_run(f"o{i}", 80.0 + i, seed=i, settings={"optimizer.lr": 1}, sets={"val": SetFacts("9", 360)})
        for i in range(3)
    ]
    test = next(test for test in all_tests([*runs, *other]) if "9" in test.a)
    assert test.p is None
    assert "not measured on the same images" in test.sentence


def test_a_group_without_a_result_is_not_tested() -> None:
    test = single([*seeds("a", [70.0, 71.0]), a_run("gone", math.nan, settings={"optimizer.lr": 1})])
    assert "no run of lr=1 has a val/top1 that counts" in test.sentence
    assert "nan" not in test.sentence


def test_settings_that_never_vary_claim_nothing() -> None:
    test = single(two_settings((71.0, 71.0), (70.0, 70.0)))
    assert (test.p, test.significant) == (None, False)
    assert "repeat with more seeds" in test.sentence


def test_each_group_is_held_against_the_baseline_and_the_best_against_the_second() -> None:
    runs = [
        run
        for rate, level in (("1", 70.0), ("2", 71.0), ("3", 73.0), ("4", 72.0))
        for run in seeds(f"lr{rate}", [level, level + 0.3, level + 0.1], settings={"optimizer.lr": rate})
    ]
    pairs = [(test.a, test.b) for test in all_tests(runs, baseline="lr=1")]
    assert pairs == [("lr=3", "lr=1"), ("lr=4", "lr=1"), ("lr=2", "lr=1"), ("lr=3", "lr=4")]
    assert [(test.a, test.b) for test in all_tests(runs, baseline="lr=4")] == [
        ("lr=3", "lr=4"),
        ("lr=2", "lr=4"),
        ("lr=1", "lr=4"),
    ]


def test_p_values_are_corrected_for_the_number_of_comparisons() -> None:
    runs = [*two_settings(), *seeds("mid", [71.0, 70.4, 70.3], settings={"optimizer.lr": 5})]
    tests = {(test.a, test.b): test for test in all_tests(runs, baseline="lr=0.0001")}
    alone = stats.ttest_rel((71.1, 71.7, 71.0), (69.8, 70.4, 69.2)).pvalue
    assert tests["lr=0.001", "lr=0.0001"].p == pytest.approx(3 * alone)
    assert "corrected for 3 comparisons" in tests["lr=0.001", "lr=0.0001"].sentence


def test_among_many_equal_settings_a_false_alarm_is_as_rare_as_between_two() -> None:
    random, alarms, rounds = np.random.default_rng(9), 0, 400
    runs = {f"{s}{i}": a_run(f"{s}{i}", seed=i) for s in "abcde" for i in range(3)}
    for _ in range(rounds):
        groups = []
        for label in "abcde":
            values = tuple(random.normal(70, 0.5, 3).tolist())
            names = tuple(f"{label}{i}" for i in range(3))
            groups.append(Group(label, {}, names, (0, 1, 2), values, float(np.mean(values)), float(np.std(values))))
        groups.sort(key=lambda group: -group.mean)
        alarms += any(test.significant for test in judge_pairs(groups, "a", runs, "val/top1"))
    assert alarms / rounds <= 0.05 + 0.027  # 2.5 standard errors of a share of 400


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([None]) == [None]
