"""Parquet files as the Hugging Face hub has them as a source: a column of images with a label beside it.

Parquet is read by row group, some hundred images at a time, while a shuffled plan asks for single images in any order.
Reading a row group per image would read the whole set a hundred times over, and holding all in memory is out of the
question. So when the first image of a parquet file is asked for, that file's images are copied to a spill (see
`parquet_spill`), from which any image is read by its place. The price is room on disk for the encoded images once more,
in a hidden folder of the output that is removed at the end.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import DataPrepError
from .parquet_columns import Columns, find_columns, opened_parquet, read_column
from .parquet_spill import make_spill, read_spilled
from .split import Split, set_aside_val, share_in_words
from .split_names import files_by_split

_NAME = re.compile(r"(.*?\.parquet)/(\d+)(?:/.*)?", re.DOTALL)


@dataclass(frozen=True)
class ParquetSource:
    """Images in parquet files.

    Attributes:
        kind: short name of the sort of source and what was chosen about it.
        root: the folder.
        image: path of the column of encoded images within the files, e.g. ``image.bytes``.
        splits: by name.
        remarks: what the user should be told.
        scratch: folder for spills; set by `keeping_in`, which must be called before anything is read.
    """

    kind: str
    root: Path
    image: str
    splits: Mapping[str, Split] = field(default_factory=dict, repr=False)
    remarks: Sequence[str] = ()
    scratch: Path | None = None

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, name: str) -> bytes:
        """The image in the row that the name states.

        Raises:
            OSError: if it cannot be read.
            DataPrepError: if the file is damaged, or there is no room for its spill.
        """
        match = _NAME.fullmatch(name)
        if match is None or self.scratch is None:
            raise RuntimeError(f"no row of a parquet file ({name!r}), or `keeping_in` was not called")
        path = self.root / match[1]
        state = path.stat()
        identity = f"{match[1]}\0{state.st_size}\0{state.st_mtime_ns}\0{self.image}"
        spill = self.scratch / hashlib.sha256(identity.encode()).hexdigest()[:32]
        if not spill.exists():
            make_spill(path, self.image, spill)
        return read_spilled(spill, int(match[2]))

    def only(self, names: Sequence[str]) -> ParquetSource:
        """This source without its lists: a name says where the image is."""
        return replace(self, splits={}, remarks=())

    def keeping_in(self, scratch: Path) -> ParquetSource:
        """This source with a folder for what it must keep until preparation is finished."""
        return replace(self, scratch=scratch)


def open_parquet(root: Path, val_share: float = 0.0, seed: int = 0, split: str = "train") -> ParquetSource:
    """Read the labels and names of all rows; no image is touched.

    Args:
        root: folder of the files, or one with folders data, train or val.
        val_share: with train only, the share of it to set aside as ``val``.
        seed: chooses which images are set aside.
        split: what to call the only split, if the files' names do not tell.

    Raises:
        DataPrepError: if a file is damaged, has no images with labels, or does not fit the others.
    """
    by_split = files_by_split(root, "parquet", split)
    columns = _common_columns([path for paths in by_split.values() for path in paths])
    remarks = list(columns.remarks)
    rows: dict[str, tuple[tuple[str, ...], npt.NDArray[np.int64]]] = {}
    for name, paths in by_split.items():
        names, labels = zip(*(_rows_of(root, path, columns) for path in paths), strict=True)
        together = np.concatenate(labels)
        if len(together) and together.max() < 0 and len(by_split) > 1:
            remarks.append(f"{name} is left out: it has no labels")
        else:
            rows[name] = tuple(text for group in names for text in group), together
    classes = _class_names(root, columns, {name: labels for name, (_, labels) in rows.items()})
    splits = {name: Split(classes, names, labels) for name, (names, labels) in rows.items()}
    splits, more = set_aside_val(splits, val_share, seed, root)
    kind = "parquet" + share_in_words(val_share, seed)
    return ParquetSource(kind, root, columns.image, splits, tuple(remarks + more))


def _common_columns(paths: Sequence[Path]) -> Columns:
    """What all files agree on."""
    first = find_columns(paths[0])
    for path in paths[1:]:
        if find_columns(path) != first:
            raise DataPrepError(
                f"{path}: has other columns or class names than {paths[0].name}; prepare one data set at a time"
            )
    return first


def _rows_of(root: Path, path: Path, columns: Columns) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Name and label of every row of a file; the name ends in that of the image file, where it is known."""
    with opened_parquet(path) as file:
        labels = read_column(file, columns.label)
        count = len(labels)
        ends = read_column(file, columns.path).to_pylist() if columns.path else [None] * count
        if labels.null_count:
            raise DataPrepError(f"{path}: {labels.null_count:,} rows have no {columns.label}; remove them")
    stem = path.relative_to(root).as_posix()
    names = [f"{stem}/{row:06d}" + (f"/{end}" if end else "") for row, end in enumerate(ends)]
    return names, labels.to_numpy().astype(np.int64)


def _class_names(root: Path, columns: Columns, labels: Mapping[str, npt.NDArray[np.int64]]) -> tuple[str, ...]:
    for name, found in labels.items():
        if not len(found) or found.min() < 0:
            what = "holds no rows" if not len(found) else f"has a label {found.min()}"
            raise DataPrepError(f"{root}: {name} {what}; labels are numbers from 0 ({columns.label})")
    most = max(int(found.max()) for found in labels.values())
    if columns.class_names and most >= len(columns.class_names):
        raise DataPrepError(
            f"{root}: has a label {most}, but names for {len(columns.class_names)} classes only ({columns.label})"
        )
    return columns.class_names or tuple(str(label) for label in range(most + 1))
