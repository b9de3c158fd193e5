"""Stanford Cars as a source, in either of the two ways in which it was published.

The later one has all 16,185 images in ``car_ims.tgz``; ``cars_annos.mat`` names the class of each and whether it is a
test image. The earlier has ``cars_train.tgz`` and ``cars_test.tgz`` with a development kit, in which the test images
have no classes: those came out later as ``cars_test_annos_withlabels.mat``. The images and classes are the same, 8,144
for training and 8,041 for testing, but go by other names and numbers. Classes count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import DataPrepError, some
from .mat_file import Value
from .packed_images import ImageStore, PackedSource, find_store
from .published_files import PublishedFiles, read_mat, read_packed, read_unpacked, require_range, whole_numbers
from .split import Split, set_aside_val

ALL, ALL_ANNOTATIONS = "car_ims", "cars_annos.mat"
TRAIN, TEST, DEVKIT, DEVKIT_ARCHIVE = "cars_train", "cars_test", "devkit", "car_devkit.tgz"
META, TRAIN_ANNOTATIONS, TEST_ANNOTATIONS = "cars_meta.mat", "cars_train_annos.mat", "cars_test_annos_withlabels.mat"
_TITLE = "Stanford Cars"
_MOST_MEGABYTES = 64


def is_cars(root: Path) -> bool:
    """Whether a folder holds one of the archives, or what one of them unpacks to beside its annotations."""
    files = (ALL_ANNOTATIONS, f"{ALL}.tgz", f"{ALL}.tar", DEVKIT_ARCHIVE, TEST_ANNOTATIONS, f"{DEVKIT}/{META}")
    return any((root / name).is_file() for name in (*files, f"{TRAIN}.tgz", f"{TEST}.tgz"))


def open_cars(root: Path, val_share: float = 0.0, seed: int = 0) -> PackedSource:
    """Index the data set in a folder.

    Args:
        root: holds the archives or the folders that they unpack to, and the MATLAB files.
        val_share: refused unless 0: the test images are ``val``.
        seed: of the share.

    Raises:
        DataPrepError: if a file is missing or damaged, or they do not fit together.
    """
    is_later = any((root / name).exists() for name in (ALL_ANNOTATIONS, f"{ALL}.tgz", f"{ALL}.tar"))
    stores, splits = _later(root) if is_later else _earlier(root)
    set_aside_val(splits, val_share, seed, root)
    remarks = [f"{_TITLE}: its {len(splits['val'].names):,} test images are the split val"]
    return PackedSource.of(_TITLE, root, stores, splits, remarks)


def _later(root: Path) -> tuple[list[ImageStore], dict[str, Split]]:
    files = read_unpacked(root, [ALL_ANNOTATIONS], _MOST_MEGABYTES)
    classes = _class_names(files, ALL_ANNOTATIONS)
    columns = _columns(files, ALL_ANNOTATIONS, ["relative_im_path", "class", "test"])
    paths, numbers = columns["relative_im_path"], columns["class"]
    names, labels = _names_and_labels(files, ALL_ANNOTATIONS, paths, numbers, len(classes))
    is_test = whole_numbers(files, ALL_ANNOTATIONS, "marks of test images", columns["test"])
    require_range(files, ALL_ANNOTATIONS, "mark of a test image", is_test, 0, 1)
    store = _store(root, ALL, names, ALL_ANNOTATIONS)
    whole = Split(classes, tuple(names), labels)
    splits = {"train": whole.subset(np.flatnonzero(is_test == 0)), "val": whole.subset(np.flatnonzero(is_test == 1))}
    for name, split in splits.items():
        if not split.names:
            raise files.refuse(ALL_ANNOTATIONS, f"lists no image for {name}")
    return [store], splits


def _earlier(root: Path) -> tuple[list[ImageStore], dict[str, Split]]:
    kit = _read_devkit(root)
    classes = _class_names(kit, META)
    # People keep the test images' classes beside the kit or in it.
    beside = read_unpacked(root, [TEST_ANNOTATIONS], _MOST_MEGABYTES)
    test = beside if beside.content else kit
    if TEST_ANNOTATIONS not in test.content:
        raise DataPrepError(
            f"{root}: the classes of the test images stand in {TEST_ANNOTATIONS}, which is not there; put it beside "
            f"{DEVKIT_ARCHIVE}"
        )
    stores, splits = [], {}
    for split, files, name, folder in (
        ("train", kit, TRAIN_ANNOTATIONS, TRAIN),
        ("val", test, TEST_ANNOTATIONS, TEST),
    ):
        columns = _columns(files, name, ["fname", "class"])
        paths, labels = _names_and_labels(files, name, columns["fname"], columns["class"], len(classes))
        names = [f"{folder}/{path}" for path in paths]
        stores.append(_store(root, folder, names, name))
        splits[split] = Split(classes, tuple(names), labels)
    return stores, splits


def _read_devkit(root: Path) -> PublishedFiles:
    names = (META, TRAIN_ANNOTATIONS, TEST_ANNOTATIONS)
    if (root / DEVKIT_ARCHIVE).is_file():
        return read_packed(root / DEVKIT_ARCHIVE, names, _MOST_MEGABYTES)
    if (root / DEVKIT).is_dir():
        return read_unpacked(root / DEVKIT, names, _MOST_MEGABYTES)
    raise DataPrepError(
        f"{root}: the classes of the images stand in {DEVKIT_ARCHIVE} (or {ALL_ANNOTATIONS}), which is not there; "
        "put it beside the images"
    )


def _store(root: Path, folder: str, names: Sequence[str], listed_in: str) -> ImageStore:
    store = find_store(root, folder, (f"{folder}.tgz", f"{folder}.tar"))
    store.require(names, listed_in)
    return store


def _class_names(files: PublishedFiles, name: str) -> tuple[str, ...]:
    listed = read_mat(files, name, ["class_names"])["class_names"]
    if not isinstance(listed, list) or not listed or any(not isinstance(entry, str) for entry in listed):
        raise files.refuse(name, "has no texts as its class_names")
    return tuple(str(entry) for entry in listed)


def _columns(files: PublishedFiles, name: str, wanted: Sequence[str]) -> dict[str, list[Value]]:
    """The fields of the array of structs ``annotations``, each with a value per image."""
    annotations = read_mat(files, name, ["annotations"])["annotations"]
    fields = annotations if isinstance(annotations, dict) else {}
    if missing := [field for field in wanted if field not in fields]:
        raise files.refuse(name, f"has annotations without {some(missing)}")
    return {field: fields[field] for field in wanted}


def _names_and_labels(
    files: PublishedFiles, name: str, paths: list[Value], numbers: list[Value], classes: int
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Each image's path, and its label from 0."""
    names = [path for path in paths if isinstance(path, str)]
    if not names or len(names) != len(paths) or len(set(names)) != len(names):
        raise files.refuse(name, "has no images, or one whose name is no text or stands there twice")
    labels = whole_numbers(files, name, "classes", numbers)
    require_range(files, name, "class", labels, 1, classes)
    return names, labels - 1
