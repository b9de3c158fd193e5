"""iNaturalist 2018 and 2019 as a source: the images of a year, and two JSON files that say what is on them.

Labels are the places of the categories' ids in ascending order: 8,142 classes in 2018, 1,010 in 2019.
``categories.json``, published after the competitions, has the names that were hidden until then, and is used where it
lies beside the others.

The images come as one gzip file of 74 to 120 GB. Whoever reads that in a shuffled order must decompress it first, which
takes as much room again and no less time here than with ``gunzip``. So it is asked for, and then nothing is unpacked:
the tar is read as it lies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataPrepError, some
from .gzip_tar import is_gzip
from .packed_images import ImageStore, PackedSource, find_store
from .published_files import PublishedFiles, read_packed, read_unpacked
from .split import Split, set_aside_val

YEARS = (2018, 2019)
CATEGORIES = "categories.json"
_MOST_MEGABYTES = 1024


def is_inaturalist(root: Path) -> bool:
    """Whether a folder holds files of one of the years."""
    return any(_is_year(root, year) for year in YEARS)


def _is_year(root: Path, year: int) -> bool:
    images = f"train_val{year}"
    texts = (f"{part}{year}.json{packed}" for part in ("train", "val") for packed in ("", ".tar.gz"))
    return any((root / name).exists() for name in (images, f"{images}.tar", f"{images}.tar.gz", *texts))


def open_inaturalist(root: Path, val_share: float = 0.0, seed: int = 0) -> PackedSource:
    """Index the data set in a folder.

    Args:
        root: holds ``train_valYEAR.tar`` or the folder ``train_valYEAR``, and ``trainYEAR.json`` and ``valYEAR.json``,
            which may be packed as ``.json.tar.gz``.
        val_share: refused unless 0: there is a val.
        seed: of the share.

    Raises:
        DataPrepError: if a file is missing or damaged, or they do not fit together.
    """
    years = [year for year in YEARS if _is_year(root, year)]
    if len(years) > 1:
        raise DataPrepError(f"{root}: holds iNaturalist 2018 and 2019; put each into a folder of its own")
    year = years[0]
    lists = {split: _read_list(root, f"{split}{year}.json") for split in ("train", "val")}
    if lists["train"].categories.keys() != lists["val"].categories.keys():
        raise DataPrepError(f"{root}: train{year}.json and val{year}.json have other categories; fetch both again")
    classes, remarks = _class_names(root, lists["train"].categories)
    splits = {split: found.split(classes) for split, found in lists.items()}
    if twice := sorted(set(splits["train"].names) & set(splits["val"].names)):
        raise DataPrepError(
            f"{root}: images are listed for both train and val: {some(twice, 3)}; fetch the lists again"
        )
    store = _find_images(root, f"train_val{year}")
    for split, found in lists.items():
        store.require(splits[split].names, found.file)
    set_aside_val(splits, val_share, seed, root)
    return PackedSource.of(f"iNaturalist {year}", root, [store], splits, remarks)


def _find_images(root: Path, folder: str) -> ImageStore:
    packed, plain = root / f"{folder}.tar.gz", root / f"{folder}.tar"
    if packed.is_file() and not plain.is_file() and not (root / folder).is_dir():
        if not is_gzip(packed):
            return find_store(root, folder, [packed.name])
        raise DataPrepError(
            f"{packed}: is compressed as a whole, so no image in it can be read alone; decompress it with "
            f"`gunzip -k {packed}`, which needs {packed.stat().st_size / 1e9:,.0f} GB more, and call again"
        )
    return find_store(root, folder, [plain.name])


@dataclass(frozen=True)
class _List:
    """What a JSON file lists.

    Attributes:
        file: its name.
        categories: names by id.
        images: id of the category by name of the image.
    """

    file: str
    categories: Mapping[int, str]
    images: Mapping[str, int]

    def split(self, classes: Sequence[str]) -> Split:
        """Its images as a split, sorted by name."""
        label_of = {number: label for label, number in enumerate(sorted(self.categories))}
        names = sorted(self.images)
        return Split(
            tuple(classes), tuple(names), np.asarray([label_of[self.images[name]] for name in names], np.int64)
        )


def _read_files(root: Path, name: str) -> PublishedFiles:
    """A JSON file, plain or packed."""
    archive = root / f"{name}.tar.gz"
    if not (root / name).is_file() and archive.is_file():
        return read_packed(archive, [name], _MOST_MEGABYTES)
    return read_unpacked(root, [name], _MOST_MEGABYTES)


def _parse(files: PublishedFiles, name: str) -> Any:
    try:
        return json.loads(files.require(name))
    except (ValueError, RecursionError) as error:
        raise files.refuse(name, f"is no JSON file ({error})") from None


def _read_list(root: Path, name: str) -> _List:
    files = _read_files(root, name)
    content = _parse(files, name)
    try:
        categories = _categories(content["categories"])
        file_of = {_number(image["id"]): _text(image["file_name"]) for image in content["images"]}
        pairs = [(_number(entry["image_id"]), _number(entry["category_id"])) for entry in content["annotations"]]
        count = len(content["images"])
    except (KeyError, TypeError, ValueError) as error:
        raise files.refuse(name, f"is no list of images as iNaturalist's are ({error!r})") from None
    if len(file_of) != count or len(set(file_of.values())) != count:
        raise files.refuse(name, "lists an image twice")
    category_of = dict(pairs)
    if len(category_of) != len(pairs):
        raise files.refuse(name, "has several annotations for one image")
    if odd := sorted(file_of.keys() ^ category_of.keys()):
        raise files.refuse(name, f"has images without an annotation, or the other way round (ids {some(odd, 3)})")
    if unknown := sorted(set(category_of.values()) - set(categories)):
        raise files.refuse(name, f"has annotations of categories that it does not list: {some(unknown)}")
    if not count:
        raise files.refuse(name, "lists no images")
    return _List(name, categories, {file_of[image]: category for image, category in pairs})


def _class_names(root: Path, categories: Mapping[int, str]) -> tuple[tuple[str, ...], list[str]]:
    """Names in the order of labels, from the file of names that came out later, if it is there."""
    files = _read_files(root, CATEGORIES)
    names, remarks = categories, []
    if files.content:
        listed = _parse(files, CATEGORIES)
        try:
            names = _categories(listed)
        except (KeyError, TypeError, ValueError) as error:
            raise files.refuse(CATEGORIES, f"is no list of categories ({error!r})") from None
        if missing := sorted(set(categories) - set(names)):
            raise files.refuse(CATEGORIES, f"lacks the categories {some(missing)}; is it of another year?")
        remarks.append(f"class names are those of {CATEGORIES}")
    return tuple(names[number] for number in sorted(categories)), remarks


def _categories(listed: Any) -> dict[int, str]:
    found = {_number(entry["id"]): _text(entry["name"]) for entry in listed}
    if not found or len(found) != len(listed):
        raise ValueError("no categories, or one twice")
    return found


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
