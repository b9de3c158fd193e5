"""Find the labelled images in a WebDataset tar that others have written.

Samples are neighbouring members with the same name up to the first dot: an image (``.jpg``, ``.jpeg``, ``.png``,
``.webp``) and a label (``.cls``: an integer as text; or ``.json`` with an integer ``label`` or ``cls``). The tar is
walked through header by header; only labels are read. Training, which reads such tars as they are, and preparation,
which makes shards with a manifest of them, both stand on this.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from .errors import DataPrepError, some_text
from .tar_walk import opened, walk

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

_MAX_LABEL = 1_000_000
_MAX_CLS_BYTES = 64
_MAX_JSON_BYTES = 1 << 20
# WebDataset's rule: the key is everything up to the first dot of the file's name.
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_REWRITE = "write the shards again with `webdataset` or `cait prep`"


class ForeignSample(NamedTuple):
    """An image in a tar: the member's name, where its bytes lie in the file, and its label."""

    name: str
    offset: int
    size: int
    label: int


def foreign_samples(path: Path) -> Iterator[ForeignSample]:
    """The samples of one tar in the order in which they are stored.

    Raises:
        DataPrepError: if the tar is damaged, or holds something else than labelled images.
    """
    with opened(path) as file:
        yield from _samples_of(path, file)


def _samples_of(path: Path, file: IO[bytes]) -> Iterator[ForeignSample]:
    seen: set[str] = set()
    key, group = "", _Group()
    for member in walk(path, file):
        match = _MEMBER.fullmatch(member.name)
        if match is None:
            continue
        if match[1] != key:
            yield from group.finish(path, key)
            key, group = match[1], _Group()
            if key in seen:
                raise DataPrepError(f"{path}: the members of {some_text(key, 200)} do not lie side by side; {_REWRITE}")
            seen.add(key)
        group.add(path, file, member, match[2].lower())
    yield from group.finish(path, key)


@dataclass
class _Group:
    """The members of one sample, as far as they have been met."""

    image: tuple[str, int, int] | None = None
    label: int | None = None
    met: bool = False

    def add(self, path: Path, file: IO[bytes], member: tarfile.TarInfo, extension: str) -> None:
        self.met, shown = True, some_text(member.name, 200)
        if extension in IMAGE_EXTENSIONS:
            if self.image is not None:
                raise DataPrepError(f"{path}: two images of the same name, {shown} is the second; {_REWRITE}")
            if not 0 < member.size < 2**32:
                raise DataPrepError(f"{path}: the image {shown} has {member.size} bytes; {_REWRITE}")
            self.image = (member.name, member.offset_data, member.size)
        elif extension == "cls" or (extension == "json" and self.label is None):
            self.label = _read_label(path, file, member, extension)

    def finish(self, path: Path, key: str) -> Iterator[ForeignSample]:
        if not self.met:
            return
        if self.image is None or self.label is None:
            missing = "image" if self.image is None else "label"
            raise DataPrepError(f"{path}: the sample {some_text(key, 200)} has no {missing}; {_REWRITE}")
        yield ForeignSample(*self.image, self.label)


def _read_label(path: Path, file: IO[bytes], member: tarfile.TarInfo, extension: str) -> int:
    most, shown = _MAX_CLS_BYTES if extension == "cls" else _MAX_JSON_BYTES, some_text(member.name, 200)
    if member.size > most:
        raise DataPrepError(f"{path}: {shown} has {member.size:,} bytes, too many for a label; {_REWRITE}")
    try:
        # By its place, so that tarfile's own position in the file does not matter to us, nor ours to it.
        raw = os.pread(file.fileno(), member.size, member.offset_data)
    except OSError as error:
        raise DataPrepError(f"{path}: cannot be read ({error.strerror or error}); check the storage") from None
    try:
        value = json.loads(raw) if extension == "json" else int(raw)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    if type(value) is not int or not 0 <= value < _MAX_LABEL:
        raise DataPrepError(
            f"{path}: {shown} holds no label, which is an integer from 0 to {_MAX_LABEL - 1:,}; {_REWRITE}"
        )
    return value
