"""Tests over images: exact, deterministic, quick, and only between predictions of the same images."""

import time
from pathlib import Path

import numpy as np
import pytest
from compared_runs import save_predictions
from scipy import stats

from cait_dist.compare.judging.image_tests import ImageTest, bootstrap, compare_images, mcnemar


def two_files(tmp_path: Path, right_a: list[bool], right_b: list[bool]) -> ImageTest:
    test = compare_images(save_predictions(tmp_path / "a.npz", right_a), save_predictions(tmp_path / "b.npz", right_b))
    assert isinstance(test, ImageTest)
    return test


@pytest.mark.parametrize(("only_a", "only_b"), [(12, 5), (5, 12), (0, 6), (1, 0), (400, 330)])
def test_mcnemar_is_the_exact_binomial_test_of_the_images_on_which_they_disagree(only_a: int, only_b: int) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 6) == pytest.approx(2 / 2**6)
    assert mcnemar(4, 4) == 1.0
    assert mcnemar(0, 0) == 1.0


def test_accuracies_are_compared_image_by_image(tmp_path: Path) -> None:
    test = two_files(tmp_path, [True] * 30 + [False] * 10, [True] * 25 + [False] * 14 + [True])
    assert (test.images, test.only_a, test.only_b) == (40, 5, 1)
    assert test.difference == pytest.approx(10.0)
    assert test.low < 10 < test.high


def test_the_same_predictions_do_not_differ(tmp_path: Path) -> None:
    test = two_files(tmp_path, [True, False, True], [True, False, True])
    assert (test.difference, test.low, test.high, test.p) == (0, 0, 0, 1)


def test_images_are_matched_by_their_id_whatever_their_order(tmp_path: Path) -> None:
    a = save_predictions(tmp_path / "a.npz", [True, False, True, True])
    with np.load(a) as file:
        turned = {key: value[::-1] if value.ndim else value for key, value in file.items()}
    np.savez(tmp_path / "b.npz", **turned)
    test = compare_images(a, tmp_path / "b.npz")
    assert isinstance(test, ImageTest)
    assert (test.only_a, test.only_b) == (0, 0)


def test_only_images_that_both_were_asked_count(tmp_path: Path) -> None:
    a = save_predictions(tmp_path / "a.npz", [False, False, True, True])
    b = save_predictions(tmp_path / "b.npz", [False, True, True, True], first=2)
    test = compare_images(a, b)
    assert isinstance(test, ImageTest)
    assert (test.images, test.only_a, test.only_b) == (2, 1, 0)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: save_predictions(path, [True], digest="other"), "of different images"),
        (lambda path: save_predictions(path, [True], first=99), "no image in common"),
        (lambda path: path.write_bytes(b"PK no archive"), "cannot be read"),
        (lambda path: np.savez(path, sample=np.arange(3)), "cannot be read"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_said_and_stops_nothing(tmp_path: Path, write, reason: str) -> None:  # type: ignore[no-untyped-def]
    good, bad = save_predictions(tmp_path / "a.npz", [True, False]), tmp_path / "b.npz"
    write(bad)
    found = compare_images(good, bad)
    assert isinstance(found, str)
    assert reason in found


def test_the_bootstrap_says_the_same_each_time_and_is_quick_for_imagenet() -> None:
    began = time.process_time()
    first, again = bootstrap(3000, 2800, 50_000), bootstrap(3000, 2800, 50_000)
    assert first == again
    assert time.process_time() - began < 2


def test_the_bootstrap_by_counts_is_that_of_the_images_themselves() -> None:
    random, images = np.random.default_rng(5), 400
    each = np.concatenate([np.ones(40), -np.ones(25), np.zeros(images - 65)])
    drawn = 100 * each[random.integers(0, images, (10_000, images))].mean(axis=1)
    assert bootstrap(40, 25, images) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.2)


def test_the_bootstrap_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    random, images, shares = np.random.default_rng(6), 1000, [0.08, 0.05, 0.87]
    covered = 0
    for only_a, only_b, _ in random.multinomial(images, shares, size=250):
        low, high = bootstrap(only_a, only_b, images)
        covered += low <= 3.0 <= high
    assert 0.92 < covered / 250 < 0.985


def test_equal_networks_are_called_different_one_time_in_twenty_at_most() -> None:
    random = np.random.default_rng(7)
    alarms = [mcnemar(a, b) < 0.05 for a, b, _ in random.multinomial(1000, [0.05, 0.05, 0.9], size=2000)]
    assert np.mean(alarms) <= 0.05
