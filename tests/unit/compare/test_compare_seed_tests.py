"""Tests over seeds: equal to scipy's, honest about chance, and silent where nothing can be known."""

import numpy as np
import pytest
from scipy import stats

from cait_dist.compare.judging.seed_tests import compare_seeds, paired, welch


def by_seed(values: list[float], first: int = 0) -> dict[int, list[float]]:
    return {first + i: [value] for i, value in enumerate(values)}


A, B = [71.1, 71.9, 71.0, 71.4], [69.8, 70.6, 70.5, 69.9]


def test_common_seeds_are_compared_in_pairs_like_scipy_does() -> None:
    test = compare_seeds(by_seed(A), by_seed(B))
    reference = stats.ttest_rel(A, B)
    assert test is not None
    assert test.method == "paired t over seeds"
    assert test.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert (test.low, test.high) == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-9)


def test_only_the_common_seeds_are_paired() -> None:
    test = compare_seeds(by_seed(A), by_seed([69.0, 70.0, 71.0], first=2))
    assert test is not None
    assert test.seeds == (2, 2)
    assert test.difference == pytest.approx(np.mean(A[2:]) - np.mean([69.0, 70.0]))


def test_pairs_stand_by_their_seed_in_whatever_order_the_runs_came() -> None:
    shuffled = {3: [B[3]], 1: [B[1]], 0: [B[0]], 2: [B[2]]}
    assert compare_seeds(by_seed(A), shuffled) == compare_seeds(by_seed(A), by_seed(B))


def test_other_seeds_are_compared_by_welch_like_scipy_does() -> None:
    unequal = [60.0, 75.0, 71.0]
    test = compare_seeds(by_seed(A), by_seed(unequal, first=50))
    reference = stats.ttest_ind(A, unequal, equal_var=False)
    assert test is not None
    assert test.method == "Welch t over seeds"
    assert test.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert (test.low, test.high) == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-9)


def test_a_pair_computed_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1, t = 2 · √3 on two degrees of freedom; p = 1 − t / √(t² + 2) there.
    test = paired(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    t = 2 * 3**0.5
    assert test.p == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    assert (test.low, test.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_a_single_seed_on_one_side_is_no_test() -> None:
    assert compare_seeds(by_seed([1.0]), by_seed([1.0, 2.0, 3.0])) is None


def test_a_seed_that_was_run_twice_counts_once() -> None:
    assert compare_seeds({0: [1.0, 3.0]}, {0: [5.0, 5.0]}) is None
    twice = compare_seeds({0: [70.0, 72.0], 1: [72.0]}, by_seed([70.0, 70.5]))
    assert twice == compare_seeds(by_seed([71.0, 72.0]), by_seed([70.0, 70.5]))


def test_equal_values_are_no_difference() -> None:
    for test in (paired, welch):
        assert test(np.array([1.0, 1.0]), np.array([1.0, 1.0])).p == 1.0


def test_without_any_spread_nothing_is_claimed() -> None:
    # 0.1 + 0.2 is not 0.3: subtraction leaves a spread of the last bits, which "proves" anything.
    constant = compare_seeds(by_seed([0.1 + 0.2, 1.1 + 0.2]), by_seed([0.3 - 0.1, 1.3 - 0.1]))
    assert constant is not None
    assert constant.difference == pytest.approx(0.1)
    assert (constant.p, constant.low, constant.high) == (None, None, None)
    assert welch(np.array([1.0, 1.0]), np.array([2.0, 2.0])).p is None


def test_one_group_without_spread_still_leaves_welch_the_other() -> None:
    # With no spread in one group the other's is all there is: Student's t against a fixed value.
    reference = stats.ttest_1samp([2.0, 2.5, 3.0], 1.0).pvalue
    assert welch(np.array([1.0, 1.0, 1.0]), np.array([2.0, 2.5, 3.0])).p == pytest.approx(reference)


@pytest.mark.parametrize(("shift", "first"), [(0, 0), (0, 100)])
def test_equal_settings_are_called_different_one_time_in_twenty_at_most(shift: int, first: int) -> None:
    random, alarms, rounds = np.random.default_rng(1), 0, 2000
    for _ in range(rounds):
        a, b = random.normal(70, 0.5, (2, 3)).tolist()
        test = compare_seeds(by_seed(a), by_seed(b, first))
        alarms += test is not None and test.p is not None and test.p < 0.05
    assert 0.02 < alarms / rounds <= 0.05 + 0.012  # 2.5 standard errors of a share of 2000


def test_a_clear_difference_is_found_and_its_interval_holds_the_truth() -> None:
    random, found, covered, rounds = np.random.default_rng(2), 0, 0, 1000
    for _ in range(rounds):
        a, b = random.normal(72, 0.5, 3).tolist(), random.normal(70, 0.5, 3).tolist()
        test = compare_seeds(by_seed(a), by_seed(b, 100))
        assert test is not None
        assert test.p is not None
        assert test.low is not None
        assert test.high is not None
        found += test.p < 0.05
        covered += test.low < 2 < test.high
    assert found / rounds > 0.85
    assert 0.93 < covered / rounds < 0.98


def test_the_number_of_seeds_said_to_be_needed_finds_the_difference_four_times_in_five() -> None:
    # Differences with mean 0.5 and deviation 1 exactly: (1.96 + 0.84)² · 1 / 0.5² + 1.92 = 33.3.
    each = np.array([-1.0, 1.0, -1.0, 1.0])
    needed = paired(each / each.std(ddof=1) + 0.5, np.zeros(4)).needed
    assert needed == 34
    random = np.random.default_rng(3)
    found = stats.ttest_1samp(random.normal(0.5, 1, (1500, needed)), 0, axis=1).pvalue < 0.05
    assert 0.76 < np.mean(found) < 0.86


def test_welch_needs_about_twice_as_many_as_pairs_of_the_same_spread() -> None:
    each = np.array([-1.0, 1.0, -1.0, 1.0])
    each /= each.std(ddof=1)
    assert welch(each + 0.5, each).needed == 64  # 7.85 · (1 + 1) / 0.25 + 0.96 = 63.75


def test_more_seeds_are_needed_than_there_were_and_nobody_is_sent_to_train_thousands() -> None:
    random = np.random.default_rng(4)
    a = random.normal(0, 1, 5)
    assert paired(a + 1e-4, np.zeros(5) + a.mean()).needed == 101
    barely = paired(np.array([1.0, 1.2, 1.1]), np.zeros(3))
    assert barely.needed == 4
    assert paired(np.ones(3), np.ones(3)).needed is None
