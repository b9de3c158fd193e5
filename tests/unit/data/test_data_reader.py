import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cait_dist.data import shard_files
from cait_dist.data.errors import DataError, ShardReadError
from cait_dist.data.reader_webdataset import WebDatasetReader, open_split
from data_prep.errors import DataPrepError
from data_prep.manifest import ManifestError


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_samples_are_the_files_they_were_made_from(shards: Path) -> None:
    reader = open_split(shards, "train")
    images = shards.parent / "images"
    seen = set()
    for index in range(reader.num_samples):
        name = reader.source_name(index)
        assert reader.read(index) == (images / name).read_bytes()
        assert reader.class_names[reader.labels[index]] == Path(name).parent.name
        seen.add(name)
    assert len(seen) == reader.num_samples == len(list((images / "train").glob("*/*"))) == 120
    assert reader.num_classes == 5
    assert sum(reader.shard_sizes) == 120
    assert reader.labels.dtype == np.int64


def test_digest_is_of_the_content(shards: Path) -> None:
    train, again, val = open_split(shards, "train"), open_split(shards, "train"), open_split(shards, "val")
    assert train.digest == again.digest != val.digest
    assert isinstance(train.digest, str)


def test_few_files_are_kept_open(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "MAX_OPEN_FILES", 2)
    before = open_files()
    reader = open_split(shards, "train")
    content = [reader.read(index) for index in range(120)]
    assert open_files() <= before + 2
    assert [reader.read(index) for index in reversed(range(120))] == content[::-1]
    reader.close()
    assert open_files() == before
    assert reader.read(0) == content[0]


def test_reader_survives_pickling_and_forking(shards: Path) -> None:
    reader = open_split(shards, "train")
    first = reader.read(0)
    assert pickle.loads(pickle.dumps(reader)).read(0) == first
    # Forked while another thread holds the lock, the child must not wait for it.
    with reader._files._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            os._exit(0 if reader.read(0) == first else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_threads_may_share_a_reader(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "MAX_OPEN_FILES", 1)
    reader = open_split(shards, "train")
    expected = [reader.read(index) for index in range(120)]
    start = threading.Barrier(4)

    def read_all(seed: int) -> None:
        start.wait()
        for index in np.random.RandomState(seed).permutation(120).tolist():
            assert reader.read(index) == expected[index]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_all, range(4)))


def test_ids_out_of_range_are_errors(shards: Path) -> None:
    reader = open_split(shards, "val")
    for index in (-1, 37):
        with pytest.raises(IndexError, match="samples 0 to 36"):
            reader.read(index)


def test_a_shard_cut_short_while_in_use_is_named(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "val"
    copy.mkdir()
    for path in (shards / "val").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    reader = WebDatasetReader(copy)
    last = reader.num_samples - 1
    os.truncate(copy / "val-000002.tar", reader._samples[last]["offset"] + 10)
    with pytest.raises(ShardReadError, match=r"sample 36 \(.*val-000002.tar, offset \d+.*cait verify"):
        reader.read(last)
    with pytest.raises(ManifestError, match=r"val-000002.tar: has .* bytes, the manifest states"):
        WebDatasetReader(copy)
    (copy / "val-000002.tar").unlink()
    with pytest.raises(ManifestError, match=r"val-000002.tar: the manifest lists this shard, but it is missing"):
        WebDatasetReader(copy)


def test_unknown_splits_are_answered_with_those_there_are(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        open_split(shards, "test")
    with pytest.raises(DataError, match="no such folder; prepare"):
        open_split(tmp_path / "nowhere", "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="holds no shards"):
        open_split(tmp_path, "train")
    (tmp_path / "train" / "train.beton").touch()
    with pytest.raises(DataPrepError, match=r"train\.beton: ends before all it should hold is described"):
        open_split(tmp_path, "train")
    with pytest.raises(DataError, match=r"holds no tars, which data\.format=webdataset asks for"):
        open_split(tmp_path, "train", "webdataset")
    with pytest.raises(DataError, match=r"holds no beton, which data\.format=ffcv asks for"):
        open_split(shards, "train", "ffcv")
