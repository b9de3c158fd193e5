"""The global batch is kept exactly; what cannot be kept is refused with numbers that would work."""

import pytest

from cait_dist.planning.counting.batch_plan import plan_batches


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8, 64])
@pytest.mark.parametrize("limit", [None, 1, 2, 3, 5, 16, 1000])
def test_the_split_is_exact_and_within_the_limit(world: int, limit: int | None) -> None:
    plan = plan_batches(192 * 4, world, limit)
    assert plan.world_size * plan.micro_batch * plan.accumulation == 192 * 4
    assert limit is None or plan.micro_batch <= limit


def test_no_limit_means_no_accumulation() -> None:
    assert plan_batches(1024, 8, None).accumulation == 1


def test_the_largest_micro_batch_within_the_limit_is_taken() -> None:
    # 96 per rank: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96 divide it.
    assert plan_batches(192, 2, 47).micro_batch == 32


def test_pairs_keep_micro_batches_even() -> None:
    assert plan_batches(180, 2, 9, pairs=True).micro_batch == 6
    assert plan_batches(180, 2, 9, pairs=False).micro_batch == 9


def test_a_batch_that_cannot_be_split_names_batches_and_worlds_that_can() -> None:
    with pytest.raises(ValueError, match=r"training\.global_batch 100 cannot be split over 3 processes") as error:
        plan_batches(100, 3, None)
    assert "99 or 102" in str(error.value)
    assert "2, 4, 5 processes" in str(error.value)


def test_an_odd_share_is_refused_when_pairs_are_mixed() -> None:
    with pytest.raises(ValueError, match="in pairs"):
        plan_batches(6, 2, None, pairs=True)


def test_a_limit_below_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="micro_batch_limit must be at least 2"):
        plan_batches(8, 2, 1, pairs=True)
