"""Others' WebDataset tars as a source."""

import json
from pathlib import Path

import pytest
from ilsvrc_tree import COLOURS, label_by_colour, plain, write_tar
from image_folders import encode, picture, write_data_set

from cait_dist.data.decode import decode_rgb
from cait_dist.data.reader_webdataset import open_split
from data_prep.errors import DataPrepError
from data_prep.plan import make_plan
from data_prep.run import run
from data_prep.sources import open_source
from data_prep.webdataset_source import open_tars


def samples(count: int, as_json: bool = False) -> list[tuple[str, bytes]]:
    members = []
    for number in range(count):
        label = number % 5
        members.append((f"dir/{number:04d}.jpeg", encode(plain(COLOURS[label], number))))
        content = json.dumps({"label": label}) if as_json else str(label)
        members.append((f"dir/{number:04d}.{'json' if as_json else 'cls'}", content.encode()))
    return members


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (("train/a.tar", "train/b.tar"), "val/a.tar"),
        (("set-train-0000.tar", "set-train-0001.tar"), "set-validation-0000.tar"),
        (("data/train_00.tar", "data/train_01.tar"), "data/val_00.tar"),
    ],
)
def test_tars_of_others_are_cleaned_shuffled_and_keep_their_labels(
    tmp_path: Path, train: tuple[str, str], val: str
) -> None:
    root = tmp_path / "theirs"
    for name, members in zip((*train, val), (samples(30), samples(20, as_json=True), samples(10)), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_tar(root / name, members)
    source = open_source(root)
    assert {split: len(images.names) for split, images in source.splits.items()} == {"train": 50, "val": 10}
    assert source.splits["train"].names[0] == f"{train[0]}/dir/0000.jpeg"
    run(make_plan(source, tmp_path / "out", shard_size=16), workers=1, progress=False)
    reader = open_split(tmp_path / "out", "train")
    assert reader.class_names == tuple("01234")
    assert reader.num_samples == 50
    for i in range(50):
        assert label_by_colour(decode_rgb(reader.read(i))) == reader.labels[i]


def test_one_split_may_be_named_and_divided(tmp_path: Path) -> None:
    write_tar(tmp_path / "photos-0.tar", samples(20))
    assert list(open_source(tmp_path).splits) == ["train"]
    assert list(open_source(tmp_path, split="v2").splits) == ["v2"]
    divided = open_source(tmp_path, val_share=0.25)
    assert {name: len(split.names) for name, split in divided.splits.items()} == {"train": 15, "val": 5}
    with pytest.raises(DataPrepError, match="cannot name a split"):
        open_source(tmp_path, split="../v2")


def test_classes_have_names_where_somebody_wrote_them_down(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", samples(10))
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\nowl\nunused\n", "utf-8")
    assert open_tars(tmp_path).splits["train"].class_names == ("ant", "bee", "cat", "dog", "owl", "unused")
    for content, message in (
        (b"ant\nbee\n", r"names 2 classes, the tars hold label 4; name them all"),
        (b"ant\n\nbee\ncat\ndog\n", "line 2 is empty"),
        (b"\xff\xfe", "cannot be read"),
    ):
        (tmp_path / "classes.txt").write_bytes(content)
        with pytest.raises(DataPrepError, match=message):
            open_tars(tmp_path)


def test_our_own_shards_can_be_prepared_anew(tmp_path: Path) -> None:
    shards = write_data_set(tmp_path, {"train": 40, "val": 10})
    source = open_source(shards)
    assert source.splits["val"].class_names == tuple(f"class{i}" for i in range(5))
    run(make_plan(source, tmp_path / "again", resize=20), workers=1, progress=False)
    old, new = open_split(shards, "train"), open_split(tmp_path / "again", "train")
    assert sorted(old.labels.tolist()) == sorted(new.labels.tolist())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-0.tar", "other-0.tar"], "the names of some files tell no split: other-0.tar"),
        (["train-val-0.tar"], "its name tells two splits"),
        (["a.tar", "a.parquet"], "holds both tars and parquet files"),
    ],
)
def test_names_that_do_not_tell_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write_tar(tmp_path / name, samples(5))
    with pytest.raises(DataPrepError, match=message):
        open_source(tmp_path)


def test_split_names_and_damage_are_told(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train-0.tar", samples(5))
    with pytest.raises(DataPrepError, match=r"tell their splits \(train\); leave out --split"):
        open_source(tmp_path, split="v2")
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(DataPrepError, match=r"train-0\.tar: ends without"):
        open_source(tmp_path)
    write_tar(tar, [("a.jpg", encode(picture(0)))])
    with pytest.raises(DataPrepError, match="'a' has no label"):
        open_source(tmp_path)
    write_tar(tar, [])
    with pytest.raises(DataPrepError, match="the tars of train hold no images with labels"):
        open_source(tmp_path)
