"""The part of `verify` that is about betons: checksum, labels, and every image decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .beton import JPG, BetonError, Table, read_table
from .beton_record import BetonRecord, read_beton_record, record_of
from .clean import clean
from .files import Stopped, file_sha256
from .manifest import Manifest, ManifestError
from .pool import map_tasks
from .progress import ImageProgress

_REMEDY = "fetch the beton again, or delete it and run the same `cait prep` again"
_MOST_PER_BETON = 10
_IMAGES_AT_ONCE = 500


@dataclass(frozen=True)
class _DecodeTask:
    beton: Path
    rows: Table
    first: int


def check_beton(beton: Path, manifest: Manifest | None, *, workers: int, decode: bool, shown: bool) -> list[str]:
    """List what is wrong with a beton.

    Args:
        beton: the file.
        manifest: of the tars beside it, if there are any.
        workers: processes.
        decode: whether to decode every image.
        shown: whether to report on standard error.
    """
    try:
        table = read_table(beton)
        problems = list(_check_facts(beton, table, manifest))
    except (BetonError, ManifestError) as error:
        return [str(error)]
    except OSError as error:
        return [f"{beton}: cannot be read ({error.strerror or error}); {_REMEDY}"]
    if decode:
        problems += _check_images(beton, table, workers, shown)
    if len(problems) > _MOST_PER_BETON:
        problems[_MOST_PER_BETON:] = [f"{beton}: and {len(problems) - _MOST_PER_BETON} more problems"]
    return problems


def _check_facts(beton: Path, table: Table, manifest: Manifest | None) -> Iterator[str]:
    if not record_of(beton).exists():
        yield f"{beton}: has no record {record_of(beton).name}, so its bytes cannot be checked"
        return
    record = read_beton_record(beton)
    if record.samples != len(table):
        yield f"{beton}: holds {len(table):,} samples, its record states {record.samples:,}; {_REMEDY}"
    if beton.stat().st_size != record.bytes or file_sha256(beton) != record.sha256:
        yield f"{beton}: the checksum is not that of its record; {_REMEDY}"
    if table["label"].max() >= len(record.class_names):
        yield f"{beton}: has labels outside of its {len(record.class_names)} classes; {_REMEDY}"
    if manifest is not None:
        yield from _compare(beton, table, record, manifest)


def _compare(beton: Path, table: Table, record: BetonRecord, manifest: Manifest) -> Iterator[str]:
    if record.content != manifest.digest:
        yield f"{beton}: was not made from the tars beside it; {_REMEDY}"
    elif not np.array_equal(table["label"], manifest.samples["label"]):
        yield f"{beton}: its labels are not those of the tars beside it; {_REMEDY}"


def _check_images(beton: Path, table: Table, workers: int, shown: bool) -> list[str]:
    tasks = [
        _DecodeTask(beton, table[first : first + _IMAGES_AT_ONCE], first)
        for first in range(0, len(table), _IMAGES_AT_ONCE)
    ]
    found = {}
    with ImageProgress(f"verifying {beton.name}", len(table), shown=shown) as progress:
        for task, problems in map_tasks(_decode, tasks, workers):
            found[task.first] = problems
            progress.add(len(task.rows))
    return [problem for first in sorted(found) for problem in found[first]]


def _decode(task: _DecodeTask, stopped: Callable[[], bool]) -> list[str]:
    problems = []
    with task.beton.open("rb") as file:
        for number, (offset, size, mode, width, height, _) in enumerate(task.rows.tolist(), task.first):
            if stopped():
                raise Stopped
            if mode == JPG and (broken := _what_is_broken(os.pread(file.fileno(), size, offset), width, height)):
                problems.append(f"{task.beton}: sample {number} (offset {offset}) {broken}")
    return problems


def _what_is_broken(jpeg: bytes, width: int, height: int) -> str:
    import simplejpeg  # noqa: PLC0415

    if broken := clean(jpeg).broken:
        return f"cannot be decoded: {broken}"
    found = simplejpeg.decode_jpeg_header(jpeg)[:2]
    return "" if found == (height, width) else f"has {found[1]}×{found[0]} pixels, {width}×{height} are stated"
