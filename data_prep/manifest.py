"""The manifest: what lies in a split's folder, and where each sample's bytes are.

A split's folder holds::

    manifest.json     what and from where: classes, shards with sizes, checksums and class counts, changes
    samples.npy       one row per sample: shard, offset and size of the JPEG within the tar, label
    sources.txt.gz    line i: the name under which sample i was found
    train-000000.tar  the shards: ordinary WebDataset tars, readable by any tar program
    quarantine.jsonl  images that were put aside, with the reason (only if there are any)

With the table of places, any sample is read by one ``pread``: no tar is ever walked through. The order of rows is the
order of ids: shard by shard, and within a shard as stored.

Whoever loads a manifest may have got it from the internet, so `load_manifest` believes nothing: sizes are bounded
before anything is allocated, no pickle is ever loaded, shard names are plain file names in the same folder, and every
row must lie within a shard that exists with the stated size. What it does not do is read the shards; that is the
business of `verify`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import DataPrepError
from .files import write_whole

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
SAMPLES_FILE = "samples.npy"
SOURCES_FILE = "sources.txt.gz"
QUARANTINE_FILE = "quarantine.jsonl"

SAMPLE_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4")])
Samples = npt.NDArray[np.void]

_MAX_MANIFEST_BYTES = 512 * 2**20
_MAX_CLASSES = 1_000_000
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._,+=@ -]{0,250}", re.ASCII)
_T = TypeVar("_T")


class ManifestError(DataPrepError):
    """A manifest that is missing, damaged, or does not fit the files beside it."""


@dataclass(frozen=True)
class ShardInfo:
    """One shard.

    Attributes:
        name: file name within the split's folder.
        samples: number of samples.
        bytes: size of the file.
        sha256: checksum of the file in hexadecimal; "" if it was never computed.
        class_counts: samples per label, as pairs (label, count), sorted by label.
        mtime_ns: time of the last change for tars of others, which are trusted only while it stays the same; else 0.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    class_counts: tuple[tuple[int, int], ...]
    mtime_ns: int = 0


@dataclass(frozen=True)
class Manifest:
    """All about one split.

    Attributes:
        split: name of the split.
        source: where the images came from, for people.
        seed: of the shuffle at writing.
        class_names: name of each label.
        shards: in the order of ids.
        samples: structured array of `SAMPLE_DTYPE`, one row per sample in the order of ids.
        changes: images that were encoded anew, as pairs (source name, what was done).
        quarantined: number of images put aside as broken.
    """

    split: str
    source: str
    seed: int
    class_names: tuple[str, ...]
    shards: tuple[ShardInfo, ...]
    samples: Samples
    changes: tuple[tuple[str, str], ...] = ()
    quarantined: int = 0

    @property
    def digest(self) -> str:
        """Identity of the split's content: equal digests mean equal samples in the same order."""
        state = hashlib.sha256()
        for shard in self.shards:
            state.update(f"{shard.name}\0{shard.bytes}\0{shard.sha256}\0{shard.mtime_ns}\n".encode())
        state.update("\0".join(self.class_names).encode())
        state.update(np.ascontiguousarray(self.samples).tobytes())
        return state.hexdigest()


def count_classes(labels: npt.NDArray[np.integer]) -> tuple[tuple[int, int], ...]:
    """Samples per label as sorted pairs, without empty labels."""
    present, counts = np.unique(labels, return_counts=True)
    return tuple(zip(present.tolist(), counts.tolist(), strict=True))


