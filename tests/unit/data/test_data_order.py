import pickle
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cait_dist.data.errors import DataError
from cait_dist.data.order import REPEAT_WINDOW, SampleOrder, eval_slice, permute, rank_positions

IMAGENET = 1_281_167


def one_pass(order: SampleOrder, number: int = 0) -> np.ndarray:
    return order.ids(np.arange(number * order.pass_length, (number + 1) * order.pass_length))


def test_order_never_changes() -> None:
    # Runs are resumed under this order: if this fails, the code is wrong, not the test.
    assert SampleOrder(10, 0).ids(range(10)).tolist() == [1, 5, 6, 9, 3, 8, 2, 0, 4, 7]
    assert SampleOrder(10, 0, repeats=2).ids(range(20)).tolist() == [
        1,
        9,
        5,
        3,
        6,
        0,
        2,
        7,
        4,
        8,
        6,
        9,
        1,
        3,
        5,
        8,
        7,
        2,
        0,
        4,
    ]
    block = SampleOrder(10, 0, "block", shard_sizes=[3, 3, 2, 2], block_shards=2)
    assert block.ids(range(10)).tolist() == [0, 9, 1, 2, 8, 4, 7, 6, 3, 5]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    repeats=st.integers(1, 4),
    mode=st.sampled_from(["full", "block"]),
    block_shards=st.integers(1, 5),
    seed=st.integers(-(2**63), 2**63),
    number=st.integers(0, 10**6),
)
def test_a_pass_holds_every_sample_exactly_repeats_times(sizes, repeats, mode, block_shards, seed, number) -> None:
    order = SampleOrder(sum(sizes), seed, mode, repeats, sizes, block_shards)
    assert (np.bincount(one_pass(order, number), minlength=sum(sizes)) == repeats).all()


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 1024])
@pytest.mark.parametrize("mode", ["full", "block"])
def test_world_size_does_not_matter(world_size: int, mode: str) -> None:
    batch = 3 * 1024
    order = SampleOrder(batch, 1, mode, 2, [256] * 12)
    seen = []
    for step in range(2):
        parts = [order.ids(rank_positions(step, batch, rank, world_size)) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(parts), order.ids(np.arange(step * batch, (step + 1) * batch)))
        seen += parts
    assert (np.bincount(np.concatenate(seen), minlength=batch) == 2).all()


def test_any_position_is_found_without_the_others() -> None:
    order = SampleOrder(IMAGENET, 0, repeats=3)
    positions = np.array([5, 10**15, 7, order.pass_length - 1, order.pass_length])
    together = order.ids(positions)
    assert [order.ids([p])[0] for p in positions] == together.tolist()
    tracemalloc.start()
    order.ids(10**15 + np.arange(1024))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_whole_pass_over_imagenet_is_quick_and_small() -> None:
    order = SampleOrder(IMAGENET, 0)
    started = time.process_time()  # the processor's time, so that other work on the machine does not count
    ids = one_pass(order)
    assert time.process_time() - started < 5.0  # 0.2 s on the machine this was written on
    assert np.bincount(ids, minlength=IMAGENET).max() == 1
    tracemalloc.start()
    one_pass(order)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5), seed=st.integers(0, 2**63))
def test_permute_is_one_to_one_for_many_sizes_at_once(sizes, seed) -> None:
    indices = np.concatenate([np.arange(size) for size in sizes])
    keys = np.repeat(np.arange(len(sizes), dtype=np.uint64) + np.uint64(seed), sizes)
    found = np.split(permute(indices, np.repeat(sizes, sizes), keys), np.cumsum(sizes)[:-1])
    for size, part in zip(sizes, found, strict=True):
        assert sorted(part.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 7, 32, 33])
