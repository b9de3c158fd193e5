"""Remote files: whatever the server does, what arrives is right or the error says what happened."""

import os
import pickle
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moody_server import MoodyServer, serving

from cait_dist.config.data import RemoteConfig
from cait_dist.data import remote
from cait_dist.data.errors import CacheError, DataError, RemoteError, ShardReadError
from cait_dist.data.reader_webdataset import WebDatasetReader, open_split
from cait_dist.data.remote import remote_folder
from data_prep.manifest import ManifestError


@pytest.fixture
def server(shards: Path) -> Iterator[MoodyServer]:
    with serving(shards) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)


def settings(tmp_path: Path, **changes: object) -> RemoteConfig:
    return RemoteConfig.model_validate({"cache_dir": tmp_path, "retries": 3, "timeout": 10.0, **changes})


def patience(mood: str) -> float:
    """Seconds without data that are too many: short where the server will stall, else no busy machine's."""
    return 0.3 if mood == "stall" else 10.0


def opened(url: str, tmp_path: Path, split: str = "train", **changes: object) -> WebDatasetReader:
    reader = open_split(url, split, "auto", settings(tmp_path, **changes))
    assert isinstance(reader, WebDatasetReader)
    return reader


def assert_same(reader: WebDatasetReader, shards: Path, split: str = "train") -> None:
    local = open_split(shards, split)
    assert reader.digest == local.digest
    assert [reader.read(index) for index in range(reader.num_samples)] == [
        local.read(index) for index in range(local.num_samples)
    ]
    assert reader.source_name(7) == local.source_name(7)


def test_a_remote_split_is_the_local_one(server: MoodyServer, shards: Path, tmp_path: Path) -> None:
    reader = opened(server.url, tmp_path)
    assert_same(reader, shards)
    assert_same(pickle.loads(pickle.dumps(reader)), shards)
    # However often they are read, shards are fetched once.
    assert {count for path, count in server.answered.items() if path.endswith(".tar")} == {1}


@pytest.mark.parametrize("mood", ["refuse", "reset", "stall", "cut", "garble"])
def test_each_kind_of_trouble_is_noticed_and_overcome(
    server: MoodyServer, shards: Path, tmp_path: Path, mood: str
) -> None:
    server.moods, server.trouble = (mood,), 0.3
    reader = opened(server.url, tmp_path, retries=12, timeout=patience(mood))
    assert_same(reader, shards)
    assert server.seen[mood] >= 2


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("refuse", "the server answers 503 Service Unavailable"),
        ("reset", "Connection reset by peer"),
        ("stall", "no data for 0.3 seconds"),
        ("cut", r"(ended after|IncompleteRead|ended early|broken)"),
        ("garble", "does not have the checksum that the manifest states"),
    ],
)
def test_the_last_error_says_where_how_often_why_and_what_to_do(
    server: MoodyServer, tmp_path: Path, mood: str, reason: str
) -> None:
    reader = opened(server.url, tmp_path, timeout=patience(mood))
    server.moods, server.trouble = (mood,), 1.0
    with pytest.raises(RemoteError) as caught:
        reader.read(0)
    text = str(caught.value)
    place = f"{server.url}/train/train-000000.tar: gave up after 4 attempts, the last because: "
    assert text.startswith(place), text
    assert re.search(reason, text), text
    assert text.endswith("mend the server or the network, or raise data.remote.retries or data.remote.timeout")
    assert server.answered["/train/train-000000.tar"] == 4
    assert isinstance(caught.value, ShardReadError)
    # Nothing is left of it, and a server that has recovered is read.
    assert [path.name for path in reader_cache(tmp_path).iterdir()] == ["lock"]
    server.trouble = 0.0
    assert reader.read(0)


def reader_cache(tmp_path: Path) -> Path:
    return next(tmp_path.glob("cait-dist-shards-*"))


def test_a_missing_shard_is_an_error_at_once(server: MoodyServer, shards: Path, tmp_path: Path) -> None:
    server.folder = tmp_path / "copy"
    server.folder.mkdir()
    (server.folder / "train").symlink_to(shards / "train")
    reader = opened(server.url, tmp_path, retries=99)
    server.folder = tmp_path / "nothing"
    with pytest.raises(RemoteError, match=r"train-000000.tar: gave up after 2 attempts, .* 404 Not Found; see that"):
        reader.read(0)