def write_manifest(folder: Path, manifest: Manifest, source_names: Sequence[str]) -> None:
    """Write the table of samples and the names, and last the manifest that vouches for them.

    Args:
        folder: the split's folder, or one set aside for the index of others' tars.
        manifest: what to write.
        source_names: one per sample.
    """
    table = io.BytesIO()
    np.save(table, np.ascontiguousarray(manifest.samples), allow_pickle=False)
    write_whole(folder / SAMPLES_FILE, table.getvalue())
    lines = "".join(_one_line(name) + "\n" for name in source_names).encode("utf-8", "backslashreplace")
    write_whole(folder / SOURCES_FILE, gzip.compress(lines, mtime=0))
    content = {
        "format_version": FORMAT_VERSION,
        "split": manifest.split,
        "source": manifest.source,
        "seed": manifest.seed,
        "num_samples": len(manifest.samples),
        "class_names": manifest.class_names,
        "shards": [asdict(shard) for shard in manifest.shards],
        "samples_sha256": hashlib.sha256(table.getvalue()).hexdigest(),
        "digest": manifest.digest,
        "changes": manifest.changes,
        "quarantined": manifest.quarantined,
    }
    write_whole(folder / MANIFEST_FILE, json.dumps(content, indent=1).encode())


def read_source_names(folder: Path) -> list[str]:
    """The names under which the samples were found, in the order of ids.

    Raises:
        ManifestError: if the file is missing or damaged.
    """
    path = folder / SOURCES_FILE
    try:
        return gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); run `cait verify`, or prepare the data again") from None


def load_manifest(split_dir: Path, shard_dir: Path | None = None, *, check_shards: bool = True) -> Manifest:
    """Read and check the manifest of a split.

    Args:
        split_dir: folder that holds ``manifest.json`` and ``samples.npy``.
        shard_dir: folder that holds the shards, if it is another one.
        check_shards: whether the shards must exist and have the stated sizes.

    Returns:
        A manifest whose rows are known to lie within existing shards of the stated size.

    Raises:
        ManifestError: naming the file, what is wrong with it, and what to do.
    """
    path = split_dir / MANIFEST_FILE
    try:
        manifest, stated = _parse(path, _read_bounded(path, _MAX_MANIFEST_BYTES))
        samples = _read_samples(split_dir / SAMPLES_FILE, manifest, stated)
        manifest = Manifest(**{**manifest.__dict__, "samples": samples})
        if check_shards:
            _check_shard_files(shard_dir or split_dir, manifest.shards)
    except _Lie as lie:
        raise ManifestError(
            f"{lie.path or path}: {lie}; restore it from its origin, or prepare the data again"
        ) from None
    return manifest


class _Lie(Exception):  # noqa: N818 - never leaves this file
    """Something in a manifest cannot be so."""

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


