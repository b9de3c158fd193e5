"""A folder of images as a source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import DataPrepError, some
from .split import Split, require_split_name, set_aside_val, share_in_words

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
SPLIT_FOLDERS = ("train", "val", "test")


@dataclass(frozen=True)
class FolderSource:
    """A folder of images: ``ROOT/train/CLASS/*.jpg``, ``ROOT/val/CLASS/*.jpg``, …, or ``ROOT/CLASS/*.jpg``.

    Classes are numbered in the order of their sorted names, as torchvision's ``ImageFolder`` does; folders named 0, 1,
    …, n-1 (ImageNet-V2 has them) in the order of the numbers, where text would put 10 before 2. Images may lie in
    folders below their class's.

    Args:
        root: the folder.
        val_share: with a train split only, the share of it to set aside as ``val``; 0 for none.
        seed: chooses which images are set aside.
        split: what to call the only split of a folder of classes.

    Raises:
        DataPrepError: if the folder is missing, unreadable, empty, or its splits do not fit together.
    """

    root: Path
    val_share: float = 0.0
    seed: int = 0
    split: str = "train"
    splits: Mapping[str, Split] = field(init=False, repr=False, compare=False)
    remarks: Sequence[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_split_name(self.split)
        remarks: list[str] = []
        splits, more = set_aside_val(self._find_splits(remarks), self.val_share, self.seed, self.root)
        remarks += more
        # The dataclass is frozen for its users; these two are part of its construction.
        object.__setattr__(self, "splits", splits)
        object.__setattr__(self, "remarks", tuple(remarks))

    @property
    def kind(self) -> str:
        """Name and choices."""
        return "folder" + share_in_words(self.val_share, self.seed)

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, name: str) -> bytes:
        """The file of that name, untouched."""
        return (self.root / name).read_bytes()

    def only(self, names: Sequence[str]) -> FolderSource:
        """This source, which leaves its names behind when it travels: a file's name says where it is."""
        return self

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "splits": {}, "remarks": ()}

    def _find_splits(self, remarks: list[str]) -> dict[str, Split]:
        folders = _folders(self.root)
        if "train" not in folders:
            if extra := [name for name in SPLIT_FOLDERS if name in folders]:
                raise DataPrepError(
                    f"{self.root} has a folder {extra[0]}/ but no train/; add train/CLASS/… or point at one split alone"
                )
            remarks.append(
                f"{self.root} has no train/ folder: its {len(folders)} folders are taken as the classes of {self.split}"
            )
            return {self.split: _scan_split(self.root, self.root, _in_order(folders, remarks), remarks)}
        if self.split != "train":
            raise DataPrepError(
                f"{self.root} has a train/ folder, so its splits have names; --split is for a folder of classes alone"
            )
        present = [name for name in SPLIT_FOLDERS if name in folders]
        for name in sorted(set(folders) - set(present)):
            remarks.append(f"{self.root / name} is ignored: not one of {', '.join(SPLIT_FOLDERS)}")
        classes = _in_order(_folders(self.root / "train"), remarks)
        splits = {}
        for name in present:
            if extra := sorted(set(_folders(self.root / name)) - set(classes)):
                raise DataPrepError(
                    f"{self.root / name} has classes that train/ does not have: {some(extra)}; the splits must agree"
                )
            splits[name] = _scan_split(self.root, self.root / name, classes, remarks)
        return splits


def _folders(parent: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    try:
        with os.scandir(parent) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        raise DataPrepError(f"{parent}: no such folder; give a folder of images") from None
    except NotADirectoryError:
        raise DataPrepError(f"{parent} is a file; give the folder that holds the classes' folders") from None
    except PermissionError:
        raise DataPrepError(f"{parent}: no permission to read it; ask its owner, or run as a user who may") from None


def _in_order(folders: list[str], remarks: list[str]) -> list[str]:
    """Classes in the order of their labels."""
    numbers = [str(number) for number in range(len(folders))]
    if set(folders) == set(numbers):
        if folders != numbers:
            remarks.append(f"class folders are named 0 to {len(folders) - 1}: numbered so, not in the order of text")
        return numbers
    if all(name.isascii() and name.isdecimal() for name in folders) and folders != sorted(folders, key=int):
        remarks.append(
            f"class folders are named by numbers, but not 0 to {len(folders) - 1}: taken in the order of text, "
            f"label 0 is {folders[0]}, label 1 is {folders[1]}, …"
        )
    return folders


def _scan_split(root: Path, folder: Path, classes: Sequence[str], remarks: list[str]) -> Split:
    """List the images below ``folder/CLASS`` for each class."""
    names: list[str] = []
    labels: list[int] = []
    others = 0
    for label, class_name in enumerate(classes):
        before = len(names)
        for path in _files(folder / class_name):
            if path.lower().endswith(IMAGE_SUFFIXES):
                names.append(os.path.relpath(path, root))
            else:
                others += 1
        labels += [label] * (len(names) - before)
        if len(names) == before:
            remarks.append(f"{folder / class_name} holds no image")
    if others:
        remarks.append(f"{folder}: {others:,} files are ignored, as their names do not end like an image's")
    if not names:
        raise DataPrepError(
            f"{folder} holds no images; expected {folder}/CLASS/*.jpg (or {', '.join(IMAGE_SUFFIXES[1:])})"
        )
    return Split(tuple(classes), tuple(names), np.asarray(labels, dtype=np.int64))


def _files(folder: Path) -> Iterator[str]:
    """All files below a folder in sorted order, without hidden ones; nothing if the folder does not exist."""

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise DataPrepError(f"{error.filename}: no permission to read it; ask its owner, or leave it out") from None

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (os.path.join(parent, name) for name in sorted(files) if not name.startswith("."))  # noqa: PTH118
