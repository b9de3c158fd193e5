"""Make a manifest for WebDataset tars that others have written.

Samples in such tars are neighbouring members with the same name up to the first dot: an image (``.jpg``, ``.jpeg``,
``.png``, ``.webp``) and a label (``.cls``: an integer as text; or ``.json`` with an integer ``label`` or ``cls``). The
tars are walked through once, header by header; what is found is kept as an ordinary manifest in a folder
``.cait-index`` beside them (or in the user's cache, if that folder may not be written), and used for as long as no
tar is added, removed or changed.

A tar is input from outside. Nothing is ever extracted, so a member cannot be written to where it should not be; links,
devices and names that leave the archive are refused all the same, because a reader that follows them is one careless
change away. And a damaged header ends a tar silently for Python's ``tarfile``, so the end is checked to be one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from data_prep.manifest import (
    SAMPLE_DTYPE,
    Manifest,
    ManifestError,
    ShardInfo,
    count_classes,
    load_manifest,
    write_manifest,
)

from .errors import ShardIndexError

INDEX_FOLDER = ".cait-index"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

_MAX_LABEL = 1_000_000
_MAX_CLS_BYTES = 64
_MAX_JSON_BYTES = 1 << 20
# WebDataset's rule: the key is everything up to the first dot of the file's name.
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)

_logger = logging.getLogger(__name__)


class _Row(NamedTuple):
    name: str
    offset: int
    size: int
    label: int


def find_tars(folder: Path) -> list[Path]:
    """The tars of a folder in the order of their names."""
    return sorted(path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("."))


def index_tars(folder: Path) -> Path:
    """Find the samples in the tars of a folder, unless it was done before and nothing has changed.

    Returns:
        A folder with a manifest, for `load_manifest`.

    Raises:
        ShardIndexError: if a tar is damaged, or holds something else than labelled images.
    """
    homes = (folder / INDEX_FOLDER, _cache_folder(folder))
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in find_tars(folder)]
    for home in homes:
        if _is_current(home, folder, state):
            return home
    _logger.info("indexing %d tars in %s, once", len(state), folder)
    manifest, names = _build(folder, state)
    for home in homes:
        try:
            home.mkdir(parents=True, exist_ok=True)
            write_manifest(home, manifest, names)
        except OSError as error:
            _logger.info("%s cannot be written (%s)", home, error.strerror)
        else:
            return home
    raise ShardIndexError(
        f"the index of {folder} can be kept neither in {homes[0]} nor in {homes[1]}; make one writable"
    )


def _cache_folder(folder: Path) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "cait-dist" / "indexes" / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]


def _is_current(home: Path, folder: Path, state: list[tuple[str, int, int]]) -> bool:
    try:
        manifest = load_manifest(home, folder)
    except ManifestError:
        return False
    found = [(shard.name, shard.bytes, shard.mtime_ns) for shard in manifest.shards]
    return sorted(found) == [entry for entry in state if _without_samples(*entry) not in manifest.changes]


def _without_samples(name: str, size: int, mtime_ns: int) -> tuple[str, str]:
    """How a manifest remembers a tar that holds no samples, and so is none of its shards."""
    return name, f"holds no samples (size {size}, changed {mtime_ns})"


def _build(folder: Path, state: list[tuple[str, int, int]]) -> tuple[Manifest, list[str]]:
    shards: list[ShardInfo] = []
    tables = []
    names: list[str] = []
    empty: list[tuple[str, str]] = []
    for name, size, mtime_ns in state:
        rows = list(_samples_of(folder / name))
        if not rows:
            empty.append(_without_samples(name, size, mtime_ns))
            continue
        table = np.zeros(len(rows), SAMPLE_DTYPE)
        table["shard"] = len(shards)
        for column in ("offset", "size", "label"):
            table[column] = [getattr(row, column) for row in rows]
        shards.append(ShardInfo(name, len(rows), size, "", count_classes(table["label"]), mtime_ns))
        tables.append(table)
        names += [f"{name}/{row.name}" for row in rows]
    if not tables:
        raise ShardIndexError(f"the tars in {folder} hold no images with labels (members KEY.jpg and KEY.cls)")
    samples = np.concatenate(tables)
    class_names = tuple(str(label) for label in range(int(samples["label"].max()) + 1))
    return Manifest(
        folder.name, f"WebDataset tars: {folder}", 0, class_names, tuple(shards), samples, tuple(empty)
    ), names


def _samples_of(path: Path) -> Iterator[_Row]:
    """The samples of one tar."""
    seen: set[str] = set()
    key, group = "", _Group()
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = 0
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                parts = _name_parts(path, member)
                if parts is None:
                    continue
                if parts[0] != key:
                    yield from group.finish(path, key)
                    key, group = parts[0], _Group()
                    if key in seen:
                        raise ShardIndexError(f"{path}: the members of {key!r} do not lie side by side; {_REWRITE}")
                    seen.add(key)
                group.add(path, file, member, parts[1].lower())
            yield from group.finish(path, key)
            _check_end(path, file, end)
    except (tarfile.TarError, EOFError) as error:
        raise ShardIndexError(f"{path}: not a whole, uncompressed tar ({error}); fetch or write it again") from None
    except OSError as error:
        raise ShardIndexError(f"{path}: cannot be read ({error.strerror or error})") from None


_REWRITE = "write the shards again with `webdataset` or `cait prep`"


def _name_parts(path: Path, member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and extension of a member, or None if it is none of our business."""
    name = member.name
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise ShardIndexError(f"{path}: the member {name!r} points out of the archive; do not use this tar")
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        raise ShardIndexError(
            f"{path}: the member {name!r} is a link, a device or sparse, not a plain file; {_REWRITE}"
        )
    match = _MEMBER.fullmatch(name)
    return (match[1], match[2]) if match else None


