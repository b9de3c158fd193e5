"""The node's cache of shards: bounded at any moment, shared by processes, indifferent to how they end."""

import contextlib
import fcntl
import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cache_watch import bytes_in, watching

from cait_dist.data import held_files
from cait_dist.data.errors import CacheError
from cait_dist.data.shard_cache import ShardCache
from data_prep.files import Stopped
from data_prep.manifest import ShardInfo

SIZE = 1000


def content(number: int, size: int = SIZE) -> bytes:
    return random.Random(number).randbytes(size)


def shard(number: int, size: int = SIZE) -> ShardInfo:
    return ShardInfo(f"s-{number}.tar", 1, size, hashlib.sha256(content(number, size)).hexdigest(), ())


class Source:
    """Fills files with the content of a shard, and counts."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def fill(self, number: int, size: int = SIZE):
        def write(descriptor: int) -> None:
            self.calls.append(number)
            os.pwrite(descriptor, content(number, size), 0)

        return write


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path, 3 * SIZE)


def read(cache: ShardCache, source: Source, number: int) -> None:
    with cache.opened(shard(number), source.fill(number), lambda: False) as descriptor:
        assert os.pread(descriptor, SIZE, 0) == content(number)


def names(cache: ShardCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()} - {"lock"}


def age(cache: ShardCache, number: int, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(cache.folder / shard(number).sha256, (when, when))


def test_a_shard_is_fetched_once_and_the_longest_unused_makes_room(cache: ShardCache, source: Source) -> None:
    for number in (0, 1, 2, 0, 1, 2):
        read(cache, source, number)
    assert source.calls == [0, 1, 2]
    for number, seconds in ((0, 30), (1, 99), (2, 60)):
        age(cache, number, seconds)
    read(cache, source, 3)
    assert names(cache) == {shard(number).sha256 for number in (0, 2, 3)}


def test_reading_counts_as_use(cache: ShardCache, source: Source) -> None:
    for number in (0, 1, 2):
        read(cache, source, number)
        age(cache, number, 50 - number)
    read(pickle.loads(pickle.dumps(ShardCache(cache.folder.parent, cache.bound))), source, 0)
    read(cache, source, 3)
    assert names(cache) == {shard(number).sha256 for number in (0, 2, 3)}


def test_what_is_in_use_stays_and_the_newcomer_waits(cache: ShardCache, source: Source) -> None:
    for number in (0, 1, 2):
        read(cache, source, number)
        age(cache, number, 50 - number)
    with cache.opened(shard(0), source.fill(0), lambda: False):
        age(cache, 0, 999)
        read(cache, source, 3)
        assert shard(0).sha256 in names(cache)
    opened = [cache.opened(shard(number), source.fill(number), lambda: False) for number in (0, 2, 3)]
    for each in opened:
        each.__enter__()
    assert not cache.fetch_ahead(shard(4), source.fill(4))
    with pytest.raises(Stopped), cache.opened(shard(4), source.fill(4), lambda: True):
        pass
    waiting = threading.Thread(target=read, args=(cache, source, 4))
    waiting.start()
    time.sleep(0.1)
    assert 4 not in source.calls
    for each in opened:
        each.__exit__(None, None, None)
    waiting.join(5)
    assert 4 in source.calls
    assert bytes_in(cache.folder) <= cache.bound


def test_a_failed_fetch_leaves_nothing(cache: ShardCache) -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), cache.opened(shard(0), fail, lambda: False):
        pass
    assert names(cache) == set()
    assert not held_files._held


def test_a_damaged_file_is_fetched_again(cache: ShardCache, source: Source) -> None:
    read(cache, source, 0)
    os.truncate(cache.folder / shard(0).sha256, 10)
    read(cache, source, 0)
    assert source.calls == [0, 0]


def test_a_file_removed_from_outside_is_fetched_again(cache: ShardCache, source: Source) -> None:
    read(cache, source, 0)
    (cache.folder / shard(0).sha256).unlink()
    read(cache, source, 0)
    assert source.calls == [0, 0]


def test_what_can_never_fit_is_refused(cache: ShardCache, source: Source) -> None:
    with (
        pytest.raises(CacheError, match=r"s-0.tar has 3,001 bytes, .* 3,000: raise data.remote.cache_gb"),
        cache.opened(shard(0, 3001), source.fill(0, 3001), lambda: False),
    ):
        pass


def test_a_folder_that_was_cleaned_away_is_made_again(cache: ShardCache, source: Source) -> None:
    read(cache, source, 0)
    shutil.rmtree(cache.folder)
    read(cache, source, 0)
    assert source.calls == [0, 0]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, source: Source) -> None:
    (tmp_path / "file").touch()
    cache = ShardCache(tmp_path / "file", SIZE)
    with pytest.raises(CacheError, match=r"file/cait-dist-shards-\d+ cannot be made .*cache_dir"):
        read(cache, source, 0)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(cache: ShardCache, source: Source) -> None:
    cache.folder.mkdir()
    os.chown(cache.folder, 12345, 12345)
    with pytest.raises(CacheError, match="belongs to another user"):
        read(cache, source, 0)


def test_a_forked_child_keeps_neither_locks_nor_files(cache: ShardCache, source: Source) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def fill(descriptor: int) -> None:
        inside.set()
        assert go_on.wait(10)
        source.fill(0)(descriptor)

    fetching = threading.Thread(target=lambda: cache.fetch_ahead(shard(0), fill))
    fetching.start()
    assert inside.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(len(files_below(cache.folder)))
    assert os.waitpid(child, 0)[1] == 0
    assert len(files_below(cache.folder)) == 1
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        go_on.set()
        fetching.join(10)
        # Nobody else has it locked, whoever was forked meanwhile.
        held_files.release(held_files.hold(cache.folder / shard(0).sha256, os.O_RDWR, fcntl.LOCK_EX | fcntl.LOCK_NB))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def files_below(folder: Path) -> list[str]:
    """What this process has open in a folder."""
    found = []
    for number in range(3, 200):
        with contextlib.suppress(OSError):
            found.append(str(Path(f"/proc/self/fd/{number}").readlink()))
    return [name for name in found if name.startswith(str(folder))]


FETCHER = """
import os, random, sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from test_data_shard_cache import SIZE, content, shard
from cait_dist.data.shard_cache import ShardCache

