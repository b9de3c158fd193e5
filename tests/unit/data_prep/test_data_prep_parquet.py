"""Parquet files laid out as the Hugging Face hub has them."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ilsvrc_tree import COLOURS, WNIDS, label_by_colour, plain
from image_folders import encode, picture

from cait_dist.data.decode import decode_rgb
from cait_dist.data.reader_webdataset import open_split
from data_prep.errors import DataPrepError
from data_prep.parquet import open_parquet
from data_prep.parquet_spill import make_spill, read_spilled
from data_prep.plan import make_plan
from data_prep.run import run
from data_prep.sources import open_source

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def table(images: list[bytes | None], labels: list[int | None], start: int = 0, names: object = WNIDS) -> Any:
    """A table as the ``datasets`` library writes it, with its description of the columns in the metadata."""
    paths = [f"ILSVRC2012_val_{start + i + 1:08d}_n0.JPEG" for i in range(len(images))]
    structs = pyarrow.array(
        [{"bytes": image, "path": path} for image, path in zip(images, paths, strict=True)],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )
    found = pyarrow.table({"image": structs, "label": pyarrow.array(labels, pyarrow.int64())})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        found = found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return found


def write(path: Path, content: Any, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(content, path, **{"row_group_size": 10, **options})
    return path


def coloured(count: int, start: int = 0, **options: Any) -> Any:
    labels = [(start + i) * 3 % 5 for i in range(count)]
    return table([encode(plain(COLOURS[label], start + i)) for i, label in enumerate(labels)], labels, start, **options)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    write(root / "data/train-00000-of-00002.parquet", coloured(37))
    write(root / "data/train-00001-of-00002.parquet", coloured(20, 37), compression="none", use_dictionary=False)
    write(root / "data/validation-00000-of-00001.parquet", coloured(15, 57))
    write(root / "data/test-00000-of-00001.parquet", table([encode(picture(0))] * 3, [-1] * 3))
    return root


def test_images_labels_and_names_are_found(hub: Path, tmp_path: Path) -> None:
    source = open_source(hub)
    assert {name: len(split.names) for name, split in source.splits.items()} == {"train": 57, "val": 15}
    assert source.remarks == ("test is left out: it has no labels",)
    name = "data/validation-00000-of-00001.parquet/000002/ILSVRC2012_val_00000060_n0.JPEG"
    assert source.splits["val"].names[2] == name
    out = tmp_path / "out"
    run(make_plan(source, out, shard_size=8), workers=2, progress=False)
    for split, count in (("train", 57), ("val", 15)):
        reader = open_split(out, split)
        assert reader.class_names == WNIDS
        assert [label_by_colour(decode_rgb(reader.read(i))) for i in range(count)] == reader.labels.tolist()
    assert not [entry for entry in out.iterdir() if entry.name not in ("train", "val", "plan.json", ".lock")]
    # The bytes are those of the plan, however the work is divided.
    again = tmp_path / "again"
    run(make_plan(open_source(hub), again, shard_size=8), workers=1, progress=False)
    for tar in out.rglob("*.tar"):
        assert tar.read_bytes() == (again / tar.relative_to(out)).read_bytes()


def test_a_million_names_do_not_travel(hub: Path, tmp_path: Path) -> None:
    plan = make_plan(open_source(hub), tmp_path / "out", shard_size=4)
    assert plan.task(0).source.splits == {}


def test_spills_are_kept_over_an_interruption_and_made_again_for_other_content(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(open_source(hub), tmp_path / "out")
    task = plan.task(plan.num_shards - 1)
    first = task.source.read(task.names[0])
    with monkeypatch.context() as patch:
        patch.setattr("data_prep.parquet_spill._write_spill", lambda *_: pytest.fail("copied again"))
        assert task.source.read(task.names[0]) == first
    write(hub / "data/validation-00000-of-00001.parquet", coloured(15, 80))
    assert task.source.read(task.names[0]) != first


@pytest.mark.parametrize("names", [None, WNIDS])
def test_a_plain_column_of_bytes_and_other_names_do(tmp_path: Path, names: object) -> None:
    images = [encode(plain(COLOURS[i % 5], i)) for i in range(10)]
    content = pyarrow.table({"img": pyarrow.array(images), "cls": pyarrow.array([i % 5 for i in range(10)], "uint8")})
    write(tmp_path / "in/some.parquet", content)
    source = open_parquet(tmp_path / "in", split="v2").keeping_in(tmp_path / "scratch")
    assert source.splits["v2"].class_names == tuple("01234")
    assert [source.read(name) for name in source.splits["v2"].names] == images


def test_several_columns_of_labels_are_told(tmp_path: Path) -> None:
    content = coloured(5).append_column("coarse", pyarrow.array([0] * 5))
    write(tmp_path / "a.parquet", content)
    features = {"huggingface": "[1]"}
    assert not open_parquet(tmp_path).remarks  # the description says which one is a label
    write(tmp_path / "a.parquet", content.replace_schema_metadata(features))
    assert open_parquet(tmp_path).remarks == ("the labels are taken from the column label, not from coarse",)
    write(tmp_path / "a.parquet", content.rename_columns(["image", "fine", "coarse"]).replace_schema_metadata(None))
    with pytest.raises(DataPrepError, match="several columns may hold the labels: fine, coarse; call one 'label'"):
        open_parquet(tmp_path)


def test_rows_without_an_image_are_put_aside(tmp_path: Path) -> None:
    images: list[bytes | None] = [encode(picture(i)) for i in range(20)]
    images[3], images[4] = None, b""
    write(tmp_path / "in/a.parquet", table(images, [0] * 20))
    summary = run(make_plan(open_source(tmp_path / "in"), tmp_path / "out", max_broken=0.1), progress=False)
    assert (summary.images, summary.quarantined) == ({"train": 18}, 2)
    assert (tmp_path / "out/train/quarantine.jsonl").read_text().count('"empty"') == 2


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([table([b"x"], [5])], "has a label 5, but names for 5 classes only"),
        ([table([b"x", b"y"], [0, -1])], "train has a label -1; labels are numbers from 0"),
        ([table([b"x", b"y"], [0, None])], "1 rows have no label; remove them"),
        ([table([], [])], "train holds no rows"),
        ([coloured(3), coloured(3, names=("cat", "dog"))], "has other columns or class names than a0.parquet"),
        ([coloured(3).drop_columns("label")], "has no column of labels"),
        ([coloured(3).drop_columns("image")], "has no column of images"),
    ],
)
def test_what_is_no_set_of_labelled_images_is_refused(tmp_path: Path, contents: list[Any], message: str) -> None:
    for number, content in enumerate(contents):
        write(tmp_path / f"a{number}.parquet", content)
    with pytest.raises(DataPrepError, match=message):
        open_source(tmp_path)


def test_damaged_files_are_named(hub: Path, tmp_path: Path) -> None:
    path = hub / "data/train-00000-of-00002.parquet"
    plan = make_plan(open_source(hub), tmp_path / "out")
    whole = path.read_bytes()
    path.write_bytes(whole[:2000] + bytes(20000) + whole[22000:])
    with pytest.raises(DataPrepError, match=r"train-00000-of-00002\.parquet: cannot be read"):
        run(plan, workers=1, progress=False)
    for damaged in (whole[:-10], b"", b"junk" * 10):
        path.write_bytes(damaged)
        with pytest.raises(DataPrepError, match=r"train-00000-of-00002\.parquet: cannot be read"):
            open_source(hub)


def test_a_full_disk_is_named_and_no_broken_image(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(open_source(hub), tmp_path / "out")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_prep.parquet_spill._write_spill", refuse)
    with pytest.raises(DataPrepError, match=r"cannot hold the images of .*No space left on device\); make room"):
        run(plan, workers=1, progress=False)


def test_the_cost_grows_with_the_number_of_images_and_not_with_its_square(tmp_path: Path) -> None:
    images = [encode(picture(i, 16, 16)) for i in range(50)]
    seconds = []
    for count in (1500, 6000):
        content = table([images[i % 50] for i in range(count)], [i % 5 for i in range(count)])
        root = tmp_path / str(count)
        for split in range(4):
            quarter = content.slice(split * count // 4, count // 4)
            write(root / f"train-{split}.parquet", quarter, row_group_size=100)
        plan = make_plan(open_source(root), tmp_path / f"out{count}", shard_size=100)
        began = time.process_time()
        run(plan, workers=1, progress=False)
        seconds.append(time.process_time() - began)
    # Four times as many images: four times as long, where a row group per image would take sixteen times.
    assert seconds[1] < 8 * seconds[0], seconds


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    noise = np.random.RandomState(0).bytes(1 << 20)
    content = table([noise[i:] + noise[:i] for i in range(200)], [0] * 200)
    # One row group of 200 MB in pages of 8 rows.
    path = write(tmp_path / "a.parquet", content, row_group_size=200, write_batch_size=8)
    del content
    pyarrow.default_memory_pool().release_unused()
    before = psutil.Process(os.getpid()).memory_info().rss
    make_spill(path, "image.bytes", tmp_path / "spill")
    assert psutil.Process(os.getpid()).memory_info().rss - before < 150 << 20
    assert read_spilled(tmp_path / "spill", 7) == noise[7:] + noise[:7]
    with pytest.raises(OSError, match="has no row 200"):
        read_spilled(tmp_path / "spill", 200)
