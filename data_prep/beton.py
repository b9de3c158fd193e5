"""The beton, FFCV's file format, version 2: what lies where, without needing FFCV.

A beton is one file::

    header            version, number of fields and samples, page size, where the allocation table begins
    field descriptors one for "image" (RGB image), one for "label" (integer)
    metadata          a row per sample: how its image is stored (JPEG or raw pixels), width, height, place; its label
    pages             the images; none crosses the border of a page
    allocation table  a row per image: sample, place, size

FFCV's own `DatasetWriter` fills pages in the order in which its workers come by, so two runs never give the same
file; it hangs for ever when one image raises; and it cannot go on after an interruption. But nothing in the format asks
for that: once all sizes are known, every place follows by arithmetic (`Layout`), and any number of processes can fill
in their images in any order. The layouts below are those of FFCV 1.0.2; `tests/integration/test_ffcv.py` reads the
result with FFCV's own `Loader`.

A beton is input from outside, as a tar is: `read_table` believes nothing that it has not checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import DataPrepError, some_text

VERSION = 2
SMALLEST_PAGE = 1 << 21
DEFAULT_PAGE = 1 << 23
JPG, RAW = 0, 1

HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("alloc_table", "<u8")]
)
FIELD = np.dtype([("type_id", "u1"), ("name", "u1", 16), ("arguments", "u1", 1024)])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
METADATA = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
FIELDS = (("image", 2), ("label", 1))
_METADATA_START = HEADER.itemsize + len(FIELDS) * FIELD.itemsize

TABLE = np.dtype(
    [("offset", "<u8"), ("size", "<u8"), ("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("label", "<i8")]
)
Table = npt.NDArray[np.void]


class BetonError(DataPrepError):
    """A beton that is damaged, or that holds something else than labelled images."""


class Layout(NamedTuple):
    """Where everything lies.

    Attributes:
        page_size: in bytes, a power of two.
        pointers: ``(n,)`` uint64, place of each image in the file.
        alloc_table: place of the allocation table.
        total: size of the file in bytes.
    """

    page_size: int
    pointers: npt.NDArray[np.uint64]
    alloc_table: int
    total: int


def find_betons(folder: Path) -> list[Path]:
    """The betons of a folder in the order of their names."""
    return sorted(path for path in folder.glob("*.beton") if path.is_file() and not path.name.startswith("."))


def plan_layout(sizes: npt.NDArray[np.int64]) -> Layout:
    """Lay images of the given sizes into pages, one after the other.

    Pages have 8 MiB, FFCV's default, or as much more as the largest image needs.
    """
    page_size = DEFAULT_PAGE
    while page_size < sizes.max():
        page_size *= 2
    first = -(-(_METADATA_START + len(sizes) * METADATA.itemsize) // page_size)
    pointers = np.empty(len(sizes), dtype=np.uint64)
    position = first * page_size
    for row, size in enumerate(sizes.tolist()):
        left = -position % page_size or page_size
        position += left if size > left else 0
        pointers[row] = position
        position += size
    alloc_table = -(-position // page_size) * page_size
    return Layout(page_size, pointers, alloc_table, alloc_table + len(sizes) * ALLOCATION.itemsize)


def head_and_tail(layout: Layout, table: Table) -> tuple[bytes, bytes]:
    """All bytes before the pages (header, fields, metadata) and all after them (the allocation table)."""
    header = np.zeros(1, HEADER)
    header[0] = (VERSION, len(FIELDS), layout.page_size, len(table), layout.alloc_table)
    fields = np.zeros(len(FIELDS), FIELD)
    for field, (name, type_id) in zip(fields, FIELDS, strict=True):
        field["type_id"] = type_id
        field["name"][: len(name)] = np.frombuffer(name.encode(), "u1")
    metadata = np.zeros(len(table), METADATA)
    for column in ("mode", "width", "height"):
        metadata["image"][column] = table[column]
    metadata["image"]["data_ptr"], metadata["label"] = layout.pointers, table["label"]
    allocations = np.zeros(len(table), ALLOCATION)
    allocations["sample_id"] = np.arange(len(table))
    allocations["ptr"], allocations["size"] = layout.pointers, table["size"]
    return header.tobytes() + fields.tobytes() + metadata.tobytes(), allocations.tobytes()


def read_table(path: Path) -> Table:
    """The samples of a beton, its images' places known to lie within the file.

    Returns:
        ``(n,)`` structured array of `TABLE`, in the order of ids.

    Raises:
        BetonError: naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            total = file.seek(0, 2)
            header = _read(file.fileno(), path, HEADER, 1, 0, total)[0]
            _check_header(path, header)
            fields = _read(file.fileno(), path, FIELD, len(FIELDS), HEADER.itemsize, total)
            _check_fields(path, fields)
            count = int(header["num_samples"])
            metadata = _read(file.fileno(), path, METADATA, count, _METADATA_START, total)
            start = int(header["alloc_table"])
            allocations = _read(file.fileno(), path, ALLOCATION, count, start, total)
    except OSError as error:
        raise BetonError(f"{path}: cannot be read ({error.strerror or error}); check the storage") from None
    except MemoryError:  # files may have holes, which take no room: then a large size costs nothing
        raise BetonError(f"{path}: the table of its {count:,} samples does not fit into memory") from None
    return _join(path, metadata, allocations, total)


