"""Write betons: FFCV's format, made from finished tars, the same bytes every time.

The images come from the tars of the same split, which are checked and shuffled already, and keep their order: sample i
of the beton is sample i of the tars. Three ways to store them:

* ``jpg``: the JPEG's own bytes. Nothing is lost by encoding again (FFCV's writer would), and the file is as small.
* ``raw``: pixels. Nothing to decode while training, for about ten times the bytes.
* ``proportion``: a seeded half of the images as JPEGs, the rest as pixels: FFCV's compromise.

Thumbnails that the tars hold as PNGs are stored as pixels in any case, since FFCV decodes JPEGs only.

First every image's size is read, from which follows every place. Then processes fill in the images, shard by shard, in
any order. A journal beside the unfinished file names the shards that are safely in it, so an interrupted call goes on
where it stopped. A worker that fails or is killed ends the call with its reason: nothing here can wait for ever.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from .beton import JPG, RAW, TABLE, Layout, Table, head_and_tail, plan_layout
from .beton_record import BetonRecord, read_beton_record, record_of, write_beton_record
from .clean import is_png, to_rgb
from .errors import DataPrepError
from .files import Stopped, file_sha256, publish
from .manifest import Manifest, ManifestError, Samples
from .pool import map_tasks
from .progress import ImageProgress

Mode = Literal["jpg", "proportion", "raw"]
JPG_SHARE = 0.5
_HEADER_BYTES = 16384
_PNG_SIZE = struct.Struct(">16xII")
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Chunk:
    """The images of one tar.

    Attributes:
        number: of the tar.
        tar: its path.
        rows: their rows in the tars' table.
        first: id of the first.
    """

    number: int
    tar: Path
    rows: Samples
    first: int

    @property
    def ids(self) -> slice:
        """Its samples among all."""
        return slice(self.first, self.first + len(self.rows))


@dataclass(frozen=True)
class _FillTask:
    chunk: _Chunk
    beton: Path
    table: Table
    pointers: npt.NDArray[np.uint64]


def beton_path(split_dir: Path) -> Path:
    """Where the beton of a split lies."""
    return split_dir / f"{split_dir.name}.beton"


def finished_beton(split_dir: Path, mode: Mode, plan: str) -> BetonRecord | None:
    """The record of a split's beton, if it is there whole, was made by this plan and stores images in this way."""
    path = beton_path(split_dir)
    try:
        record = read_beton_record(path)
        if path.stat().st_size != record.bytes:
            return None
    except (ManifestError, OSError):
        return None
    return record if (record.plan, record.mode) == (plan, mode) else None


def write_beton(
    split_dir: Path, manifest: Manifest, mode: Mode, plan: str, *, workers: int = 1, shown: bool = True
) -> BetonRecord:
    """Write the beton of a split whose tars are finished, or what is missing of it.

    Args:
        split_dir: folder of the split.
        manifest: of its tars.
        mode: how images are stored.
        plan: digest of the plan that the tars were made by.
        workers: processes.
        shown: whether to report on standard error.

    Raises:
        DataPrepError: if the disk is full, a tar cannot be read, or a worker was killed. What is done is kept.
    """
    path = beton_path(split_dir)
    chunks = list(_chunks(split_dir, manifest))
    with ImageProgress(f"measuring {split_dir.name}", len(manifest.samples), shown=shown) as progress:
        table = _measure(chunks, manifest, mode, workers, progress)
    layout = plan_layout(table["size"].astype(np.int64))
    _refuse_too_little_room(path, layout.total)
    with ImageProgress(f"writing {path.name}", len(table), shown=shown) as progress:
        unfinished = _fill(path, chunks, table, layout, manifest.digest, workers, progress)
        progress.say(f"checksum of {path.name}")
        sha256 = file_sha256(unfinished)
    record_of(path).unlink(missing_ok=True)
    publish(unfinished, path)
    record = BetonRecord(
        split=manifest.split,
        source=manifest.source,
        mode=mode,
        class_names=manifest.class_names,
        shard_sizes=tuple(shard.samples for shard in manifest.shards),
        bytes=layout.total,
        sha256=sha256,
        content=manifest.digest,
        plan=plan,
    )
    write_beton_record(path, record)
    _journal_of(path).unlink(missing_ok=True)
    return record


def _chunks(split_dir: Path, manifest: Manifest) -> Iterator[_Chunk]:
    first = 0
    for number, shard in enumerate(manifest.shards):
        yield _Chunk(number, split_dir / shard.name, manifest.samples[first : first + shard.samples], first)
        first += shard.samples


def _measure(chunks: list[_Chunk], manifest: Manifest, mode: Mode, workers: int, progress: ImageProgress) -> Table:
    """Everything about each image but its place in the beton."""
    table = np.zeros(len(manifest.samples), TABLE)
    are_png = np.zeros(len(table), dtype=bool)
    for chunk, shapes in map_tasks(_measure_chunk, chunks, workers):
        part = table[chunk.ids]
        part["width"], part["height"], are_png[chunk.ids] = shapes.T
        progress.add(len(shapes))
    table["label"] = manifest.samples["label"]
    # RandomState, not default_rng: NumPy promises that its stream never changes between versions.
    draws = np.random.RandomState([manifest.seed & 0xFFFFFFFF, 0xBE70]).random_sample(len(table))
    as_jpg = draws < {"jpg": 1.0, "proportion": JPG_SHARE, "raw": 0.0}[mode]
    table["mode"] = np.where(as_jpg & ~are_png, JPG, RAW)
    pixels = table["width"].astype(np.uint64) * table["height"] * np.uint64(3)
    table["size"] = np.where(table["mode"] == RAW, pixels, manifest.samples["size"])
    return table


