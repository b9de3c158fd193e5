"""Oxford Flowers-102: numbers from 1 in three MATLAB lists, and images in a compressed archive."""

import gzip
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ilsvrc_tree import tar_of
from PIL import Image
from scipy.io import savemat
from transfer_sets import FLOWER_LABELS, Facts, write_flower_lists, write_flowers, write_tgz

from data_prep.errors import DataPrepError
from data_prep.flowers import open_flowers
from data_prep.packed_images import PackedSource
from data_prep.plan import make_plan
from data_prep.run import run
from data_prep.sources import open_source
from data_prep.verify import verify

JPEGS = [(f"jpg/image_{number:05d}.jpg", b"") for number in range(1, len(FLOWER_LABELS) + 1)]


def check(facts: Facts, source: PackedSource) -> None:
    for name, split in source.splits.items():
        assert split.class_names == facts.classes == tuple(str(number) for number in range(1, 103))
        assert dict(zip(split.names, split.labels.tolist(), strict=True)) == facts.labels[name]
        assert list(split.names) == sorted(facts.labels[name])


@pytest.fixture(params=[True, False], ids=["packed", "unpacked"])
def flowers(request: pytest.FixtureRequest, tmp_path: Path) -> Facts:
    return write_flowers(tmp_path / "flowers", packed=request.param)


def test_train_and_valid_are_train_and_the_official_test_is_val(flowers: Facts, tmp_path: Path) -> None:
    source = open_source(flowers.root)
    assert isinstance(source, PackedSource)
    check(flowers, source)
    assert source.remarks == (
        "Oxford Flowers-102: train is trnid and valid together (16 + 8 images), val is tstid, the official test split "
        "(8)",
    )
    source = source.keeping_in(tmp_path / "scratch")
    for split in source.splits.values():
        for name, label in zip(split.names, split.labels.tolist(), strict=True):
            assert source.read(name) == flowers.content[name]
            with Image.open(io.BytesIO(source.read(name))) as image:
                assert flowers.label_of(np.asarray(image)) == label


def test_packed_unpacked_and_decompressed_make_the_same_data_set(tmp_path: Path) -> None:
    digests = set()
    for kind in ("packed", "unpacked", "decompressed", "tgz in name alone"):
        root = tmp_path / kind
        facts = write_flowers(root, packed=kind != "unpacked")
        if kind == "decompressed":
            (root / "102flowers.tar").write_bytes(gzip.decompress((root / "102flowers.tgz").read_bytes()))
            (root / "102flowers.tgz").unlink()
        elif kind == "tgz in name alone":
            (root / "102flowers.tgz").write_bytes(gzip.decompress((root / "102flowers.tgz").read_bytes()))
        source = open_flowers(root)
        digests.add(make_plan(source, tmp_path / "out").digest)
        assert source.compressed == ({root / "102flowers.tgz"} if kind == "packed" else set())
        if kind != "packed":
            assert source.read("jpg/image_00007.jpg") == facts.content["jpg/image_00007.jpg"]
    assert len(digests) == 1


def test_an_archive_is_decompressed_once_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    facts = write_flowers(tmp_path / "flowers")
    plan = make_plan(open_source(facts.root), tmp_path / "out", shard_size=8)
    task = pickle.loads(pickle.dumps(plan.task(0)))
    assert len(pickle.dumps(task)) < len(pickle.dumps(plan.source)) / 2
    with pytest.raises(OSError, match="No such file"):
        task.source.read(plan.task(1).names[0])
    assert [task.source.read(name) for name in task.names] == [facts.content[name] for name in task.names]
    (spill,) = [path for path in (tmp_path / "out" / ".scratch").iterdir() if not path.suffix]
    assert spill.read_bytes() == gzip.decompress((facts.root / "102flowers.tgz").read_bytes())
    written = spill.stat().st_mtime_ns
    assert plan.source.read(plan.task(1).names[0]) == facts.content[plan.task(1).names[0]]
    assert spill.stat().st_mtime_ns == written
    run(plan, workers=1, progress=False)
    assert not (tmp_path / "out" / ".scratch").exists()
    assert verify(tmp_path / "out").ok


def test_an_archive_that_was_damaged_meanwhile_is_told(tmp_path: Path) -> None:
    facts = write_flowers(tmp_path / "flowers")
    plan = make_plan(open_source(facts.root), tmp_path / "out")
    archive = facts.root / "102flowers.tgz"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DataPrepError, match=r"102flowers.tgz: damaged or cut off .*; fetch or write it again"):
        plan.source.read(plan.task(0).names[0])
    assert not [path for path in (tmp_path / "out" / ".scratch").iterdir() if not path.suffix]


