"""Make a manifest for WebDataset tars that others have written.

The tars are walked through once (`data_prep.foreign_tars` says what a sample is); what is found is kept as an ordinary
manifest in a folder ``.cait-index`` beside them (or in the user's cache, if that folder may not be written), and used
for as long as no tar is added, removed or changed.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np

from data_prep.errors import DataPrepError
from data_prep.foreign_tars import ForeignSample, foreign_samples
from data_prep.manifest import (
    SAMPLE_DTYPE,
    Manifest,
    ManifestError,
    ShardInfo,
    count_classes,
    load_manifest,
    write_manifest,
)
from data_prep.tar_walk import find_tars

from .errors import ShardIndexError

__all__ = ["INDEX_FOLDER", "find_tars", "index_tars"]

INDEX_FOLDER = ".cait-index"

_logger = logging.getLogger(__name__)


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
        rows = _rows_of(folder / name)
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


def _rows_of(path: Path) -> list[ForeignSample]:
    """The samples of one tar."""
    try:
        return list(foreign_samples(path))
    except DataPrepError as error:
        raise ShardIndexError(str(error)) from None