def _measure_chunk(chunk: _Chunk, stopped: Callable[[], bool]) -> npt.NDArray[np.int64]:
    """Width and height of each image, and 1 if it is a PNG, ``(n, 3)``."""
    import simplejpeg  # noqa: PLC0415 - data preparation as such works without it

    shapes = np.empty((len(chunk.rows), 3), dtype=np.int64)
    for row, image in enumerate(_images(chunk, stopped, partial(_head, simplejpeg.decode_jpeg_header))):
        shapes[row] = image
    return shapes


def _head(
    read_header: Callable[[bytes], tuple[int, int, str, str]], tar: int, offset: int, size: int
) -> tuple[int, int, bool]:
    head = os.pread(tar, min(size, _HEADER_BYTES), offset)
    if is_png(head):
        return *_PNG_SIZE.unpack_from(head), True
    try:
        height, width, *_ = read_header(head)
    except ValueError:  # a long thumbnail comes first
        height, width, *_ = read_header(os.pread(tar, size, offset))
    return width, height, False


def _images(chunk: _Chunk, stopped: Callable[[], bool], read: Callable[[int, int, int], _T]) -> Iterator[_T]:
    """What ``read`` makes of each image, given the open tar and the image's offset and size."""
    try:
        with chunk.tar.open("rb") as file:
            for _, offset, size, _ in chunk.rows.tolist():
                if stopped():
                    raise Stopped
                yield read(file.fileno(), offset, size)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataPrepError(f"{chunk.tar}: cannot be read ({reason}); run `cait verify {chunk.tar.parent}`") from None


def _refuse_too_little_room(path: Path, total: int) -> None:
    there = _unfinished(path).stat().st_blocks * 512 if _unfinished(path).exists() else 0
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if total - there > free:
        raise DataPrepError(
            f"{path} will have {total / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free; make room, or choose another --out"
        )


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


def _journal_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")


def _fill(
    path: Path,
    chunks: list[_Chunk],
    table: Table,
    layout: Layout,
    content: str,
    workers: int,
    progress: ImageProgress,
) -> Path:
    """Write all images into a file aside, and return it; what its journal names as done is not done again."""
    unfinished, journal = _unfinished(path), _journal_of(path)
    head, tail = head_and_tail(layout, table)
    identity = f"{hashlib.sha256(head + tail).hexdigest()} from {content}"
    done = _read_journal(journal, unfinished, identity, layout.total)
    try:
        if not done:
            journal.write_text(identity + "\n")
            _begin(unfinished, head, tail, layout)
        tasks = []
        for chunk in chunks:
            if chunk.number in done:
                progress.add(len(chunk.rows), found_finished=True)
            else:
                tasks.append(_FillTask(chunk, unfinished, table[chunk.ids], layout.pointers[chunk.ids]))
        with journal.open("a") as file:
            for task, _ in map_tasks(_fill_chunk, tasks, workers):
                file.write(f"{task.chunk.number}\n")
                file.flush()
                progress.add(len(task.chunk.rows))
    except OSError as error:
        raise DataPrepError(
            f"{unfinished}: cannot be written ({error.strerror or error}); make room or choose another --out"
        ) from None
    return unfinished


def _read_journal(journal: Path, unfinished: Path, identity: str, total: int) -> set[int]:
    try:
        lines = journal.read_text().split("\n")
        if lines[0] != identity or unfinished.stat().st_size != total:
            return set()
    except OSError:
        return set()
    # The last piece is no line: empty, or torn by a kill.
    return {int(line) for line in lines[1:-1]}


def _begin(unfinished: Path, head: bytes, tail: bytes, layout: Layout) -> None:
    with unfinished.open("wb") as file:
        file.truncate(layout.total)
        file.write(head)
        file.seek(layout.alloc_table)
        file.write(tail)
        file.flush()
        os.fsync(file.fileno())


def _fill_chunk(task: _FillTask, stopped: Callable[[], bool]) -> None:
    handle = os.open(task.beton, os.O_WRONLY)
    try:
        images = _images(task.chunk, stopped, lambda tar, offset, size: os.pread(tar, size, offset))
        for image, row, place in zip(images, task.table, task.pointers.tolist(), strict=True):
            content = _pixels(image) if row["mode"] == RAW else image
            if len(content) != row["size"]:
                raise DataPrepError(f"{task.chunk.tar}: changed while it was read; run the same command again")
            os.pwrite(handle, content, place)
        os.fdatasync(handle)
    finally:
        os.close(handle)


def _pixels(image: bytes) -> bytes:
    import simplejpeg  # noqa: PLC0415

    if is_png(image):
        with Image.open(io.BytesIO(image)) as opened:
            return to_rgb(opened).tobytes()
    return bytes(simplejpeg.decode_jpeg(image, colorspace="RGB").data)
