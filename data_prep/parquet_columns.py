"""Find the images, the labels and the names of the classes in the schema of a parquet file.

The ``datasets`` library stores an image as a struct of ``bytes`` and ``path``, and describes its columns once more, as
JSON, in the schema's metadata under ``huggingface``: there stand the names of the classes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataPrepError, some

_FETCH = "fetch the file again"


@dataclass(frozen=True)
class Columns:
    """Where things stand in a file.

    Attributes:
        image: path of the column of encoded images.
        label: name of the column of labels.
        path: path of the column of the image files' names, or "".
        class_names: of the labels; empty if the file does not tell.
        remarks: about a choice among several columns.
    """

    image: str
    label: str
    path: str
    class_names: tuple[str, ...]
    remarks: tuple[str, ...]


@contextlib.contextmanager
def opened_parquet(path: Path) -> Iterator[Any]:
    """A ``pyarrow.parquet.ParquetFile`` that is read in pieces; what is wrong with it is told as `DataPrepError`."""
    import pyarrow.lib  # noqa: PLC0415 - takes long to import
    import pyarrow.parquet  # noqa: PLC0415

    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            if file.metadata.num_rows > path.stat().st_size:
                raise DataPrepError(f"{path}: has more rows than bytes, so they hold no images; {_FETCH}")
            yield file
    except (pyarrow.lib.ArrowException, OSError) as error:
        raise DataPrepError(f"{path}: cannot be read ({str(error).splitlines()[0]}); {_FETCH}") from None


def read_column(file: Any, column: str) -> Any:
    """One column of a file, which may be a field of a struct, as a ``pyarrow.ChunkedArray``."""
    table = file.read(columns=[column], use_threads=False)
    return table.flatten().column(0) if "." in column else table.column(0)


def find_columns(path: Path) -> Columns:
    """Where things stand in a file.

    Raises:
        DataPrepError: if it has no column of images or of labels, or several of which none is called so.
    """
    with opened_parquet(path) as file:
        schema = file.schema_arrow
    features = _features(schema.metadata or {})
    image, remarks = _choose(path, "images", [field.name for field in schema if _image_path(field)], ("image", "img"))
    integers = [field.name for field in schema if str(field.type) in _INTEGERS]
    classes = [name for name in integers if features.get(name, {}).get("_type") == "ClassLabel"]
    label, more = _choose(path, "labels", classes or integers, ("label", "labels", "cls"))
    names = features.get(label, {}).get("names") or []
    if not isinstance(names, list):
        raise DataPrepError(f"{path}: the names of the classes of {label} are no list; {_FETCH}")
    field = schema.field(image)
    has_path = _image_path(field) != image and field.type.get_field_index("path") >= 0
    return Columns(
        _image_path(field), label, f"{image}.path" if has_path else "", tuple(map(str, names)), (*remarks, *more)
    )


_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def _image_path(field: Any) -> str:
    """Path of the encoded images in a column, or "" if it holds none."""
    if str(field.type) in ("binary", "large_binary"):
        return str(field.name)
    is_struct = str(field.type).startswith("struct<") and field.type.get_field_index("bytes") >= 0
    return f"{field.name}.bytes" if is_struct else ""


def _choose(path: Path, what: str, found: Sequence[str], preferred: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The column that is meant, and a remark if there were others."""
    if not found:
        raise DataPrepError(f"{path}: has no column of {what}; expected image (a struct of bytes and path) and label")
    chosen = next((name for name in preferred if name in found), found[0])
    if len(found) == 1:
        return chosen, ()
    if chosen not in preferred:
        raise DataPrepError(f"{path}: several columns may hold the {what}: {some(found)}; call one {preferred[0]!r}")
    others = some([name for name in found if name != chosen])
    return chosen, (f"the {what} are taken from the column {chosen}, not from {others}",)


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """The columns as the ``datasets`` library describes them; nothing if it does not, or not as expected."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
