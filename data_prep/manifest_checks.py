"""Read what a manifest's files say without believing it; `manifest.load_manifest` puts the parts together.

Every doubt is raised as a `Lie`, which says what cannot be so and, if it is not the manifest's own, in which file.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .errors import some_text
from .files import read_plain
from .manifest_types import FORMAT_VERSION, SAMPLE_DTYPE, Manifest, Samples, ShardInfo

MAX_MANIFEST_BYTES = 512 * 2**20
OWN_CHECKSUM = "content_sha256"
"""Entry of the manifest."""
_MAX_CLASSES = 1_000_000
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._,+=@ -]{0,250}", re.ASCII)
_HALVES = re.compile("[\ud800-\udfff]")
_T = TypeVar("_T")


class Lie(Exception):  # noqa: N818 - never leaves `load_manifest`
    """Something in a manifest cannot be so."""

    def __init__(self, message: str, path: Path | str | None = None) -> None:
        super().__init__(message)
        self.path = path


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a file that may not have more than ``most`` bytes."""
    try:
        return read_plain(path, most)
    except FileNotFoundError:
        raise Lie("no such file", path) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise Lie(f"has more than the {most:,} bytes that such a file can need", path) from None
        raise Lie(f"cannot be read ({error.strerror or error})", path) from None


def parse_manifest(path: Path | str, raw: bytes) -> tuple[Manifest, Mapping[str, Any]]:
    """Everything but the table of samples, with types checked; and the raw mapping."""
    try:
        content = json.loads(raw)
        actual = own_checksum(content) if isinstance(content, dict) else ""
    except (ValueError, RecursionError):
        raise Lie("is not JSON", path) from None
    if not actual:
        raise Lie("is not a JSON object", path)
    version = get_entry(content, "format_version", int)
    if version != FORMAT_VERSION:
        raise Lie(f"has format version {str(version)[:20]}, this program reads {FORMAT_VERSION}", path)
    if content.get(OWN_CHECKSUM, actual) != actual:
        raise Lie("does not have the checksum that it states itself: it was damaged, or edited by hand", path)
    names = text_entries(get_entry(content, "class_names", list), "class_names")
    if not 1 <= len(names) <= _MAX_CLASSES:
        raise Lie(f"has {len(names)} classes, possible are 1 to {_MAX_CLASSES:,}", path)
    shards = tuple(_parse_shard(entry, len(names)) for entry in get_entry(content, "shards", list))
    if len({shard.name for shard in shards}) != len(shards):
        raise Lie("lists a shard twice", path)
    changes = [text_entries(pair, "changes") for pair in get_entry(content, "changes", list)]
    manifest = Manifest(
        split=get_entry(content, "split", str),
        source=get_entry(content, "source", str),
        seed=get_entry(content, "seed", int),
        class_names=names,
        shards=shards,
        samples=np.empty(0, SAMPLE_DTYPE),
        changes=tuple((pair[0], pair[1]) for pair in changes if len(pair) == 2),
        quarantined=get_entry(content, "quarantined", int),
    )
    return manifest, content


