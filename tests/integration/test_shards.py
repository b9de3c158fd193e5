"""Shards from end to end: written, interrupted, damaged, and read by others' programs as well as by ours."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from image_folders import encode, picture, write_image_folder

from cait_dist.config.augment import AugmentConfig
from cait_dist.data.errors import CorruptImageError, DataError
from cait_dist.data.loader import EvalLoader, TrainLoader
from cait_dist.data.order import SampleOrder
from cait_dist.data.reader_webdataset import WebDatasetReader, open_split
from data_prep.manifest import ManifestError
from data_prep.plan import make_plan
from data_prep.run import run
from data_prep.sources import FolderSource, open_source
from data_prep.verify import verify


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "shards"
    run(make_plan(open_source("digits", image_size=24), out), progress=False)
    return out


def test_digits_are_prepared_verified_and_loaded(digits: Path) -> None:
    report = verify(digits)
    assert report.ok
    assert sum(split.samples for split in report.splits) == 1797
    train, val = open_split(digits, "train"), open_split(digits, "val")
    assert train.class_names == val.class_names == tuple("0123456789")
    order = SampleOrder(train.num_samples, 0, "block", 1, train.shard_sizes, 4)
    with TrainLoader(
        train, order, AugmentConfig(), image_size=24, seed=0, global_batch=64, micro_batch=32, workers=2
    ) as loader:
        # Two passes, to the nearest step.
        batches = list(itertools.islice(loader, 2 * 2 * train.num_samples // 64))
    ids = np.concatenate([batch.ids for batch in batches])
    assert np.bincount(ids[: train.num_samples], minlength=train.num_samples).tolist() == [1] * train.num_samples
    assert sum(len(batch.ids) for batch in EvalLoader(val, image_size=24, crop_ratio=1.0, batch=64)) == val.num_samples


def test_webdataset_reads_our_shards(digits: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    reader = open_split(digits, "train")
    urls = [str(path) for path in sorted((digits / "train").glob("*.tar"))]
    count = 0
    for index, sample in enumerate(webdataset.WebDataset(urls, shardshuffle=False)):
        assert sample["jpg"] == reader.read(index)
        assert int(sample["cls"]) == reader.labels[index]
        count += 1
    assert count == reader.num_samples


def test_tars_written_by_webdataset_are_read_as_they_are(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "train").mkdir()
    images = [encode(picture(seed), "PNG" if seed % 3 == 0 else "JPEG") for seed in range(50)]
    with webdataset.ShardWriter(str(tmp_path / "train" / "photos-%03d.tar"), maxcount=20, verbose=0) as writer:
        for seed, image in enumerate(images):
            writer.write(
                {"__key__": f"a/{seed}", "png" if seed % 3 == 0 else "jpg": image, "cls": seed % 4, "json": {"n": seed}}
            )
    reader = open_split(tmp_path, "train")
    assert [reader.read(index) for index in range(50)] == images
    assert reader.labels.tolist() == [seed % 4 for seed in range(50)]
    order = SampleOrder(50, 0)
    with TrainLoader(
        reader, order, AugmentConfig(), image_size=8, seed=0, global_batch=10, micro_batch=10, workers=2
    ) as loader:
        ids = np.concatenate([batch.ids for batch in itertools.islice(loader, 5)])
    assert sorted(ids.tolist()) == list(range(50))


PREPARE = """
import sys, time
from pathlib import Path
from data_prep.plan import make_plan
from data_prep.run import run
from data_prep.sources import FolderSource

class Slow(FolderSource):
    def read(self, name):
        time.sleep(float(sys.argv[4]))
        return super().read(name)

