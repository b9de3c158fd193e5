"""Betons: the layout, what is stored, and that nothing in one is believed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_folders import write_image_folder

from cait_dist.data.decode import decode_rgb
from cait_dist.data.errors import DataError
from cait_dist.data.reader_ffcv import FfcvReader
from cait_dist.data.reader_webdataset import WebDatasetReader, open_split
from data_prep import beton, write_ffcv
from data_prep.beton import JPG, RAW, BetonError, plan_layout, read_table
from data_prep.errors import DataPrepError
from data_prep.formats import prepare
from data_prep.plan import Plan, make_plan
from data_prep.sources import FolderSource
from data_prep.verify import verify


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), {"train": 60, "val": 20})


def plan_of(images: Path, out: Path) -> Plan:
    return make_plan(FolderSource(images), out, shard_size=16)


@pytest.fixture(scope="module")
def both(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("both") / "data"
    prepare(plan_of(images, out), "both", workers=1, progress=False)
    return out


@given(st.lists(st.integers(1, 3 * beton.DEFAULT_PAGE), min_size=1, max_size=50))
def test_no_image_crosses_a_page_and_none_overlap(sizes: list[int]) -> None:
    layout = plan_layout(np.asarray(sizes))
    first, last = layout.pointers, layout.pointers + np.asarray(sizes, np.uint64) - 1
    assert layout.page_size >= max(sizes)
    assert layout.page_size & (layout.page_size - 1) == 0
    np.testing.assert_array_equal(first // layout.page_size, last // layout.page_size)
    assert (first[1:] > last[:-1]).all()
    assert first[0] >= layout.page_size  # the first page is the header's
    assert last[-1] < layout.alloc_table
    assert layout.alloc_table % layout.page_size == 0


@pytest.mark.parametrize("mode", ["jpg", "proportion", "raw"])
def test_the_beton_holds_the_samples_of_the_tars_in_their_order(images: Path, tmp_path: Path, mode: str) -> None:
    prepare(plan_of(images, tmp_path / "data"), "both", mode, workers=2, progress=False)
    tars, stored = (open_split(tmp_path / "data", "train", kind) for kind in ("webdataset", "ffcv"))
    assert isinstance(tars, WebDatasetReader)
    assert isinstance(stored, FfcvReader)
    assert (stored.class_names, stored.shard_sizes, stored.digest) == (tars.class_names, tars.shard_sizes, tars.digest)
    assert stored.labels.tolist() == tars.labels.tolist()
    assert {"jpg": {JPG}, "raw": {RAW}, "proportion": {JPG, RAW}}[mode] == set(stored.table["mode"].tolist())
    for index in range(60):
        found, jpeg = stored.read(index), tars.read(index)
        if stored.table["mode"][index] == JPG:
            assert found == jpeg
        else:
            np.testing.assert_array_equal(found, decode_rgb(jpeg))
        assert stored.source_name(index) == tars.source_name(index)
    assert verify(tmp_path / "data").ok


def test_only_a_beton_is_left_where_only_a_beton_was_asked_for(images: Path, both: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare(plan_of(images, out), "ffcv", workers=1, progress=False)
    assert not list(out.glob("*/*.tar"))
    assert isinstance(open_split(out, "val"), FfcvReader)
    for split in ("train", "val"):
        assert (out / split / f"{split}.beton").read_bytes() == (both / split / f"{split}.beton").read_bytes()
    assert "nothing to do" in prepare(plan_of(images, out), "ffcv", workers=1, progress=False)
    assert verify(out).ok
    # Asked for tars after all, it makes them; the betons stay.
    prepare(plan_of(images, out), "both", workers=1, progress=False)
    assert len(list(out.glob("*/*.tar"))) == 6


@pytest.mark.parametrize(("owner", "left"), [("this", [2, 3]), ("another", [0, 1, 2, 3])])
def test_an_interrupted_beton_goes_on_where_it_stopped_if_it_is_the_same(
    images: Path, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, left: list[int]
) -> None:
    filled: list[int] = []
    real = write_ffcv._fill_chunk

    def failing(task: write_ffcv._FillTask, stopped: object) -> None:
        if len(filled) == 2:
            raise DataPrepError("the disk caught fire")
        filled.append(task.chunk.number)
        real(task, lambda: False)

    monkeypatch.setattr(write_ffcv, "_fill_chunk", failing)
    out = tmp_path / "data"
    with pytest.raises(DataPrepError, match="fire"):
        prepare(plan_of(images, out), "both", workers=1, progress=False)
    assert not list(out.glob("*/*.beton"))
    # A kill in the middle of a line of the journal.
    journal = out / "train" / ".train.beton.journal"
    identity, *rest = journal.read_text().split("\n")
    journal.write_text("\n".join([identity if owner == "this" else "made from other tars", *rest]) + "3")
    again: list[int] = []
    monkeypatch.setattr(write_ffcv, "_fill_chunk", lambda task, _: (again.append(task.chunk.number), real(task, _)))
    prepare(plan_of(images, out), "both", workers=1, progress=False)
    assert again[: len(left)] == left
    for split in ("train", "val"):
        assert (out / split / f"{split}.beton").read_bytes() == (both / split / f"{split}.beton").read_bytes()
        assert not list((out / split).glob(".*"))


def test_too_little_room_is_told_before_anything_is_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 1, 4096

    monkeypatch.setattr(write_ffcv.os, "statvfs", lambda _: Full())
    with pytest.raises(DataPrepError, match=r"train\.beton will have 0\.0 GB, 0\.0 GB are free; make room"):
        prepare(plan_of(images, tmp_path / "data"), "ffcv", workers=1, progress=False)


def damaged(both: Path, tmp_path: Path, at: int, content: bytes) -> Path:
    path = tmp_path / "train" / "train.beton"
    path.parent.mkdir()
    whole = bytearray((both / "train" / "train.beton").read_bytes())
    whole[at : at + len(content)] = content
    path.write_bytes(whole)
    (path.parent / "train.beton.json").write_bytes((both / "train" / "train.beton.json").read_bytes())
    return path


METADATA = beton._METADATA_START


@pytest.mark.parametrize(
    ("at", "content", "message"),
    [
        (0, b"\x07\x00", "not a beton of version 2"),
        (8, b"\xff" * 8, "ends before all"),
        (8, bytes(8), "holds no samples"),
        (16, b"\xff" * 8, "ends before all"),
        (24, b"\x05", "needed are an RGB image"),
        (METADATA + 5, b"\xff" * 8, "allocation table is not that"),
        (METADATA, b"\x02", "sample 0 does not lie within the file as stated"),
        (METADATA, b"\x01", "sample 0 does not lie within the file as stated"),
        (METADATA + 16, b"\xff" * 8, "has labels outside"),
    ],
)
def test_a_beton_that_lies_is_refused(both: Path, tmp_path: Path, at: int, content: bytes, message: str) -> None:
    path = damaged(both, tmp_path, at, content)
    with pytest.raises(BetonError, match=message):
        read_table(path)
    assert any(message in problem for problem in verify(tmp_path).problems)


@pytest.mark.parametrize("keep", [0, 10, 3000, -1])
def test_a_cut_beton_is_refused(both: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "train.beton"
    path.write_bytes((both / "train" / "train.beton").read_bytes()[:keep])
    with pytest.raises(BetonError, match="ends before all"):
        read_table(path)


def test_an_overwritten_image_is_found_by_checksum_and_by_decoding(both: Path, tmp_path: Path) -> None:
    place = int(read_table(both / "train" / "train.beton")["offset"][7])
    path = damaged(both, tmp_path, place + 20, bytes(200))
    problems = "\n".join(verify(tmp_path).problems)
    assert f"{path}: the checksum is not that of its record" in problems
    assert f"{path}: sample 7 (offset {place})" in problems


def test_a_record_of_another_file_is_noticed(both: Path, tmp_path: Path) -> None:
    path = damaged(both, tmp_path, 0, b"")
    (tmp_path / "train" / "train.beton.json").write_bytes((both / "val" / "val.beton.json").read_bytes())
    with pytest.raises(DataError, match="is not the file that its record"):
        FfcvReader(path.parent)


def test_a_beton_made_from_other_tars_is_noticed(both: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare(make_plan(FolderSource(images), out, shard_size=16, seed=1), "webdataset", workers=1, progress=False)
    for name in ("train.beton", "train.beton.json"):
        (out / "train" / name).write_bytes((both / "train" / name).read_bytes())
    assert [p for p in verify(out).problems if "was not made from the tars beside it" in p]


def test_the_record_states_the_checksum(both: Path) -> None:
    record = write_ffcv.read_beton_record(both / "val" / "val.beton")
    assert record.sha256 == hashlib.sha256((both / "val" / "val.beton").read_bytes()).hexdigest()