def _read(handle: int, path: Path, dtype: np.dtype[np.void], count: int, offset: int, total: int) -> Table:
    # Compared before anything is allocated: a header may state any number.
    if not 0 <= offset <= total or count > (total - offset) // dtype.itemsize:
        raise BetonError(f"{path}: ends before all it should hold is described; fetch or write it again")
    with open(handle, "rb", closefd=False) as file:
        file.seek(offset)
        return np.frombuffer(file.read(count * dtype.itemsize), dtype)


def _check_header(path: Path, header: np.void) -> None:
    if header["version"] != VERSION or header["num_fields"] != len(FIELDS):
        raise BetonError(
            f"{path}: not a beton of version {VERSION} with the fields image and label; write it with `cait prep`"
        )
    if not header["num_samples"]:
        raise BetonError(f"{path}: holds no samples")


def _check_fields(path: Path, fields: Table) -> None:
    found = [(bytes(field["name"]).rstrip(b"\0").decode("ascii", "replace"), int(field["type_id"])) for field in fields]
    if found != list(FIELDS):
        raise BetonError(
            f"{path}: has the fields {some_text(found, 200)}; needed are an RGB image 'image' and an integer 'label', "
            "in this order"
        )


def _join(path: Path, metadata: Table, allocations: Table, total: int) -> Table:
    order = np.argsort(allocations["sample_id"], kind="stable")
    allocations = allocations[order]
    image = metadata["image"]
    fits = np.array_equal(allocations["sample_id"], np.arange(len(metadata))) and np.array_equal(
        allocations["ptr"], image["data_ptr"]
    )
    if not fits:
        raise BetonError(f"{path}: its allocation table is not that of its samples; fetch or write it again")
    table = np.zeros(len(metadata), TABLE)
    table["offset"], table["size"], table["label"] = allocations["ptr"], allocations["size"], metadata["label"]
    for column in ("mode", "width", "height"):
        table[column] = image[column]
    _check_rows(path, table, total)
    return table


def _check_rows(path: Path, table: Table, total: int) -> None:
    room = np.uint64(total)
    bad = (table["offset"] > room) | (table["size"] > room - np.minimum(table["offset"], room)) | (table["size"] == 0)
    pixels = table["width"].astype(np.uint64) * table["height"] * np.uint64(3)
    bad |= (table["mode"] > RAW) | ((table["mode"] == RAW) & (pixels != table["size"])) | (pixels == 0)
    if bad.any():
        raise BetonError(f"{path}: sample {int(np.flatnonzero(bad)[0])} does not lie within the file as stated")
    stored = np.argsort(table["offset"], kind="stable")
    begins, ends = table["offset"][stored], (table["offset"] + table["size"])[stored]
    if (begins[1:] < ends[:-1]).any():
        raise BetonError(f"{path}: has samples that lie in the same bytes")
    if table["label"].min() < 0 or table["label"].max() >= 1_000_000:
        raise BetonError(f"{path}: has labels outside of 0 to 999,999")
