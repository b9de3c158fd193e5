import pickle
from pathlib import Path

import numpy as np
import pytest
from image_folders import encode, picture, write_image_folder

from data_prep.clean import clean
from data_prep.errors import DataPrepError
from data_prep.plan import make_plan
from data_prep.sources import DigitsSource, FolderSource, open_source
from data_prep.split import stratified_share


@pytest.fixture(scope="module")
def digits() -> DigitsSource:
    source = open_source("digits", image_size=24, seed=0)
    assert isinstance(source, DigitsSource)
    return source


def test_digits_are_divided_once_and_for_all(digits: DigitsSource) -> None:
    train, val = digits.splits["train"], digits.splits["val"]
    assert len(train.names) + len(val.names) == 1797
    assert not set(train.names) & set(val.names)
    share = np.bincount(val.labels) / (np.bincount(train.labels) + np.bincount(val.labels))
    np.testing.assert_allclose(share, 0.2, atol=0.005)
    # Published results depend on the split: if this fails, the code is wrong, not the test.
    assert val.names[:4] == ("digits/0010", "digits/0011", "digits/0014", "digits/0018")
    assert train.class_names == tuple("0123456789")
    other = DigitsSource(seed=1).splits["val"]
    assert set(other.names) != set(val.names)


def test_no_digit_is_on_both_sides(digits: DigitsSource) -> None:
    train, val = ({digits.read(name) for name in digits.splits[split].names} for split in ("train", "val"))
    assert not train & val


def test_equal_digits_would_all_go_to_train() -> None:
    source = DigitsSource()
    images, labels = source._images
    images = images.copy()
    val = source.splits["val"].names[0]
    images[int(val[-4:])] = images[int(source.splits["train"].names[0][-4:])]
    twin = DigitsSource()
    twin.__dict__["_images"] = images, labels
    assert val not in twin.splits["val"].names
    assert val in twin.splits["train"].names


def test_digits_are_enlarged_jpegs(digits: DigitsSource) -> None:
    first = clean(digits.read("digits/0000"))
    assert first.jpeg == digits.read("digits/0000")
    assert first.jpeg[:2] == b"\xff\xd8"
    copy = pickle.loads(pickle.dumps(digits))
    assert copy.read("digits/0000") == first.jpeg
    assert len(pickle.dumps(digits)) < 1000


def test_folder_classes_are_sorted_and_numbered(tmp_path: Path) -> None:
    for name in ("train/zebra/1.JPG", "train/ant/sub/2.png", "train/ant/1.jpeg", "val/zebra/1.jpg", "test/ant/9.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("train/ant/.hidden.jpg", "train/ant/notes.txt", "train/loose.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "extra").mkdir()
    source = FolderSource(tmp_path)
    assert list(source.splits) == ["train", "val", "test"]
    assert source.splits["train"].class_names == source.splits["val"].class_names == ("ant", "zebra")
    assert source.splits["train"].names == ("train/ant/1.jpeg", "train/ant/sub/2.png", "train/zebra/1.JPG")
    assert source.splits["train"].labels.tolist() == [0, 0, 1]
    assert source.splits["val"].labels.tolist() == [1]
    remarks = " ".join(source.remarks)
    assert "1 files are ignored" in remarks
    assert f"{tmp_path / 'extra'} is ignored" in remarks
    assert f"{tmp_path / 'val' / 'ant'} holds no image" in remarks


def test_a_folder_of_classes_is_one_split(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"here": 10})
    source = FolderSource(tmp_path / "here")
    assert list(source.splits) == ["train"]
    assert "taken as the classes of train" in source.remarks[0]
    assert source.read(source.splits["train"].names[0])[:2] == b"\xff\xd8"


def test_a_share_can_be_set_aside(tmp_path: Path) -> None:
    write_image_folder(tmp_path, {"train": 100})
    first, again, other = (FolderSource(tmp_path, val_share=0.1, seed=seed) for seed in (0, 0, 1))
    assert len(first.splits["val"].names) == 10
    assert np.bincount(first.splits["val"].labels).tolist() == [2] * 5
    assert not set(first.splits["val"].names) & set(first.splits["train"].names)
    assert first.splits["val"].names == again.splits["val"].names != other.splits["val"].names
    assert "10 of 100" in first.remarks[-1]


def test_a_share_leaves_something_of_every_class() -> None:
    labels = np.repeat([0, 1, 2], [1, 2, 50])
    chosen = stratified_share(labels, 0.01, 0)
    assert np.bincount(labels[chosen], minlength=3).tolist() == [0, 1, 1]
    assert np.bincount(labels[stratified_share(labels, 0.99, 0)], minlength=3).tolist() == [0, 1, 49]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/a/1.jpg", "val/b/1.jpg"], "classes that train/ does not have: b"),
        (["val/a/1.jpg"], "val/ but no train/"),
        (["train/a/readme.txt"], "holds no images; expected"),
        (["1.jpg"], "holds no images"),
        ([], "holds no images"),
    ],
)
def test_folders_that_make_no_sense_are_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    with pytest.raises(DataPrepError, match=message):
        FolderSource(tmp_path)


