"""Shards are fetched before they are needed: which, when, and what happens when that fails."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cache_watch import watching
from moody_server import MoodyServer, serving
from training_command import wait_for

from cait_dist.config.augment import AugmentConfig
from cait_dist.config.data import DataConfig, RemoteConfig
from cait_dist.data import prefetch, remote
from cait_dist.data.cache_needs import check_cache, needed_bytes
from cait_dist.data.errors import CacheError, RemoteError
from cait_dist.data.loader import TrainLoader
from cait_dist.data.order import SampleOrder
from cait_dist.data.prefetch import ShardPrefetch
from cait_dist.data.reader_webdataset import WebDatasetReader, open_split
from cait_dist.data.shard_cache import ShardCache
from data_prep.manifest import ShardInfo

BATCH = 8


@pytest.fixture
def server(shards: Path) -> Iterator[MoodyServer]:
    with serving(shards) as server:
        yield server


def opened(url: str, tmp_path: Path, **changes: object) -> WebDatasetReader:
    settings = {"cache_dir": tmp_path, "retries": 3, "timeout": 0.5, **changes}
    reader = open_split(url, "train", "auto", RemoteConfig.model_validate(settings))
    assert isinstance(reader, WebDatasetReader)
    return reader


def order_of(reader: WebDatasetReader, mode="block", block_shards: int = 2, repeats: int = 1) -> SampleOrder:
    return SampleOrder(reader.num_samples, 5, mode, repeats, reader.shard_sizes, block_shards)


def make(reader: WebDatasetReader, order: SampleOrder, workers: int = 0, **changes: int) -> TrainLoader:
    return TrainLoader(
        reader,
        order,
        AugmentConfig(),
        image_size=16,
        seed=5,
        global_batch=BATCH,
        micro_batch=BATCH,
        workers=workers,
        prefetch=1,
        **changes,
    )


@pytest.mark.parametrize(("block_shards", "repeats"), [(1, 1), (2, 1), (3, 1), (3, 2), (8, 1), (99, 1)])
def test_the_shards_named_ahead_are_those_the_stream_reads(block_shards: int, repeats: int) -> None:
    sizes = [3, 9, 4, 7, 5, 8, 6, 2, 9, 9]
    order = SampleOrder(sum(sizes), 7, "block", repeats, sizes, block_shards)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    read = shard_of[order.ids(np.arange(3 * order.pass_length))]
    for position in range(0, 2 * order.pass_length, 5):
        ahead = order.shards_from(position)
        # With repeats a window of samples may begin a little before its place; without, it is exact.
        assert read[position] in ahead[:block_shards] or repeats > 1
        assert read[position] in order.shards_from(max(position - 64 * repeats, 0), 99)
    windows = [order.shards_from(0, count) for count in range(1, 1 + -(-len(sizes) // block_shards))]
    assert sorted(windows[-1]) == list(range(len(sizes)))
    for smaller, larger in itertools.pairwise(windows):
        assert larger[: len(smaller)] == smaller
    # The end of a pass is followed by the beginning of the next.
    assert order.shards_from(order.pass_length - 1)[-1] in order.shards_from(order.pass_length, 1)


def test_the_next_window_is_fetched_while_the_present_one_is_used(server: MoodyServer, tmp_path: Path) -> None:
    reader = opened(server.url, tmp_path)
    order = order_of(reader)
    names = [shard.name for shard in reader.shards]

    def fetched() -> set[str]:
        return {path.rpartition("/")[2] for path in server.answered if path.endswith(".tar")}

    with make(reader, order) as loader:
        next(loader)
        wait_for(lambda: len(fetched()) >= 4, "two windows", 5)
        time.sleep(0.2)
        assert fetched() == {names[shard] for shard in order.shards_from(0)}
        # Into the second window, and not as far as the third.
        while (position := next(loader).step * BATCH) < 32:
            pass
        expected = {names[shard] for shard in order.shards_from(position)}
        wait_for(lambda: expected <= fetched(), "the third window", 5)
        assert len(fetched()) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_small_cache_gives_the_same_stream_and_keeps_its_bound(
    server: MoodyServer, shards: Path, tmp_path: Path, workers: int
) -> None:
    local = open_split(shards, "train")
    reader = opened(server.url, tmp_path)
    order = order_of(reader, block_shards=1)
    bound = needed_bytes(reader.shards, [], DataConfig(path="x", order="block", block_shards=1))
    assert bound < sum(shard.bytes for shard in reader.shards) / 2
    reader = opened(server.url, tmp_path, cache_gb=bound / 1e9)
    count = 3 * order.num_samples // BATCH
    with make(local, order) as loader:
        expected = [batch.images for batch in itertools.islice(loader, count)]
    with watching(ShardCache(tmp_path, 1).folder) as watch, make(reader, order, workers) as loader:
        for batch, images in zip(itertools.islice(loader, count), expected, strict=True):
            assert (batch.images == images).all()
    assert 0 < watch.most <= bound


def test_order_full_fetches_everything(server: MoodyServer, tmp_path: Path) -> None:
    reader = opened(server.url, tmp_path)
    with make(reader, order_of(reader, "full")) as loader:
        next(loader)
        wait_for(lambda: sum(p.endswith(".tar") for p in server.answered) == len(reader.shards), "all shards", 5)


def test_local_data_start_no_thread(shards: Path) -> None:
    reader = open_split(shards, "train")
    assert prefetch.start_prefetch(reader, order_of(reader), 0) is None


def test_a_failure_ahead_is_only_noted_and_the_reader_raises_its_own(
    server: MoodyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(prefetch, "_AFTER_FAILURE_SECONDS", 0.05)
    reader = opened(server.url, tmp_path, retries=1)
    server.moods, server.trouble = ("refuse",), 1.0
    with caplog.at_level(logging.WARNING), make(reader, order_of(reader), workers=1) as loader:
        wait_for(lambda: "fetching ahead: http" in caplog.text, "a warning", 5)
        # The worker's traceback is not part of the message.
        with pytest.raises(RemoteError, match=r"^http://[^\n]*data.remote.timeout$"):
            next(loader)


@pytest.mark.parametrize("trouble", ["stall", "refuse"])
def test_closing_does_not_wait_for_the_server(server: MoodyServer, tmp_path: Path, trouble: str) -> None:
    reader = opened(server.url, tmp_path, retries=50, timeout=60)
    server.moods, server.trouble = (trouble,), 1.0
    loader = make(reader, order_of(reader))
    wait_for(lambda: server.seen[trouble], "the first request", 5)
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 3
    assert loader._ahead is not None
    # One that listens to a silent server is left to its timeout.
    assert loader._ahead._thread.is_alive() == (trouble == "stall")


def test_a_thread_follows_the_position_and_stops() -> None:
    asked: list[int] = []

    def fetch(shard: int, _: Callable[[], bool]) -> bool:
        asked.append(shard)
        return True

    ahead = ShardPrefetch(fetch, lambda position: [position, position + 1], 0)
    wait_for(lambda: asked == [0, 1], "the first two", 5)
    ahead.move_to(7)
    wait_for(lambda: asked == [0, 1, 7, 8], "the others", 5)
    ahead.close()
    ahead.move_to(9)
    time.sleep(0.2)
    assert asked == [0, 1, 7, 8]


def info(number: int, size: int) -> ShardInfo:
    return ShardInfo(f"{number}.tar", 1, size, f"{number:064x}", ())


@pytest.mark.parametrize(
    ("order", "block_shards", "bytes_needed"), [("full", 8, 60 + 5), ("block", 1, 10 + 15 + 5), ("block", 9, 60 + 5)]
)
def test_what_must_be_at_hand(order: str, block_shards: int, bytes_needed: int) -> None:
    train = [info(number, size) for number, size in enumerate((10, 10, 10, 5, 10, 15))]
    data = DataConfig.model_validate({"path": "http://h/x", "order": order, "block_shards": block_shards})
    assert needed_bytes(train, [info(99, 5)], data) == bytes_needed
    # An evaluation on training shards costs nothing more where all of them are there anyway.
    assert needed_bytes(train, train[:2], data) == (60 if order == "full" else bytes_needed - 5 + 20)


def test_a_cache_that_is_too_small_is_refused_with_the_numbers(server: MoodyServer, tmp_path: Path) -> None:
    def data(**changes: object) -> DataConfig:
        remote_settings = {"cache_dir": tmp_path, "cache_gb": 1.1e-4, "retries": 0}
        return DataConfig.model_validate({"path": server.url, "remote": remote_settings, "block_shards": 1, **changes})

    with pytest.raises(
        CacheError,
        match=r"cache_gb' is 0.00011, but order 'full' needs all shards and the evaluation sets at hand, [\d.]+ GB"
        r" \([\d,]+ bytes\): raise it, or set data.order=block, which needs",
    ):
        check_cache(data(), ["val"])
    with pytest.raises(CacheError, match=r"two windows of 9 shards .*: raise it, or lower data.block_shards"):
        check_cache(data(order="block", block_shards=9), ["val"])
    check_cache(data(order="block"), [])
    check_cache(DataConfig.model_validate({"path": "/nowhere"}), ["val"])