def test_a_split_that_is_not_there_is_named(server: MoodyServer, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"/test/manifest.json: gave up after 2 attempts.* 404 Not Found; see that"):
        opened(server.url, tmp_path, "test")


def test_nobody_listening_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="gave up after 2 attempts, the last because: Connection refused"):
        opened("http://127.0.0.1:1", tmp_path, retries=1)


def test_a_manifest_is_held_against_itself_as_a_local_one_is(server: MoodyServer, shards: Path, tmp_path: Path) -> None:
    server.folder = tmp_path / "copy"
    (server.folder / "train").mkdir(parents=True)
    for name in ("manifest.json", "samples.npy"):
        (server.folder / "train" / name).write_bytes((shards / "train" / name).read_bytes())
    with (server.folder / "train" / "samples.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ManifestError, match=rf"{server.url}/train/samples.npy: does not have the checksum"):
        opened(server.url, tmp_path)
    with (server.folder / "train" / "samples.npy").open("ab") as file:
        file.write(bytes(10_000))
    with pytest.raises(RemoteError, match=r"samples.npy: .*has more than the [\d,]+ bytes that such a file can need"):
        opened(server.url, tmp_path)


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_any_protocol_of_fsspec_will_do(shards: Path, tmp_path: Path, protocol: str) -> None:
    url = f"file://{shards}"
    if protocol == "memory":
        url = "memory://cait/data"
        fsspec.filesystem("memory").put(str(shards), "/cait/data", recursive=True)
    reader = opened(url, tmp_path)
    assert_same(reader, shards)
    # A forked child reads on, and fetches what it lacks.
    for path in reader_cache(tmp_path).glob("*[!k]"):
        path.unlink()
    first = open_split(shards, "train").read(0)
    child = os.fork()
    if child == 0:
        os._exit(0 if reader.read(0) == first else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(("size", "reason"), [(-1, "ended after [0-9,]+ of"), (1, "has more than the [0-9,]+ bytes")])
def test_a_file_of_another_size_is_refused(shards: Path, tmp_path: Path, size: int, reason: str) -> None:
    fsspec.filesystem("memory").put(str(shards), "/sized", recursive=True)
    content = (shards / "train" / "train-000000.tar").read_bytes()
    fsspec.filesystem("memory").pipe("/sized/train/train-000000.tar", (content + b"x")[: len(content) + size])
    with pytest.raises(RemoteError, match=f"gave up after 3 attempts, the last because: {reason}"):
        opened("memory://sized", tmp_path, retries=2).read(0)


def test_a_protocol_that_stalls_is_left_alone(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").put(str(shards), "/stall", recursive=True)
    reader = opened("memory://stall", tmp_path, retries=1, timeout=patience("stall"))
    stalled = threading.Event()
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem._open", lambda *_, **__: stalled.wait(20))
    started = time.monotonic()
    with pytest.raises(RemoteError, match=r"memory://stall/train/train-000000.tar: .*no data for 0.3 seconds"):
        reader.read(0)
    assert time.monotonic() - started < 5
    stalled.set()


def test_a_missing_file_of_another_protocol_is_final(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"gave up after 2 attempts, .*No such file.*see that data.path is right"):
        opened(f"file://{tmp_path}/nothing", tmp_path, retries=99)


def test_protocols_that_nothing_can_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="fsspec knows no protocol 's4'; use http"):
        opened("s4://bucket/a", tmp_path)

    def without_s3fs(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", without_s3fs)
    with pytest.raises(DataError, match=r"s3:// needs another package .*pip install 'cait-dist\[s3\]'"):
        remote_folder("s3://bucket/a", 1, 1)


def test_a_full_disk_is_not_the_servers_fault(
    server: MoodyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = opened(server.url, tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CacheError, match=r"cannot be written \(No space left on device\): make room, lower"):
        reader.read(0)
    assert server.answered["/train/train-000000.tar"] == 1


def test_betons_are_not_read_from_urls(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="betons are read from disks only"):
        open_split("http://127.0.0.1:1", "train", "ffcv", settings(tmp_path))
