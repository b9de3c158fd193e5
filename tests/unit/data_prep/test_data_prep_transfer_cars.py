"""Stanford Cars in both ways of publishing: classes from 1 in arrays of structs."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.recfunctions import repack_fields
from PIL import Image
from scipy.io import loadmat, savemat
from transfer_sets import CAR_CLASSES, CAR_LABELS, car_annotations, mat, write_cars, write_files, write_tgz

from data_prep.cars import open_cars
from data_prep.errors import DataPrepError
from data_prep.plan import make_plan
from data_prep.sources import open_source

LATER = ("cars_annos.mat", "car_ims.tgz")
NUMBERED = [(f"car_ims/{number:06d}.jpg", label) for number, label in enumerate(CAR_LABELS, 1)]
ROWS = {"train": [row for row in NUMBERED if row not in NUMBERED[3::4]], "val": NUMBERED[3::4]}


@pytest.mark.parametrize("later", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_labels_splits_and_images_are_those_of_the_annotations(tmp_path: Path, later: bool, packed: bool) -> None:
    facts = write_cars(tmp_path / "cars", later, packed)
    source = make_plan(open_source(facts.root), tmp_path / "out").source
    assert list(source.splits) == ["train", "val"]
    for name, split in source.splits.items():
        assert split.class_names == CAR_CLASSES
        assert dict(zip(split.names, split.labels.tolist(), strict=True)) == facts.labels[name]
        for image, label in facts.labels[name].items():
            assert source.read(image) == facts.content[image]
            with Image.open(io.BytesIO(source.read(image))) as opened:
                assert facts.label_of(np.asarray(opened)) == label
    assert source.remarks == ("Stanford Cars: its 8 test images are the split val",)


@pytest.mark.parametrize("later", [True, False])
def test_packed_and_unpacked_make_the_same_data_set(tmp_path: Path, later: bool) -> None:
    sources = [open_cars(write_cars(tmp_path / str(packed), later, packed).root) for packed in (True, False)]
    assert len({make_plan(source, tmp_path / "out").digest for source in sources}) == 1


def test_half_of_it_may_be_unpacked(tmp_path: Path) -> None:
    facts = write_cars(tmp_path / "cars", later=False)
    write_cars(tmp_path / "other", later=False, packed=False)
    (facts.root / "cars_test.tgz").unlink()
    (tmp_path / "other" / "cars_test").rename(facts.root / "cars_test")
    (facts.root / "cars_test_annos_withlabels.mat").rename(facts.root / "labels")
    (tmp_path / "other" / "devkit").rename(facts.root / "devkit")
    (facts.root / "labels").rename(facts.root / "devkit" / "cars_test_annos_withlabels.mat")
    (facts.root / "car_devkit.tgz").unlink()
    source = make_plan(open_source(facts.root), tmp_path / "out").source
    part = source.only([source.splits["val"].names[0], source.splits["train"].names[0]])
    for split in ("train", "val"):
        assert part.read(source.splits[split].names[0]) == facts.content[source.splits[split].names[0]]


def annotate(root: Path, *, classes: object = CAR_CLASSES, drop: str = "", **changed: object) -> None:
    """The annotations with one value changed or a field dropped."""
    content = car_annotations(ROWS)
    if changed or drop or classes is not CAR_CLASSES:
        structs = loadmat(io.BytesIO(content))["annotations"]
        for name, value in changed.items():
            structs[0, 2][name] = value
        kept = repack_fields(structs[[name for name in structs.dtype.names if name != drop]])
        content = mat({"annotations": kept, "class_names": np.array(classes, dtype=object)[None]})
    (root / "cars_annos.mat").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "cars_annos.mat").unlink(), r"lacks the file cars_annos.mat; fetch it again"),
        (lambda root: (root / "car_ims.tgz").unlink(), r"holds neither car_ims.tgz nor the folder car_ims"),
        (lambda root: annotate(root, **{"class": 5}), r"cars_annos.mat has the class 5 at place 3, outside of 1 to 4"),
        (lambda root: annotate(root, **{"class": 0}), r"cars_annos.mat has the class 0 at place 3, outside of 1 to 4"),
        (lambda root: annotate(root, **{"class": "x"}), r"cars_annos.mat has classes that are no whole numbers"),
        (lambda root: annotate(root, **{"class": [1, 2]}), r"cars_annos.mat has classes that are no whole numbers"),
        (lambda root: annotate(root, test=2), r"cars_annos.mat has the mark of a test image 2 at place 3"),
        (lambda root: annotate(root, drop="test"), r"cars_annos.mat has annotations without test"),
        (lambda root: annotate(root, relative_im_path=3), r"has no images, or one whose name is no text"),
        (lambda root: annotate(root, relative_im_path=ROWS["train"][0][0]), r"or one .* stands there twice"),
        (
            lambda root: annotate(root, relative_im_path="../../../etc/passwd"),
            r"car_ims.tgz: lacks 1 of the 32 images that cars_annos.mat lists: ../../../etc/passwd; fetch or unpack",
        ),
        (lambda root: annotate(root, classes=[1, 2]), r"cars_annos.mat has no texts as its class_names"),
        (lambda root: savemat(root / "cars_annos.mat", {"annotations": [1], "class_names": ["a"]}), r"no texts as"),
        (lambda root: savemat(root / "cars_annos.mat", {"annotations": [1]}), r"has no variable class_names"),
        (
            lambda root: (root / "cars_annos.mat").write_bytes(car_annotations({"train": ROWS["train"], "val": []})),
            r"cars_annos.mat lists no image for val",
        ),
        (lambda root: (root / "cars_annos.mat").write_bytes(b"\0" * 500), r"is no MATLAB file of level 5; fetch"),
        (
            lambda root: write_tgz(root / "car_ims.tgz", [(name, b"") for name, _ in ROWS["train"]]),
            r"car_ims.tgz: lacks 8 of the 32 images that cars_annos.mat lists: car_ims/000004.jpg.* and 5 more; fetch",
        ),
        (
            lambda root: (root / "car_ims.tgz").write_bytes((root / "car_ims.tgz").read_bytes()[:-9]),
            r"car_ims.tgz: damaged or cut off",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_file(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write_cars(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataPrepError, match=message) as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "cars_test_annos_withlabels.mat").unlink(),
            r"the classes of the test images stand in cars_test_annos_withlabels.mat, which is not there; put it",
        ),
        (lambda root: (root / "car_devkit.tgz").unlink(), r"stand in car_devkit.tgz \(or cars_annos.mat\), which"),
        (lambda root: (root / "cars_train.tgz").unlink(), r"holds neither cars_train.tgz nor the folder cars_train"),
        (lambda root: (root / "cars_test.tgz").unlink(), r"holds neither cars_test.tgz nor the folder cars_test"),
        (
            lambda root: write_tgz(root / "car_devkit.tgz", [("devkit/README.txt", b"")]),
            r"car_devkit.tgz: lacks the file cars_meta.mat; fetch car_devkit.tgz again",
        ),
        (
            lambda root: write_tgz(root / "cars_test.tgz", [("cars_test/00001.jpg", b"")]),
            r"cars_test.tgz: lacks 7 of the 8 images that cars_test_annos_withlabels.mat lists",
        ),
        (
            # The list of the kit, which has no classes, under the name of the one that has.
            lambda root: (root / "cars_test_annos_withlabels.mat").write_bytes(
                mat({"annotations": np.array([(b"00001.jpg",)], dtype=[("fname", object)])})
            ),
            r"cars_test_annos_withlabels.mat has annotations without class",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_earlier_files_is_told_as_well(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    write_cars(tmp_path, later=False)
    damage(tmp_path)
    with pytest.raises(DataPrepError, match=message):
        open_source(tmp_path)


def test_files_of_no_annotation_are_ignored_and_it_is_told(tmp_path: Path) -> None:
    write_cars(tmp_path, packed=False)
    write_files(tmp_path, [("car_ims/notes.txt", b"")])
    assert "1 files beside the images are ignored" in open_source(tmp_path).remarks[-1]
    with pytest.raises(DataPrepError, match="has a val split"):
        open_source(tmp_path, val_share=0.1)