def change_sets(root: Path, **changed: object) -> None:
    numbers = np.arange(1, 33)
    sets = {"trnid": numbers[:8], "valid": numbers[8:16], "tstid": numbers[16:]}
    savemat(root / "setid.mat", {key: value for key, value in {**sets, **changed}.items() if value is not None})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "102flowers.tgz").unlink(), r"holds neither 102flowers.tgz nor the folder jpg"),
        (lambda root: (root / "imagelabels.mat").unlink(), r"lacks the file imagelabels.mat; fetch it again"),
        (lambda root: (root / "setid.mat").unlink(), r"lacks the file setid.mat"),
        (
            lambda root: write_tgz(root / "102flowers.tgz", JPEGS[:-1]),
            r"102flowers.tgz: holds 31 images, imagelabels.mat states the classes of 32; fetch 102flowers.tgz again",
        ),
        (
            lambda root: write_tgz(root / "102flowers.tgz", [*JPEGS[:-1], ("jpg/image_99999.jpg", b"")]),
            r"102flowers.tgz: lacks 1 of the 24 images that imagelabels.mat lists: jpg/image_00032.jpg; fetch",
        ),
        (lambda root: write_tgz(root / "102flowers.tgz", [*JPEGS, JPEGS[3]]), r"holds 'jpg/image_00004.jpg' twice"),
        (lambda root: write_flower_lists(root, FLOWER_LABELS[:-1]), r"setid.mat has the image number in trnid 32 at"),
        (lambda root: write_flower_lists(root, (102, *FLOWER_LABELS)), r"imagelabels.mat has the label 103 at place 1"),
        (lambda root: write_flower_lists(root, (-1, *FLOWER_LABELS)), r"has the label 0 at place 1, outside of 1 to"),
        (lambda root: write_flower_lists(root, (0.5, *FLOWER_LABELS)), r"has labels that are no whole numbers"),
        (lambda root: write_flower_lists(root, (np.inf, *FLOWER_LABELS)), r"has labels that are no whole numbers"),
        (lambda root: savemat(root / "imagelabels.mat", {"labels": ["a", "b"]}), r"has labels that are no whole"),
        (lambda root: savemat(root / "imagelabels.mat", {"label": [1]}), r"imagelabels.mat has no variable labels"),
        (lambda root: change_sets(root, valid=None), r"setid.mat has no variable valid"),
        (lambda root: change_sets(root, valid=[1, 2]), r"setid.mat has an image in two sets, or twice in one"),
        (lambda root: change_sets(root, valid=[33]), r"number in valid 33 at place 1, outside of 1 to 32"),
        (lambda root: change_sets(root, valid=[0]), r"number in valid 0 at place 1, outside of 1 to 32"),
        (lambda root: (root / "setid.mat").write_bytes(b"<html>"), r"setid.mat is no MATLAB file of level 5; fetch"),
        (lambda root: (root / "setid.mat").write_bytes(b""), r"setid.mat is no MATLAB file of level 5; fetch it again"),
        (
            lambda root: (root / "setid.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400)),
            r"setid.mat is a MATLAB file of version 7.3 or of none that is known; save it with -v7",
        ),
        (
            lambda root: (root / "102flowers.tgz").write_bytes((root / "102flowers.tgz").read_bytes()[:-200]),
            r"102flowers.tgz: damaged or cut off",
        ),
        (
            lambda root: (root / "102flowers.tgz").write_bytes(gzip.compress(tar_of(JPEGS)[:2000])),
            r"102flowers.tgz: (not a whole, uncompressed tar|ends without a tar's end mark)",
        ),
        (lambda root: (root / "102flowers.tgz").write_bytes(b"<html>"), r"102flowers.tgz: not a whole"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_file(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write_flowers(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataPrepError, match=message) as caught:
        open_source(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_no_set_are_left_out_and_it_is_told(tmp_path: Path) -> None:
    write_flowers(tmp_path)
    change_sets(tmp_path, tstid=np.arange(17, 30))
    source = open_flowers(tmp_path)
    assert [len(split.names) for split in source.splits.values()] == [16, 13]
    assert "3 files beside the images are ignored, as no list names them" in source.remarks[-1]


def test_a_folder_that_lacks_an_image_is_told(tmp_path: Path) -> None:
    write_flowers(tmp_path, packed=False)
    os.rename(tmp_path / "jpg" / "image_00003.jpg", tmp_path / "jpg" / "image_99999.jpg")  # noqa: PTH104
    with pytest.raises(DataPrepError, match=r"jpg: lacks 1 of the 24 images .*: jpg/image_00003.jpg; fetch or unpack"):
        open_flowers(tmp_path)
    with pytest.raises(DataPrepError, match="has a val split"):
        open_flowers(write_flowers(tmp_path / "whole").root, val_share=0.1)


def test_matlab_files_damaged_anywhere_are_errors_of_ours_or_other_data(tmp_path: Path) -> None:
    write_flowers(tmp_path, packed=False)
    raw = (tmp_path / "setid.mat").read_bytes()
    generator = np.random.RandomState(0)
    refused = []
    for _ in range(150):
        damaged = bytearray(raw)
        for place in generator.randint(len(raw), size=1 + generator.randint(3)):
            damaged[place] = generator.randint(256)
        (tmp_path / "setid.mat").write_bytes(damaged)
        try:
            open_flowers(tmp_path)
        except DataPrepError as error:
            refused.append(str(error))
    assert len(refused) > 15
    assert all("setid.mat" in message for message in refused)