def test_missing_folders_files_and_bad_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataPrepError, match="nowhere: no such folder; a source is a folder of images"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataPrepError, match="is not a folder"):
        open_source(tmp_path / "file")
    with pytest.raises(DataPrepError, match="8 to 1024"):
        open_source("digits", image_size=4)
    write_image_folder(tmp_path / "both", {"train": 5, "val": 5})
    with pytest.raises(DataPrepError, match="has a val split"):
        open_source(tmp_path / "both", val_share=0.1)
    with pytest.raises(DataPrepError, match="below 1"):
        open_source(tmp_path / "both", val_share=1.0)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    # The superuser, who may run these tests, is never refused anything.
    monkeypatch.setattr("data_prep.folder.os.scandir", refuse)
    with pytest.raises(DataPrepError, match="no permission to read it"):
        open_source(tmp_path / "both")


def test_output_and_source_may_not_contain_each_other(tmp_path: Path) -> None:
    source = FolderSource(write_image_folder(tmp_path / "images", {"train": 5}))
    for out in ("images/out", "images", ".", "images/train/../../images/x"):
        with pytest.raises(DataPrepError, match="lies inside the"):
            make_plan(source, tmp_path / out)
    make_plan(source, tmp_path / "images-out")


@pytest.mark.parametrize(("mode", "options"), [("RGB", {}), ("L", {}), ("RGB", {"progressive": True})])
def test_sound_jpegs_are_kept_to_the_byte(mode: str, options: dict[str, object]) -> None:
    encoded = encode(picture(0).convert(mode), **options)
    outcome = clean(encoded)
    assert (outcome.jpeg, outcome.change, outcome.broken) == (encoded, "", "")


@pytest.mark.parametrize(
    ("mode", "image_format"), [("RGB", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("RGB", "WEBP")]
)
def test_other_images_are_encoded_anew(mode: str, image_format: str) -> None:
    outcome = clean(encode(picture(0).convert(mode), image_format))
    assert outcome.change == f"{image_format} {mode} encoded anew as JPEG RGB, quality 95"
    again = clean(outcome.jpeg)
    assert (again.jpeg, again.change) == (outcome.jpeg, "")


@pytest.mark.parametrize("keep", [0, 10, 300, -500, -20])
def test_broken_images_are_told_apart(keep: int) -> None:
    encoded = encode(picture(0, 100, 80))
    assert len(encoded) > 1500
    outcome = clean(encoded[:keep])
    assert outcome.broken
    assert not outcome.jpeg


def test_bombs_are_broken_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.clean.MAX_PIXELS", 100)
    assert "40×30 pixels" in clean(encode(picture(0))).broken
    monkeypatch.setattr("data_prep.clean.MAX_BYTES", 100)
    assert "bytes; at most 100" in clean(encode(picture(0))).broken


def write_classes(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "image.jpeg").touch()
    return root


@pytest.mark.parametrize("inside", ["", "train"])
def test_folders_named_by_all_numbers_are_sorted_as_numbers(tmp_path: Path, inside: str) -> None:
    names = [str(number) for number in range(12)]
    write_classes(tmp_path / inside, names)
    source = FolderSource(tmp_path)
    assert source.splits["train"].class_names == tuple(names)
    by_name = dict(zip(source.splits["train"].names, source.splits["train"].labels.tolist(), strict=True))
    assert by_name == {str(Path(inside, name, "image.jpeg")): int(name) for name in names}
    assert "class folders are named 0 to 11: numbered so, not in the order of text" in source.remarks


def test_other_numbers_stay_in_the_order_of_text_and_it_is_told(tmp_path: Path) -> None:
    gap = FolderSource(write_classes(tmp_path / "gap", ["0", "2", "10"]))
    assert gap.splits["train"].class_names == ("0", "10", "2")
    assert "but not 0 to 2: taken in the order of text, label 0 is 0, label 1 is 10" in " ".join(gap.remarks)
    padded = FolderSource(write_classes(tmp_path / "padded", [f"{number:04d}" for number in range(12)]))
    assert padded.splits["train"].class_names[2] == "0002"
    assert len(padded.remarks) == 1


def test_a_folder_of_classes_can_be_a_split_of_any_name(tmp_path: Path) -> None:
    source = open_source(write_classes(tmp_path / "v2", ["1", "0"]), split="v2")
    assert list(source.splits) == ["v2"]
    plan = make_plan(source, tmp_path / "out")
    assert plan.task(0).path == tmp_path / "out" / "v2" / "v2-000000.tar"
    for name in ("a/b", "..", "", "x" * 41):
        with pytest.raises(DataPrepError, match="cannot name a split"):
            open_source(tmp_path / "v2", split=name)
    write_image_folder(tmp_path / "whole", {"train": 5})
    with pytest.raises(DataPrepError, match="--split is for a folder of classes alone"):
        open_source(tmp_path / "whole", split="v2")
    with pytest.raises(DataPrepError, match="no train split of which a share"):
        open_source(tmp_path / "v2", split="v2", val_share=0.1)


def test_a_folder_of_nothing_known_is_told_what_a_source_can_be(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataPrepError, match="a source is one of"):
        open_source(tmp_path)


def test_the_size_of_images_is_part_of_the_plan(tmp_path: Path) -> None:
    source = FolderSource(write_image_folder(tmp_path / "images", {"train": 5}))
    plans = [make_plan(source, tmp_path / "out", resize=resize) for resize in (None, 24, 32)]
    assert len({plan.digest for plan in plans}) == 3
    assert [plan.task(0).resize for plan in plans] == [None, 24, 32]
    with pytest.raises(DataPrepError, match="at least 1 pixel"):
        make_plan(source, tmp_path / "out", resize=0)