if __name__ == "__main__":
    run(make_plan(Slow(Path(sys.argv[1])), sys.argv[2], shard_size=8), workers=int(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``images``, and ``shards`` made from it without interruption."""
    root = tmp_path_factory.mktemp("prepared")
    write_image_folder(root / "images", {"train": 280, "val": 40})
    run(make_plan(FolderSource(root / "images"), root / "shards", shard_size=8), progress=False)
    (root / "prepare.py").write_text(PREPARE)
    return root


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("[!.]*") if path.is_file()}


def prepare(prepared: Path, out: Path, workers: int, seconds_per_image: float = 0.008) -> "subprocess.Popen[str]":
    program, images = str(prepared / "prepare.py"), str(prepared / "images")
    command = [sys.executable, program, images, str(out), str(workers), str(seconds_per_image)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_shards(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    while len(list(out.glob("*/*.tar"))) < count:
        assert process.poll() is None, "it finished before it could be interrupted"
        time.sleep(0.01)


@pytest.mark.parametrize(("workers", "kills"), [(1, (3, 9, 20)), (2, (4, 16))])
def test_kills_in_the_middle_leave_no_trace(
    prepared: Path, tmp_path: Path, workers: int, kills: tuple[int, ...]
) -> None:
    out = tmp_path / "shards"
    for shards in kills:
        process = prepare(prepared, out, workers)
        wait_for_shards(out, shards, process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate(timeout=20)
        # Workers notice that nobody is left to work for.
        assert not psutil.wait_procs(children, timeout=10)[1]
    assert not (out / "train" / "manifest.json").exists()
    again = run(make_plan(FolderSource(prepared / "images"), out, shard_size=8), progress=False)
    # A kill may fall between a shard and its record; then the shard is built again.
    assert again.found_finished >= kills[-1] - workers
    assert content(out) == content(prepared / "shards")


def test_ctrl_c_stops_all_workers_and_says_how_to_go_on(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    process = prepare(prepared, out, 2, seconds_per_image=0.05)  # seconds are left, also where this process must wait
    wait_for_shards(out, 5, process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "run the same command again to go on" in errors
    assert errors.count("Traceback") == 1  # the main process's own; the command line shows none
    assert not psutil.wait_procs(children, timeout=5)[1]
    assert not list(out.glob("*/.*.part"))
    assert run(make_plan(FolderSource(prepared / "images"), out, shard_size=8), progress=False).found_finished >= 5
    assert content(out) == content(prepared / "shards")


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared / "shards", tmp_path / "copy"))


def test_an_overwritten_image_is_reported_and_stops_the_loader(copy: Path) -> None:
    reader = WebDatasetReader(copy / "train")
    tar = copy / "train" / "train-000004.tar"
    row = int(np.flatnonzero(reader._samples["shard"] == 4)[2])
    offset, size = (int(reader._samples[row][field]) for field in ("offset", "size"))
    damaged = bytearray(tar.read_bytes())
    damaged[offset + 20 : offset + size] = bytes(size - 20)
    tar.write_bytes(damaged)
    problems = "\n".join(verify(copy).problems)
    assert f"{tar}: the checksum is not that of the manifest" in problems
    assert f"{tar}: sample 2 of the shard (offset {offset}) cannot be decoded" in problems
    reader = WebDatasetReader(copy / "train")
    place = rf"sample {row} \(.*train-000004.tar, offset {offset}.*run `cait verify`"
    loader = TrainLoader(
        reader, SampleOrder(280, 0), AugmentConfig(), image_size=8, seed=0, global_batch=280, micro_batch=28, workers=2
    )
    with loader, pytest.raises(CorruptImageError, match=place):
        list(itertools.islice(loader, 10))


def test_a_cut_shard_is_reported_and_not_opened(copy: Path) -> None:
    tar = copy / "train" / "train-000002.tar"
    os.truncate(tar, tar.stat().st_size - 512)
    assert any("train-000002.tar" in problem for problem in verify(copy).problems)
    with pytest.raises(ManifestError, match=r"train-000002\.tar: has .* bytes, the manifest states"):
        open_split(copy, "train")
    assert issubclass(ManifestError, ValueError)
    assert issubclass(DataError, ValueError)
