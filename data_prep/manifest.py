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

import contextlib
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .files import read_plain, write_whole
from .manifest_checks import (
    MAX_MANIFEST_BYTES,
    OWN_CHECKSUM,
    Lie,
    check_shard_files,
    most_sample_bytes,
    own_checksum,
    parse_manifest,
    parse_samples,
    read_bounded,
)
from .manifest_types import (
    FORMAT_VERSION,
    SAMPLE_DTYPE,
    Manifest,
    ManifestError,
    Samples,
    ShardInfo,
    count_classes,
)

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "QUARANTINE_FILE",
    "SAMPLES_FILE",
    "SAMPLE_DTYPE",
    "SOURCES_FILE",
    "Manifest",
    "ManifestError",
    "Samples",
    "ShardInfo",
    "count_classes",
    "load_manifest",
    "one_line",
    "parse_manifest_files",
    "parse_source_names",
    "read_source_names",
    "write_manifest",
]

MANIFEST_FILE = "manifest.json"
SAMPLES_FILE = "samples.npy"
SOURCES_FILE = "sources.txt.gz"
QUARANTINE_FILE = "quarantine.jsonl"
MAX_SOURCES_BYTES = 2**30
"""Of the names, packed or not: those of ImageNet-21k's 14 million images take half of it."""


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
    lines = "".join(one_line(name) + "\n" for name in source_names).encode("utf-8", "backslashreplace")
    write_whole(folder / SOURCES_FILE, gzip.compress(lines, 6, mtime=0))
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
    # As it will be read: what are pairs here are lists in JSON.
    stated = own_checksum(json.loads(json.dumps(content)))
    write_whole(folder / MANIFEST_FILE, _one_line_per_shard({**content, OWN_CHECKSUM: stated}))


def _one_line_per_shard(content: Mapping[str, Any]) -> bytes:
    """JSON for people, too: a line per entry and shard, not one per number as ``indent`` would have it."""
    entries = dict(content)
    entries["shards"] = [json.dumps(shard) for shard in content["shards"]]
    lines = (
        f'"{key}": ' + ("[\n  " + ",\n  ".join(value) + "\n ]" if key == "shards" else json.dumps(value))
        for key, value in entries.items()
    )
    return ("{\n " + ",\n ".join(lines) + "\n}\n").encode()


def one_line(name: str) -> str:
    """A name as it stands in the list of sources, where line breaks would tear it apart."""
    return name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def read_source_names(folder: Path) -> list[str]:
    """The names under which the samples were found, in the order of ids.

    Raises:
        ManifestError: if the file is missing or damaged.
    """
    path = folder / SOURCES_FILE
    try:
        return parse_source_names(read_plain(path, MAX_SOURCES_BYTES), path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error}); {_SOURCES_REMEDY}") from None


def parse_source_names(raw: bytes, path: Path | str) -> list[str]:
    """The names in the content of such a file.

    Raises:
        ManifestError: if it is damaged.
    """
    try:
        # A small file may be packed from any amount of text.
        text = bytearray()
        with gzip.open(io.BytesIO(raw)) as packed:
            while len(text) <= MAX_SOURCES_BYTES and (part := packed.read(1 << 20)):
                text += part
        if len(text) <= MAX_SOURCES_BYTES:
            return text.decode().splitlines()
        reason: object = f"holds more than {MAX_SOURCES_BYTES:,} bytes of names"
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = error
    raise ManifestError(f"{path}: cannot be read ({reason}); {_SOURCES_REMEDY}")


_SOURCES_REMEDY = "run `cait verify`, or prepare the data again"


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
    with _told_of(split_dir / MANIFEST_FILE):
        manifest = parse_manifest_files(
            lambda name, most: read_bounded(split_dir / name, most), lambda name: split_dir / name
        )
        if check_shards:
            check_shard_files(shard_dir or split_dir, manifest.shards)
    return manifest


def parse_manifest_files(read: Callable[[str, int], bytes], place: Callable[[str], Path | str]) -> Manifest:
    """Read and check a manifest that may lie anywhere; the shards themselves are not looked at.

    Args:
        read: from a file's name and the most bytes it may have to its content.
        place: from a file's name to where it lies, for messages.

    Raises:
        ManifestError: as `load_manifest`.
    """
    with _told_of(place(MANIFEST_FILE)):
        manifest, stated = parse_manifest(place(MANIFEST_FILE), read(MANIFEST_FILE, MAX_MANIFEST_BYTES))
        raw = read(SAMPLES_FILE, most_sample_bytes(manifest, stated))
        return replace(manifest, samples=parse_samples(place(SAMPLES_FILE), raw, manifest, stated))


@contextlib.contextmanager
def _told_of(path: Path | str) -> Iterator[None]:
    try:
        yield
    except Lie as lie:
        raise ManifestError(
            f"{lie.path or path}: {lie}; restore it from its origin, or prepare the data again"
        ) from None