def test_small_shuffles_send_every_index_everywhere_equally_often(size: int) -> None:
    shuffles = 4000
    indices = np.tile(np.arange(size), shuffles)
    keys = np.repeat(np.arange(shuffles, dtype=np.uint64), size)
    cells = np.zeros((size, size))
    np.add.at(cells, (indices, permute(indices, size, keys)), 1)
    chi_square = ((cells - shuffles / size) ** 2 / (shuffles / size)).sum()
    freedom = (size - 1) ** 2
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("mode", ["full", "block"])
def test_a_pass_is_well_mixed(mode: str) -> None:
    n, cells = 64_000, 32
    # One window holds all shards, so that both modes promise the same.
    order = SampleOrder(n, 0, mode, shard_sizes=[1000] * 64, block_shards=64)
    counts = np.zeros((cells, cells))
    np.add.at(counts, (np.arange(n) * cells // n, one_pass(order) * cells // n), 1)
    expected = n / cells**2
    freedom = (cells - 1) ** 2
    assert abs(((counts - expected) ** 2 / expected).sum() - freedom) < 5 * (2 * freedom) ** 0.5


def test_passes_and_seeds_have_nothing_to_do_with_each_other() -> None:
    n = 50_000
    orders = [one_pass(SampleOrder(n, 0), 0), one_pass(SampleOrder(n, 0), 1), one_pass(SampleOrder(n, 1), 0)]
    for i, first in enumerate(orders):
        # Samples that keep their place, and neighbours that stay neighbours: one each is expected by chance.
        assert (np.diff(first) == 1).sum() < 10
        for second in orders[:i]:
            assert (first == second).sum() < 10
            assert abs(np.corrcoef(np.argsort(first), np.argsort(second))[0, 1]) < 5 / n**0.5
            places = np.argsort(second)[first]
            assert (np.abs(np.diff(places)) == 1).sum() < 15


@pytest.mark.parametrize("n", [2, 3, 63, 64, 65, 127, 128, 200, 1797])
def test_copies_of_a_sample_are_kept_apart_and_get_other_neighbours(n: int) -> None:
    repeats = 3
    ids = one_pass(SampleOrder(n, 0, repeats=repeats), 1)
    places = np.argsort(ids, kind="stable").reshape(n, repeats)
    apart = np.diff(places, axis=1)
    assert apart.min() >= 2
    # In one batch all the same, which is what repeated augmentation is for.
    assert apart.max() < 3 * REPEAT_WINDOW
    if n >= 64:
        assert apart.min() > REPEAT_WINDOW // 2
        pairs = [frozenset(pair) for pair in ids[: n * repeats // 2 * 2].reshape(-1, 2).tolist()]
        assert len(set(pairs)) > 0.9 * len(pairs)


def test_block_mode_reads_few_shards_at_a_time() -> None:
    sizes = [7, 5, 9, 6, 8, 7, 4, 6, 5, 3]
    shard_of = np.repeat(np.arange(10), sizes)
    order = SampleOrder(sum(sizes), 0, "block", shard_sizes=sizes, block_shards=3)
    windows = []
    for number in range(3):
        shards = shard_of[one_pass(order, number)]
        first_seen = list(dict.fromkeys(shards.tolist()))
        last_seen = list(dict.fromkeys(shards[::-1].tolist()))[::-1]
        for start in range(0, 10, 3):
            assert set(first_seen[start : start + 3]) == set(last_seen[start : start + 3])
        windows.append([frozenset(first_seen[start : start + 3]) for start in range(0, 10, 3)])
        # Within a window shards are mixed, not read one after the other.
        assert (np.diff(shards) != 0).sum() > 20
    assert windows[0] != windows[1] != windows[2]


def test_order_survives_pickling() -> None:
    order = SampleOrder(100, 0, "block", 2, [50, 50])
    before = one_pass(order)
    np.testing.assert_array_equal(one_pass(pickle.loads(pickle.dumps(order))), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "at least 1"),
        ({"repeats": 0}, "at least 1"),
        ({"mode": "random"}, "'full' or 'block'"),
        ({"mode": "block"}, "needs the shards' sizes"),
        ({"mode": "block", "shard_sizes": [5, 4]}, "add up to 10"),
        ({"mode": "block", "shard_sizes": [10, 0]}, "positive"),
    ],
)
def test_senseless_orders_are_refused(arguments, message) -> None:
    with pytest.raises(DataError, match=message):
        SampleOrder(**{"num_samples": 10, "seed": 0, **arguments})


def test_negative_positions_are_refused() -> None:
    with pytest.raises(DataError, match="start at 0"):
        SampleOrder(10, 0).ids([-1])


def test_uneven_batches_are_refused_with_those_that_would_do() -> None:
    with pytest.raises(DataError, match="100 cannot be shared by 3 ranks; 99, 102 can"):
        rank_positions(0, 100, 0, 3)
    with pytest.raises(DataError, match="2 cannot be shared by 3 ranks; 3 can"):
        rank_positions(0, 2, 0, 3)
    with pytest.raises(DataError, match="rank"):
        rank_positions(0, 100, 2, 2)


@given(n=st.integers(0, 1000), world_size=st.integers(1, 50))
def test_evaluation_slices_cover_everything_once(n: int, world_size: int) -> None:
    slices = [eval_slice(n, rank, world_size) for rank in range(world_size)]
    assert [i for part in slices for i in part] == list(range(n))
    assert max(map(len, slices)) - min(map(len, slices)) <= 1
