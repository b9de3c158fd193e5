import json
import random
from pathlib import Path

import pytest
from ilsvrc_tree import VAL_LABELS, WNIDS, write_ilsvrc_tree
from image_folders import write_image_folder
from typer.testing import CliRunner

from cait_dist.cli import app
from cait_dist.data.reader_webdataset import open_split
from data_prep.errors import DataPrepError
from data_prep.plan import Plan, make_plan
from data_prep.real_labels import read_real_labels
from data_prep.run import run
from data_prep.sources import open_source

REAL = [[] if i == 5 else [label, (label + i) % 5] if i % 2 else [label] for i, label in enumerate(VAL_LABELS)]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    root = tmp_path_factory.mktemp("real")
    write_ilsvrc_tree(root / "archives")
    return make_plan(open_source(root / "archives"), root / "shards", shard_size=5, max_broken=0.2)


def write_list(folder: Path, content: object) -> Path:
    path = folder / "real-labels.json"
    path.write_text(json.dumps(content))
    return path


def test_labels_follow_the_samples(plan: Plan, tmp_path: Path) -> None:
    path = write_list(tmp_path, REAL)
    options = ["prep", plan.source.place, "--out", str(plan.out), "--shard-samples", "5", "--max-broken", "0.2"]
    result = CliRunner().invoke(app, [*options, "--real", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = plan.out / "val" / "real.json"
    assert f"ReaL labels: {written}" in result.output
    labels = json.loads(written.read_text())
    val = open_split(plan.out, "val")
    assert len(labels) == val.num_samples == len(VAL_LABELS) - 1  # one image is damaged
    assert [val.source_name(i) for i in range(3)] != sorted(val.source_name(i) for i in range(3))
    for i, entry in enumerate(labels):
        number = int(val.source_name(i)[-13:-5])
        assert entry == REAL[number - 1]
        assert not entry or val.labels[i] in entry


def test_the_file_survives_and_comes_out_the_same(plan: Plan, tmp_path: Path) -> None:
    run(plan, progress=False)
    real = read_real_labels(write_list(tmp_path, REAL), plan)
    first = real.write(plan).read_bytes()
    assert run(plan, progress=False).nothing_to_do
    assert real.write(plan).read_bytes() == first
    (plan.out / "val" / "val-000001.tar").unlink()
    run(plan, progress=False)
    assert (plan.out / "val" / "real.json").read_bytes() == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (REAL[:-1], r"has 15 entries, but val has 16 images with numbers from 1 to 16"),
        ([*REAL, [0]], r"has 17 entries"),
        ([*REAL[:-1], [len(WNIDS)]], r"entry 15 is \[5\]; labels are numbers from 0 to 4"),
        ([*REAL[:-1], [True]], r"entry 15 is \[True\]"),
        ([*REAL[:-1], ["cat"]], r"entry 15 is \['cat'\]"),
        ([*REAL[:-1], 3], "is something else; expected a JSON list"),
        ({"1": [1]}, "is something else"),
        ([[(entry[0] + 1) % 5] if entry else [] for entry in REAL], r"fits the labels of only 0 of 15 images"),
        (random.Random(0).sample(REAL[::-1], len(REAL)), "the two number the classes differently"),
    ],
)
def test_lists_that_do_not_fit_are_refused(plan: Plan, tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataPrepError, match=message):
        read_real_labels(write_list(tmp_path, content), plan)


def test_what_is_no_list_or_no_imagenet_is_refused(plan: Plan, tmp_path: Path) -> None:
    for text in ("", "[[1]", "\udcff"):
        (tmp_path / "bad.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(DataPrepError, match=r"bad\.json: cannot be read"):
            read_real_labels(tmp_path / "bad.json", plan)
    with pytest.raises(DataPrepError, match=r"nowhere\.json: cannot be read"):
        read_real_labels(tmp_path / "nowhere.json", plan)
    images = write_image_folder(tmp_path / "images", {"train": 10, "val": 5})
    path = write_list(tmp_path, [[0]] * 5)
    with pytest.raises(DataPrepError, match=r"names like ILSVRC2012_val_00000001, and 'val/class0/00000.jpg' is none"):
        read_real_labels(path, make_plan(open_source(images), tmp_path / "out"))
    with pytest.raises(DataPrepError, match="belong to a split val, and there is none"):
        read_real_labels(path, make_plan(open_source(images / "train"), tmp_path / "out"))