def own_checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's entries. The checksums of everything else stand in it, so it needs one, too.

    A bit that flips on its way from a server would otherwise change, say, the checksum of a shard, which then could
    never be fetched. Manifests written before there was one have none.
    """
    entries = {key: value for key, value in content.items() if key != OWN_CHECKSUM}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def get_entry(mapping: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    """An entry that must be there and of a kind."""
    value = mapping.get(key)
    # To Python, True is an int.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Lie(f"{key} is missing or not a {kind.__name__}")
    if isinstance(value, str) and not _is_text(value):
        raise Lie(f"{key} holds something that is not text")
    if isinstance(value, int) and abs(value) >= 2**64:
        raise Lie(f"{key} is a number beyond all measure")
    return value


def _is_text(value: object) -> bool:
    """Whether it is text that can be written down: JSON can also spell halves of characters."""
    return isinstance(value, str) and _HALVES.search(value) is None


def text_entries(values: object, key: str) -> tuple[str, ...]:
    """A list that must hold nothing but text."""
    if not isinstance(values, list) or not all(map(_is_text, values)):
        raise Lie(f"{key} holds something that is not text")
    return tuple(values)


def _parse_shard(entry: object, num_classes: int) -> ShardInfo:
    if not isinstance(entry, dict):
        raise Lie("shards holds something that is not an object")
    name = get_entry(entry, "name", str)
    if not _SHARD_NAME.fullmatch(name):
        raise Lie(f"shard name {name[:80]!r} is not a plain file name")
    samples, size, mtime_ns = (get_entry(entry, key, int) for key in ("samples", "bytes", "mtime_ns"))
    if not (1 <= samples < 2**32 and 0 <= size < 2**63 and mtime_ns >= 0):
        raise Lie(f"shard {name} has an impossible number of samples or bytes")
    counts = []
    for pair in get_entry(entry, "class_counts", list):
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(number) is int for number in pair):
            raise Lie(f"shard {name} has class counts that are not pairs of numbers")
        if not 0 <= pair[0] < num_classes:
            raise Lie(f"shard {name} counts a label {some_text(pair[0])}, there are {num_classes} classes")
        if not 0 <= pair[1] <= samples:
            raise Lie(f"shard {name} counts more of a label than it has samples")
        counts.append((pair[0], pair[1]))
    return ShardInfo(name, samples, size, get_entry(entry, "sha256", str), tuple(counts), mtime_ns)


def most_sample_bytes(manifest: Manifest, stated: Mapping[str, Any]) -> int:
    """How large the file with the table of samples may be."""
    count = sum(shard.samples for shard in manifest.shards)
    if get_entry(stated, "num_samples", int) != count:
        raise Lie("num_samples is not the sum of the shards' samples")
    if not count:
        raise Lie("has no samples")
    return count * SAMPLE_DTYPE.itemsize + 4096


def parse_samples(path: Path | str, raw: bytes, manifest: Manifest, stated: Mapping[str, Any]) -> Samples:
    """The table of samples, held against the shards."""
    if hashlib.sha256(raw).hexdigest() != get_entry(stated, "samples_sha256", str):
        raise Lie("does not have the checksum that the manifest states", path)
    samples = _rows_of(path, raw, sum(shard.samples for shard in manifest.shards))
    _check_rows(path, samples, manifest)
    return samples


def _rows_of(path: Path | str, raw: bytes, count: int) -> Samples:
    """The rows of a ``.npy`` file that must hold ``count`` of them; read-only, sharing the memory of ``raw``."""
    stream = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception:  # NumPy evaluates the header as an expression, which may fail in any way a parser can
        raise Lie("is not a NumPy array", path) from None
    offset = stream.tell()
    if version != (1, 0) or dtype != SAMPLE_DTYPE or shape != (count,) or len(raw) != offset + count * dtype.itemsize:
        raise Lie(f"is not a table of {count:,} samples", path)
    return np.frombuffer(raw, SAMPLE_DTYPE, count, offset)


def _check_rows(path: Path | str, samples: Samples, manifest: Manifest) -> None:
    expected = np.repeat(np.arange(len(manifest.shards)), [shard.samples for shard in manifest.shards])
    if not np.array_equal(samples["shard"], expected):
        raise Lie("does not follow the shards in order", path)
    room = np.asarray([shard.bytes for shard in manifest.shards], dtype=np.uint64)[expected]
    offset, size = samples["offset"], samples["size"].astype(np.uint64)
    # Written so that no sum can wrap around.
    bad = (offset > room) | (size > room - np.minimum(offset, room)) | (size == 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise Lie(f"sample {row} does not lie within its shard {manifest.shards[expected[row]].name}", path)
    # As stored: one after the other. What lies twice in the same bytes would be two labels of one image.
    overlaps = (expected[1:] == expected[:-1]) & (offset[1:] < offset[:-1] + size[:-1])
    if overlaps.any():
        row = int(np.flatnonzero(overlaps)[0]) + 1
        raise Lie(f"sample {row} lies where the one before it does", path)
    labels = samples["label"]
    if labels.min() < 0 or labels.max() >= len(manifest.class_names):
        raise Lie(f"has labels outside the {len(manifest.class_names)} classes", path)


def check_shard_files(folder: Path, shards: Sequence[ShardInfo]) -> None:
    """Every shard must exist and have the stated size."""
    for shard in shards:
        path = folder / shard.name
        try:
            status = path.stat()
        except FileNotFoundError:
            raise Lie("the manifest lists this shard, but it is missing", path) from None
        except OSError as error:
            raise Lie(f"cannot be examined ({error.strerror or error})", path) from None
        if status.st_size != shard.bytes:
            raise Lie(f"has {status.st_size:,} bytes, the manifest states {shard.bytes:,}", path)
