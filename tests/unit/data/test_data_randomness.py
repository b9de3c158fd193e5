import numpy as np
import pytest

from cait_dist.data.randomness import Stream, hash64, key64, uniform

N = 100_000


def test_values_never_change() -> None:
    # Every run depends on these numbers: if this fails, the code is wrong, not the test.
    found = uniform(7, Stream.CROP, np.array([0, 1, 2**40]), 3)
    expected = [
        [0.0034051918204535125, 0.9403490574306298, 0.8006209758206136],
        [0.6904319641189909, 0.9276572718635017, 0.7686131727047317],
        [0.4653863773766276, 0.4626118184018818, 0.49767638008751724],
    ]
    np.testing.assert_array_equal(found, expected)


def test_a_number_depends_on_its_place_alone() -> None:
    whole = uniform(3, Stream.FLIP, np.arange(1000), 5)
    np.testing.assert_array_equal(uniform(3, Stream.FLIP, np.arange(400, 410), 5), whole[400:410])
    np.testing.assert_array_equal(uniform(3, Stream.FLIP, np.array([9, 2]), 2), whole[[9, 2], :2])
    np.testing.assert_array_equal(uniform(3, Stream.FLIP, np.array([9, 2], dtype=np.int32), 2), whole[[9, 2], :2])


def test_numbers_lie_in_the_unit_interval_and_are_even() -> None:
    found = uniform(0, Stream.MIX, np.arange(N), 2)
    assert found.min() >= 0
    assert found.max() < 1
    for column in found.T:
        # Five standard errors: the numbers are fixed, so these either always pass or never.
        assert abs(column.mean() - 1 / 2) < 5 * (1 / 12 / N) ** 0.5
        assert abs(column.var() - 1 / 12) < 5 * (1 / 180 / N) ** 0.5
        counts = np.bincount((column * 256).astype(int), minlength=256)
        chi_square = ((counts - N / 256) ** 2 / (N / 256)).sum()
        assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: uniform(0, Stream.CROP, np.arange(1, N + 1), 1), id="next position"),
        pytest.param(lambda: uniform(0, Stream.CROP, np.arange(N) + 2**32, 1), id="far position"),
        pytest.param(lambda: uniform(0, Stream.FLIP, np.arange(N), 1), id="other stream"),
        pytest.param(lambda: uniform(1, Stream.CROP, np.arange(N), 1), id="other seed"),
        pytest.param(lambda: uniform(-1, Stream.CROP, np.arange(N), 1), id="negative seed"),
        pytest.param(lambda: uniform(0, Stream.CROP, np.arange(N), 2)[:, 1:], id="next draw"),
    ],
)
def test_numbers_of_other_places_have_nothing_to_do_with_each_other(other) -> None:
    first = uniform(0, Stream.CROP, np.arange(N), 1)[:, 0]
    second = other()[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / N**0.5
    cells = np.histogram2d(first, second, bins=16, range=((0, 1), (0, 1)))[0]
    chi_square = ((cells - N / 256) ** 2 / (N / 256)).sum()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


def test_hash_continues_key() -> None:
    assert hash64(key64(1, 2), np.array([5]))[0] == key64(1, 2, 5)


def test_order_of_words_matters() -> None:
    assert len({key64(1, 2), key64(2, 1), key64(1), key64(1, 2, 0), key64()}) == 5
