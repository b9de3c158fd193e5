"""iNaturalist 2018 and 2019: lists in COCO's style, and images in a tar that is read as it lies."""

import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ilsvrc_tree import tar_of
from PIL import Image
from transfer_sets import SPECIES, change_list, write_cifar, write_files, write_inaturalist, write_list

from data_prep.errors import DataPrepError
from data_prep.inaturalist import open_inaturalist
from data_prep.plan import make_plan
from data_prep.sources import open_source

NAMES = ("Plantae 2", "Aves 9", "Fungi 10", "Insecta 11")


@pytest.mark.parametrize("year", [2018, 2019])
@pytest.mark.parametrize("tar", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_labels_are_the_places_of_the_ids(tmp_path: Path, year: int, tar: bool, packed: bool) -> None:
    facts = write_inaturalist(tmp_path, year, tar, packed)
    source = open_source(tmp_path)
    assert source.kind == f"iNaturalist {year}"
    assert facts.classes == NAMES
    for name, split in source.splits.items():
        assert split.class_names == NAMES
        assert dict(zip(split.names, split.labels.tolist(), strict=True)) == facts.labels[name]
        assert list(split.names) == sorted(facts.labels[name])
        for image, label in facts.labels[name].items():
            assert source.read(image) == facts.content[image]
            with Image.open(io.BytesIO(source.read(image))) as opened:
                assert facts.label_of(np.asarray(opened)) == label


def test_tar_and_folder_packed_and_plain_lists_make_the_same_data_set(tmp_path: Path) -> None:
    roots = [tmp_path / str(number) for number in range(4)]
    for number, root in enumerate(roots):
        write_inaturalist(root, 2018, tar=number < 2, packed_lists=bool(number % 2))
    assert len({make_plan(open_source(root), tmp_path / "out").digest for root in roots}) == 1


def test_little_travels_to_a_worker(tmp_path: Path) -> None:
    facts = write_inaturalist(tmp_path)
    source = open_source(tmp_path)
    part = pickle.loads(pickle.dumps(source.only(source.splits["train"].names[:2])))
    assert len(pickle.dumps(part)) < len(pickle.dumps(source)) / 3
    assert part.read(source.splits["train"].names[1]) == facts.content[source.splits["train"].names[1]]
    with pytest.raises(OSError, match="No such file"):
        part.read(source.splits["train"].names[2])


def test_the_compressed_archive_is_answered_with_what_to_do(tmp_path: Path) -> None:
    write_inaturalist(tmp_path)
    tar = tmp_path / "train_val2018.tar"
    archive = tmp_path / "train_val2018.tar.gz"
    archive.write_bytes(gzip.compress(tar.read_bytes()))
    open_source(tmp_path)  # as after gunzip -k
    content = tar.read_bytes()
    tar.unlink()
    with pytest.raises(
        DataPrepError, match=rf"compressed as a whole.*`gunzip -k {archive}`, which needs 0 GB more, and"
    ):
        open_source(tmp_path)
    archive.write_bytes(content)  # by a browser that decompresses
    assert len(open_source(tmp_path).splits["train"].names) == 24


def test_names_that_were_published_later_are_used(tmp_path: Path) -> None:
    write_inaturalist(tmp_path)
    revealed = [{"id": number, "name": f"Species {number}", "genus": "x"} for number in (11, 9, 10, 2, 77)]
    write_list(tmp_path, "categories.json", revealed, packed=True)
    source = open_source(tmp_path)
    assert source.splits["val"].class_names == ("Species 2", "Species 9", "Species 10", "Species 11")
    assert source.remarks[0] == "class names are those of categories.json"
    for content, message in (
        (revealed[1:], r"categories.json lacks the categories 11; is it of another year\?"),
        ({"a": 1}, r"categories.json is no list of categories"),
        ([*revealed, revealed[0]], r"categories.json is no list of categories \(ValueError.*one twice"),
    ):
        write_list(tmp_path, "categories.json", content, packed=False)
        with pytest.raises(DataPrepError, match=message):
            open_source(tmp_path)


def drop(key: str, place: int = 0) -> Callable[[dict[str, Any]], object]:
    return lambda content: content[key].pop(place)


def put(key: str, field: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content[key][0].update({field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), r"is no list of images as iNaturalist's are \(KeyError\('images'\)\)"),
        (lambda content: content["images"][3].pop("id"), r"is no list of images .*KeyError\('id'\)"),
        (lambda content: content.update(categories=[]), r"is no list of images .*no categories"),
        (lambda content: content.update(categories=["a"]), r"is no list of images .*TypeError"),
        (lambda content: content.update(images=[], annotations=[]), r"lists no images"),
        (put("categories", "id", 9), r"is no list of images .*one twice"),
        (put("categories", "id", 3), r"has annotations of categories that it does not list: 2"),
        (put("annotations", "category_id", 12), r"has annotations of categories that it does not list: 12"),
        (put("annotations", "category_id", "9"), r"is no list of images .*'9' is no number"),
        (put("annotations", "image_id", 99999), r"has images without an annotation, or the other way round \(ids"),
        (put("images", "file_name", None), r"is no list of images .*None is no text"),
        (
            lambda content: content["images"][0].update(file_name=content["images"][1]["file_name"]),
            r"lists an image twice",
        ),
        (lambda content: content["images"].append(content["images"][0]), r"lists an image twice"),
        (
            lambda content: content["annotations"].append({**content["annotations"][0], "category_id": 10}),
            r"has several annotations for one image",
        ),
        (drop("annotations"), r"has images without an annotation"),
        (drop("images"), r"has images without an annotation"),
    ],
)
def test_what_is_wrong_in_a_list_is_told_with_the_file(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write_inaturalist(tmp_path, packed_lists=False)
    change_list(tmp_path, "train2018.json", change)
    with pytest.raises(DataPrepError, match=f"train2018.json {message}.*; fetch it again"):
        open_source(tmp_path)


def add_category(content: dict[str, Any]) -> None:
    content["categories"].append({"id": 1, "name": "x"})


def swap(root: Path) -> None:
    (root / "val2018.json").write_bytes((root / "train2018.json").read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "val2018.json").unlink(), r"lacks the file val2018.json"),
        (lambda root: (root / "train_val2018.tar").unlink(), r"neither train_val2018.tar nor the folder train_val2018"),
        (lambda root: (root / "val2018.json").write_bytes(b"<html>"), r"val2018.json is no JSON file"),
        (lambda root: (root / "val2018.json").write_bytes(b"[" * 100000), r"val2018.json is no JSON file"),
        (lambda root: (root / "val2018.json").write_bytes(b"[1" + b"0" * 5000 + b"]"), r"val2018.json is no JSON file"),
        (lambda root: (root / "val2018.json").write_text(json.dumps([1])), r"val2018.json is no list of images"),
        (
            lambda root: change_list(root, "val2018.json", add_category),
            r"train2018.json and val2018.json have other categories; fetch both again",
        ),
        (swap, r"images are listed for both train and val: train_val2018/"),
        (
            lambda root: (root / "train_val2018.tar").write_bytes((root / "train_val2018.tar").read_bytes()[:-11000]),
            r"train_val2018.tar: ",
        ),
        (
            lambda root: (root / "train_val2018.tar").write_bytes(tar_of([("train_val2018/Aves/9/val0003.jpg", b"")])),
            r"train_val2018.tar: lacks 24 of the 24 images that train2018.json lists: .* and 21 more; fetch or unpack",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_told(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write_inaturalist(tmp_path, packed_lists=False)
    damage(tmp_path)
    with pytest.raises(DataPrepError, match=message):
        open_source(tmp_path)


def test_a_path_out_of_the_folder_is_no_image(tmp_path: Path) -> None:
    write_inaturalist(tmp_path / "inat", tar=False, packed_lists=False)
    write_files(tmp_path, [("secret.jpg", b"")])
    change_list(tmp_path / "inat", "train2018.json", put("images", "file_name", "train_val2018/../../secret.jpg"))
    with pytest.raises(DataPrepError, match=r"lacks 1 of the 24 images .*secret.jpg"):
        open_source(tmp_path / "inat")


def test_several_data_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    assert len(SPECIES) == len(NAMES)
    write_inaturalist(tmp_path, 2018)
    with pytest.raises(DataPrepError, match="has a val split"):
        open_source(tmp_path, val_share=0.1)
    write_cifar(tmp_path)
    with pytest.raises(DataPrepError, match="holds several data sets; put each into a folder of its own"):
        open_source(tmp_path)
    write_inaturalist(tmp_path, 2019)
    with pytest.raises(DataPrepError, match="holds iNaturalist 2018 and 2019; put each into a folder of its own"):
        open_inaturalist(tmp_path)
