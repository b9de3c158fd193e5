"""ILSVRC's archives from end to end: labels are proven by what can be seen in the stored images."""

import io
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from ilsvrc_tree import (
    DEVKIT_IDS,
    VAL_LABELS,
    WNIDS,
    Facts,
    label_by_colour,
    write_ilsvrc_tree,
)
from PIL import Image
from timm_reference import import_timm_cait

from cait_dist.data.decode import decode_rgb
from cait_dist.data.reader_webdataset import open_split
from data_prep.ilsvrc import open_ilsvrc
from data_prep.manifest import load_manifest, read_source_names
from data_prep.plan import make_plan
from data_prep.run import run
from data_prep.sources import open_source
from data_prep.verify import verify

SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return write_ilsvrc_tree(tmp_path_factory.mktemp("ilsvrc") / "archives")


@pytest.fixture(scope="module")
def shards(facts: Facts) -> Path:
    out = facts.root.parent / "shards"
    run(make_plan(open_source(facts.root), out, shard_size=8, max_broken=0.2), workers=2, progress=False)
    return out


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("[!.]*") if path.is_file()}


def test_the_tree_would_show_a_wrong_order_of_classes() -> None:
    by_devkit_number = [DEVKIT_IDS[label] - 1 for label in VAL_LABELS]
    assert sum(a == b for a, b in zip(by_devkit_number, VAL_LABELS, strict=True)) < len(VAL_LABELS) / 2


@pytest.mark.parametrize("split", SPLITS)
def test_every_stored_image_shows_the_class_of_its_label(facts: Facts, shards: Path, split: str) -> None:
    reader = open_split(shards, split)
    assert reader.class_names == WNIDS
    expected = {name for name in facts.labels if name.startswith(split)} - set(facts.broken)
    assert {reader.source_name(i) for i in range(reader.num_samples)} == expected
    for i in range(reader.num_samples):
        name = reader.source_name(i)
        assert facts.labels[name] == reader.labels[i] == label_by_colour(decode_rgb(reader.read(i))), name


@pytest.mark.parametrize("split", SPLITS)
def test_odd_images_are_changed_or_put_aside_and_the_others_kept(facts: Facts, shards: Path, split: str) -> None:
    reader, manifest = open_split(shards, split), load_manifest(shards / split)
    changed = {name: words for name, words in facts.changed.items() if name.startswith(split)}
    assert {name for name, _ in manifest.changes} == set(changed)
    for name, what in manifest.changes:
        assert changed[name] in what
    names = read_source_names(shards / split)
    stored = {name: reader.read(i) for i, name in enumerate(names) if name in facts.kept}
    assert stored == {name: kept for name, kept in facts.kept.items() if name.startswith(split)}
    lines = [json.loads(line) for line in (shards / split / "quarantine.jsonl").read_text().splitlines()]
    broken = {name: words for name, words in facts.broken.items() if name.startswith(split)}
    assert {line["source"] for line in lines} == set(broken)
    for line in lines:
        assert broken[line["source"]] in line["reason"]


def test_the_result_is_sound_and_the_same_again(facts: Facts, shards: Path, tmp_path: Path) -> None:
    assert verify(shards).ok
    plan = make_plan(open_source(facts.root), shards, shard_size=8, max_broken=0.2)
    assert run(plan, progress=False).nothing_to_do
    again = tmp_path / "again"
    run(make_plan(open_source(facts.root), again, shard_size=8, max_broken=0.2), workers=1, progress=False)
    assert content(again) == content(shards)
    assert sorted(path.name for path in facts.root.iterdir()) == [
        "ILSVRC2012_devkit_t12.tar.gz",
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
    ]


def test_timm_reads_the_shards_with_the_same_labels(facts: Facts, shards: Path) -> None:
    import_timm_cait()
    readers = pytest.importorskip("timm.data.readers.reader_wds", reason="timm, the reference, is not installed")
    for split in SPLITS:
        manifest = load_manifest(shards / split)
        last = len(manifest.shards) - 1
        tars = f"{split}-{{000000..{last:06d}}}.tar|{len(manifest.samples)}"
        samples = list(readers.ReaderWds(str(shards / split), split=tars))
        assert [label for _, label in samples] == manifest.samples["label"].tolist()
        assert all(label_by_colour(np.asarray(image)) == label for image, label in samples)


def test_sizes_are_bounded_on_request(facts: Facts, tmp_path: Path) -> None:
    out = tmp_path / "small"
    plan = make_plan(open_source(facts.root), out, max_broken=0.2, resize=24)
    run(plan, progress=False)
    for split in SPLITS:
        reader = open_split(out, split)
        sizes = {reader.source_name(i): Image.open(io.BytesIO(reader.read(i))).size for i in range(reader.num_samples)}
        assert {min(size) for size in sizes.values()} <= {24, 1}
    kept = {name: kept for name, kept in facts.kept.items() if "one_pixel" in name}
    train = open_split(out, "train")
    assert {n: train.read(i) for i, n in enumerate(read_source_names(out / "train")) if n in kept} == kept
    changes = dict(load_manifest(out / "train").changes)
    huge = next(what for name, what in changes.items() if "huge" in name)
    assert huge == "JPEG RGB 6000×4000 resized to 36×24 and encoded anew as JPEG RGB, quality 95"


def test_an_unpacked_kit_and_single_archives_do_as_well(facts: Facts, tmp_path: Path) -> None:
    whole = open_ilsvrc(facts.root)
    write_ilsvrc_tree(tmp_path, devkit_packed=False)
    for left, gone in itertools.permutations(["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"]):
        alone = tmp_path / left[15:-4]
        alone.mkdir()
        (alone / left).symlink_to(tmp_path / left)
        (alone / "ILSVRC2012_devkit_t12").symlink_to(tmp_path / "ILSVRC2012_devkit_t12")
        (split,) = open_ilsvrc(alone).splits.items()
        assert split[0] in left
        assert split[0] not in gone
        assert split[1].class_names == whole.splits[split[0]].class_names
        assert split[1].labels.tolist() == whole.splits[split[0]].labels.tolist()


def test_little_travels_to_a_worker(facts: Facts) -> None:
    plan = make_plan(open_source(facts.root), facts.root.parent / "never", shard_size=2)
    task = plan.task(0)
    travelled = pickle.loads(pickle.dumps(task))
    assert [travelled.source.read(name) for name in task.names] == [plan.source.read(name) for name in task.names]
    with pytest.raises(KeyError):
        travelled.source.read(plan.task(1).names[0])
    assert len(pickle.dumps(task)) < len(pickle.dumps(plan.source)) / 2