@dataclass
class _Group:
    """The members of one sample, as far as they have been met."""

    image: tuple[str, int, int] | None = None
    label: int | None = None
    met: bool = False

    def add(self, path: Path, file: IO[bytes], member: tarfile.TarInfo, extension: str) -> None:
        self.met = True
        if extension in IMAGE_EXTENSIONS:
            if self.image is not None:
                raise ShardIndexError(f"{path}: two images of the same name, {member.name!r} is the second; {_REWRITE}")
            if not 0 < member.size < 2**32:
                raise ShardIndexError(f"{path}: the image {member.name!r} has {member.size} bytes; {_REWRITE}")
            self.image = (member.name, member.offset_data, member.size)
        elif extension == "cls" or (extension == "json" and self.label is None):
            self.label = _read_label(path, file, member, extension)

    def finish(self, path: Path, key: str) -> Iterator[_Row]:
        if not self.met:
            return
        if self.image is None or self.label is None:
            missing = "image" if self.image is None else "label"
            raise ShardIndexError(f"{path}: the sample {key!r} has no {missing}; {_REWRITE}")
        yield _Row(*self.image, self.label)


def _read_label(path: Path, file: IO[bytes], member: tarfile.TarInfo, extension: str) -> int:
    most = _MAX_CLS_BYTES if extension == "cls" else _MAX_JSON_BYTES
    if member.size > most:
        raise ShardIndexError(f"{path}: {member.name!r} has {member.size:,} bytes, too many for a label")
    # By its place, so that tarfile's own position in the file does not matter to us, nor ours to it.
    raw = os.pread(file.fileno(), member.size, member.offset_data)
    try:
        value = json.loads(raw) if extension == "json" else int(raw)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    if type(value) is not int or not 0 <= value < _MAX_LABEL:
        raise ShardIndexError(
            f"{path}: {member.name!r} holds no label, which is an integer from 0 to {_MAX_LABEL - 1:,}; {_REWRITE}"
        )
    return value


def _check_end(path: Path, file: IO[bytes], end: int) -> None:
    """After the last member there must be at least one empty block, and nothing else."""
    file.seek(end)
    first = file.read(tarfile.BLOCKSIZE)
    if len(first) < tarfile.BLOCKSIZE:
        raise ShardIndexError(f"{path}: ends without a tar's end mark, so it may be cut off; fetch or write it again")
    while first:
        if first.strip(b"\0"):
            raise ShardIndexError(
                f"{path}: damaged after byte {end:,}, or several tars in one; fetch or write it again"
            )
        first = file.read(1 << 20)
