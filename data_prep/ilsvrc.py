"""The archives of ILSVRC 2012 (ImageNet-1k) as a source, without unpacking them.

``ILSVRC2012_img_train.tar`` is a tar of one tar per class, ``n01440764.tar``; ``ILSVRC2012_img_val.tar`` holds 50,000
images in a row, whose classes only the development kit knows (see `ilsvrc_devkit`). Both are walked through header by
header, the classes' tars as views of the outer one, and then images are read where they lie: 150 GB need not be written
to disk a second time, nor 1.3 million files be created.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np

from .errors import DataPrepError, some
from .folder import IMAGE_SUFFIXES
from .ilsvrc_devkit import DEVKIT, Devkit, read_devkit
from .split import Split, set_aside_val, share_in_words
from .tar_source import Places, TarSource
from .tar_walk import View, opened, walk

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
_CLASS_TAR = re.compile(r"(?:\./)?(n\d{8})\.tar")
_VAL_IMAGE = re.compile(r"(?:\./)?(ILSVRC2012_val_(\d{8})\.JPEG)")
_FETCH = "fetch the archive again"

Found = tuple[str, int, int, int]


def is_ilsvrc(root: Path) -> bool:
    """Whether a folder holds one of the archives."""
    return (root / TRAIN_TAR).is_file() or (root / VAL_TAR).is_file()


def open_ilsvrc(root: Path, val_share: float = 0.0, seed: int = 0) -> TarSource:
    """Index the archives in a folder.

    Args:
        root: holds the train archive, the validation archive with the development kit, or all of them.
        val_share: without a validation archive, the share of train to set aside as ``val``.
        seed: chooses which images are set aside.

    Raises:
        DataPrepError: if an archive is damaged or they do not fit together, naming file, problem and remedy.
    """
    files = [root / name for name in (TRAIN_TAR, VAL_TAR) if (root / name).is_file()]
    devkit = read_devkit(root)
    remarks: list[str] = []
    splits: dict[str, Split] = {}
    found: list[Found] = []
    for number, path in enumerate(files):
        if path.name == TRAIN_TAR:
            splits["train"] = _train_split(path, devkit, number, found, remarks)
        else:
            classes = splits["train"].class_names if splits else None
            splits["val"] = _val_split(path, devkit, classes, number, found)
    splits, more = set_aside_val(splits, val_share, seed, root)
    kind = "ILSVRC archives" + share_in_words(val_share, seed)
    return TarSource(kind, root, Places.gather(files, found), splits, tuple(remarks + more))


def _train_split(path: Path, devkit: Devkit | None, number: int, found: list[Found], remarks: list[str]) -> Split:
    names: list[str] = []
    labels: list[int] = []
    with opened(path) as file:
        class_tars = _class_tars(path, file, devkit)
        for label, wnid in enumerate(class_tars):
            offset, size = class_tars[wnid]
            images = sorted(_class_images(path, wnid, View(file, offset, size), remarks))
            _refuse_twins(path, [name for name, _, _ in images])
            if not images:
                remarks.append(f"{path}: {wnid}.tar holds no image")
            names += [name for name, _, _ in images]
            labels += [label] * len(images)
            found += [(name, number, offset + inner, inner_size) for name, inner, inner_size in images]
    if not names:
        raise DataPrepError(f"{path}: holds no images; {_FETCH}")
    return Split(tuple(class_tars), tuple(names), np.asarray(labels, dtype=np.int64))


def _class_tars(path: Path, file: IO[bytes], devkit: Devkit | None) -> dict[str, tuple[int, int]]:
    """Offset and size of each class's tar within the outer one, by wnid, sorted."""
    places: dict[str, tuple[int, int]] = {}
    for member in walk(path, file):
        match = _CLASS_TAR.fullmatch(member.name)
        if match is None or match[1] in places:
            what = "twice" if match else "which is no class's tar (WNID.tar)"
            raise DataPrepError(f"{path}: holds {member.name!r}, {what}; {_FETCH}")
        places[match[1]] = member.offset_data, member.size
    if devkit and (unknown := sorted(set(places) - set(devkit.wnids.values()))):
        raise DataPrepError(f"{path}: holds classes that {devkit.place} does not know: {some(unknown)}; {_FETCH}")
    return dict(sorted(places.items()))


def _class_images(path: Path, wnid: str, view: View, remarks: list[str]) -> Iterator[tuple[str, int, int]]:
    """Name, offset within the class's tar, and size of each image."""
    others = 0
    for member in walk(f"{path} ({wnid}.tar)", view):
        if member.name.lower().endswith(IMAGE_SUFFIXES):
            yield f"train/{wnid}/{member.name.removeprefix('./')}", member.offset_data, member.size
        else:
            others += 1
    if others:
        remarks.append(f"{path}: {others:,} files in {wnid}.tar are ignored, as their names do not end like an image's")


def _val_split(
    path: Path, devkit: Devkit | None, classes: Sequence[str] | None, number: int, found: list[Found]
) -> Split:
    if devkit is None:
        raise DataPrepError(
            f"{path}: the classes of its images stand in {DEVKIT}.tar.gz, which is not beside it; put it there"
        )
    with opened(path) as file:
        images = sorted(_val_images(path, file, number))
    _check_numbers(path, devkit, [int(name[-13:-5]) for name, *_ in images])
    classes = classes or sorted(devkit.wnids.values())
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    wnids = [devkit.wnid_of_image(i + 1) for i in range(len(images))]
    if missing := sorted(set(wnids) - set(label_of)):
        raise DataPrepError(
            f"{path.with_name(TRAIN_TAR)}: lacks classes that {path.name} has: {some(missing)}; {_FETCH}"
        )
    found += images
    return Split(tuple(classes), tuple(name for name, *_ in images), np.asarray([label_of[w] for w in wnids], np.int64))


def _val_images(path: Path, file: IO[bytes], number: int) -> Iterator[Found]:
    for member in walk(path, file):
        match = _VAL_IMAGE.fullmatch(member.name)
        if match is None:
            raise DataPrepError(
                f"{path}: holds {member.name!r}, which is not named ILSVRC2012_val_NNNNNNNN.JPEG; {_FETCH}"
            )
        yield f"val/{match[1]}", number, member.offset_data, member.size


def _check_numbers(path: Path, devkit: Devkit, numbers: Sequence[int]) -> None:
    if len(numbers) != len(devkit.truth):
        raise DataPrepError(
            f"{path}: holds {len(numbers):,} images, {devkit.place} states the classes of {len(devkit.truth):,}; "
            f"{_FETCH}, or the development kit"
        )
    if list(numbers) != list(range(1, len(numbers) + 1)):
        raise DataPrepError(f"{path}: its images are not numbered 1 to {len(numbers):,}, each once; {_FETCH}")


def _refuse_twins(path: Path, names: Sequence[str]) -> None:
    for first, second in pairwise(names):
        if first == second:
            raise DataPrepError(f"{path}: holds {first!r} twice; {_FETCH}")