def slowly(number):
    def write(descriptor):
        print("fetching", number, flush=True)
        for start in range(0, SIZE, 100):
            os.pwrite(descriptor, content(number)[start : start + 100], start)
            time.sleep({pause})
    return write

cache, order = ShardCache(Path(sys.argv[1]), int(sys.argv[2])), random.Random(int(sys.argv[3]))
for _ in range({reads}):
    number = order.randrange(12)
    with cache.opened(shard(number), slowly(number), lambda: False) as descriptor:
        assert os.pread(descriptor, SIZE, 0) == content(number)
"""


def fetcher(cache: ShardCache, seed: int, pause: float, reads: int) -> "subprocess.Popen[str]":
    code = FETCHER.format(path=sys.path, pause=pause, reads=reads)
    command = [sys.executable, "-c", code, str(cache.folder.parent), str(cache.bound), str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_share_it_and_never_exceed_the_bound(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 5 * SIZE + 100)
    with watching(cache.folder) as watch:
        processes = [fetcher(cache, seed, 0.0005, 60) for seed in range(4)]
        outcomes = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outcomes
    fetched = sum(out.count("fetching") for out, _ in outcomes)
    assert 12 <= fetched < 4 * 60
    assert watch.looks > 50
    assert 4 * SIZE < watch.most <= cache.bound
    assert not any(name.endswith(".part") for name in names(cache))


def test_a_killed_fetcher_leaves_room_and_no_trace(cache: ShardCache, source: Source) -> None:
    process = fetcher(cache, 1, 60, 1)
    assert process.stdout is not None
    number = int(process.stdout.readline().split()[1])
    # Alive, it keeps its room, and others leave the shard to it.
    assert bytes_in(cache.folder) == SIZE
    assert not cache.fetch_ahead(shard(number), source.fill(number))
    others = [other for other in range(12) if other != number]
    for other in others[:3]:
        read(cache, source, other)
    assert f"{shard(number).sha256}.part" in names(cache)
    assert bytes_in(cache.folder) == 3 * SIZE
    process.kill()
    process.communicate()
    for other in others[3:6]:
        read(cache, source, other)
    assert names(cache) == {shard(other).sha256 for other in others[3:6]}


def test_a_dead_fetchers_shard_is_taken_over(cache: ShardCache, source: Source) -> None:
    process = fetcher(cache, 1, 60, 1)
    assert process.stdout is not None
    number = int(process.stdout.readline().split()[1])
    waiting = threading.Thread(target=read, args=(cache, source, number))
    waiting.start()
    time.sleep(0.2)
    assert source.calls == []
    process.kill()
    process.communicate()
    waiting.join(5)
    assert source.calls == [number]
    assert names(cache) == {shard(number).sha256}