def _one_line(name: str) -> str:
    return name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _read_bounded(path: Path, most: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > most:
            raise _Lie(f"has {size:,} bytes, more than the {most:,} that such a file can need", path)
        with path.open("rb") as file:
            return file.read(most + 1)
    except FileNotFoundError:
        raise _Lie("no such file", path) from None
    except OSError as error:
        raise _Lie(f"cannot be read ({error.strerror or error})", path) from None


def _parse(path: Path, raw: bytes) -> tuple[Manifest, Mapping[str, Any]]:
    """Everything but the table of samples, with types checked; and the raw mapping."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        raise _Lie("is not JSON", path) from None
    if not isinstance(content, dict):
        raise _Lie("is not a JSON object", path)
    version = _get(content, "format_version", int)
    if version != FORMAT_VERSION:
        raise _Lie(f"has format version {version}, this program reads {FORMAT_VERSION}", path)
    names = _texts(_get(content, "class_names", list), "class_names")
    if not 1 <= len(names) <= _MAX_CLASSES:
        raise _Lie(f"has {len(names)} classes, possible are 1 to {_MAX_CLASSES:,}", path)
    shards = tuple(_parse_shard(entry, len(names)) for entry in _get(content, "shards", list))
    if len({shard.name for shard in shards}) != len(shards):
        raise _Lie("lists a shard twice", path)
    changes = [_texts(pair, "changes") for pair in _get(content, "changes", list)]
    manifest = Manifest(
        split=_get(content, "split", str),
        source=_get(content, "source", str),
        seed=_get(content, "seed", int),
        class_names=names,
        shards=shards,
        samples=np.empty(0, SAMPLE_DTYPE),
        changes=tuple((pair[0], pair[1]) for pair in changes if len(pair) == 2),
        quarantined=_get(content, "quarantined", int),
    )
    return manifest, content


def _get(mapping: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    value = mapping.get(key)
    # To Python, True is an int.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _Lie(f"{key} is missing or not a {kind.__name__}")
    return value


def _texts(values: object, key: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _Lie(f"{key} holds something that is not text")
    return tuple(values)


def _parse_shard(entry: object, num_classes: int) -> ShardInfo:
    if not isinstance(entry, dict):
        raise _Lie("shards holds something that is not an object")
    name = _get(entry, "name", str)
    if not _SHARD_NAME.fullmatch(name):
        raise _Lie(f"shard name {name[:80]!r} is not a plain file name")
    samples, size, mtime_ns = (_get(entry, key, int) for key in ("samples", "bytes", "mtime_ns"))
    if not (1 <= samples < 2**32 and 0 <= size < 2**63 and mtime_ns >= 0):
        raise _Lie(f"shard {name} has an impossible number of samples or bytes")
    counts = []
    for pair in _get(entry, "class_counts", list):
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(number) is int for number in pair):
            raise _Lie(f"shard {name} has class counts that are not pairs of numbers")
        if not 0 <= pair[0] < num_classes:
            raise _Lie(f"shard {name} counts a label {pair[0]}, there are {num_classes} classes")
        counts.append((pair[0], pair[1]))
    return ShardInfo(name, samples, size, _get(entry, "sha256", str), tuple(counts), mtime_ns)


def _read_samples(path: Path, manifest: Manifest, stated: Mapping[str, Any]) -> Samples:
    """Load the table of samples and hold it against the shards."""
    count = sum(shard.samples for shard in manifest.shards)
    if _get(stated, "num_samples", int) != count:
        raise _Lie("num_samples is not the sum of the shards' samples")
    if not count:
        raise _Lie("has no samples")
    raw = _read_bounded(path, count * SAMPLE_DTYPE.itemsize + 4096)
    if hashlib.sha256(raw).hexdigest() != _get(stated, "samples_sha256", str):
        raise _Lie("does not have the checksum that the manifest states", path)
    samples = _rows_of(path, raw, count)
    _check_rows(path, samples, manifest)
    return samples


def _rows_of(path: Path, raw: bytes, count: int) -> Samples:
    """The rows of a ``.npy`` file that must hold ``count`` of them; read-only, sharing the memory of ``raw``."""
    stream = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception:  # NumPy evaluates the header as an expression, which may fail in any way a parser can
        raise _Lie("is not a NumPy array", path) from None
    offset = stream.tell()
    if version != (1, 0) or dtype != SAMPLE_DTYPE or shape != (count,) or len(raw) != offset + count * dtype.itemsize:
        raise _Lie(f"is not a table of {count:,} samples", path)
    return np.frombuffer(raw, SAMPLE_DTYPE, count, offset)


def _check_rows(path: Path, samples: Samples, manifest: Manifest) -> None:
    expected = np.repeat(np.arange(len(manifest.shards)), [shard.samples for shard in manifest.shards])
    if not np.array_equal(samples["shard"], expected):
        raise _Lie("does not follow the shards in order", path)
    room = np.asarray([shard.bytes for shard in manifest.shards], dtype=np.uint64)[expected]
    offset, size = samples["offset"], samples["size"].astype(np.uint64)
    # Written so that no sum can wrap around.
    bad = (offset > room) | (size > room - np.minimum(offset, room)) | (size == 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise _Lie(f"sample {row} does not lie within its shard {manifest.shards[expected[row]].name}", path)
    labels = samples["label"]
    if labels.min() < 0 or labels.max() >= len(manifest.class_names):
        raise _Lie(f"has labels outside the {len(manifest.class_names)} classes", path)


def _check_shard_files(folder: Path, shards: Sequence[ShardInfo]) -> None:
    for shard in shards:
        path = folder / shard.name
        try:
            status = path.stat()
        except FileNotFoundError:
            raise _Lie("the manifest lists this shard, but it is missing", path) from None
        except OSError as error:
            raise _Lie(f"cannot be examined ({error.strerror or error})", path) from None
        if status.st_size != shard.bytes:
            raise _Lie(f"has {status.st_size:,} bytes, the manifest states {shard.bytes:,}", path)
