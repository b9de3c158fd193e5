"""Random access to the samples of WebDataset shards.

A tar stores its members as they are, one after the other. Whoever knows where they lie can read any of them with one
``pread`` and needs neither the tar format nor the other members; the manifest knows. So a stream of samples in any
order costs what the storage asks for it, and nothing is ever extracted.
"""

from __future__ import annotations

import os
import resource
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from data_prep.beton import find_betons
from data_prep.manifest import MANIFEST_FILE, Manifest, load_manifest, read_source_names

from .errors import DataError, ShardReadError
from .index_webdataset import find_tars, index_tars
from .reader_ffcv import FfcvReader

# Opening a file costs a round trip on a network file system, so as many stay open as leaves room for everything else.
_SOFT_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
_MAX_OPEN_FILES = 2048 if _SOFT_LIMIT == resource.RLIM_INFINITY else min(max(_SOFT_LIMIT // 4, 16), 2048)


class WebDatasetReader:
    """The samples of one split. Picklable; may be used from several threads and after a fork.

    Args:
        split_dir: folder with shards and manifest, or with plain WebDataset tars, which are indexed once.

    Attributes:
        num_samples: number of samples; ids are below it.
        class_names: name of each label.
        labels: ``(num_samples,)`` int64.
        shard_sizes: samples per shard, in the order of ids.
        digest: identity of the content; equal for equal samples in the same order.

    Raises:
        ManifestError: if the manifest is damaged or does not fit the shards.
        ShardIndexError: if tars without a manifest cannot be understood.
    """

    def __init__(self, split_dir: Path | str) -> None:
        self.split_dir = Path(split_dir)
        self._index_dir = self.split_dir
        if not (self.split_dir / MANIFEST_FILE).exists() and find_tars(self.split_dir):
            self._index_dir = index_tars(self.split_dir)
        manifest: Manifest = load_manifest(self._index_dir, self.split_dir)
        self.class_names = manifest.class_names
        self.labels: npt.NDArray[np.int64] = manifest.samples["label"].astype(np.int64)
        self.shard_sizes = tuple(shard.samples for shard in manifest.shards)
        self.digest = manifest.digest
        self._shard_names = tuple(shard.name for shard in manifest.shards)
        self._samples = manifest.samples
        self._forget_files()

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self._samples)

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are below it."""
        return len(self.class_names)

    def read(self, index: int) -> bytes:
        """The encoded image of one sample.

        Raises:
            IndexError: if there is no such sample.
            ShardReadError: naming the place, if the bytes cannot be read.
        """
        if not 0 <= index < self.num_samples:
            raise IndexError(f"{self.split_dir} has samples 0 to {self.num_samples - 1}, there is no {index}")
        shard, offset, size, _ = self._samples[index].item()
        try:
            encoded = self._read_at(shard, offset, size)
        except OSError as error:
            raise ShardReadError(f"{self.locate(index)}: {error.strerror or error}; check the storage") from None
        if len(encoded) != size:
            raise ShardReadError(f"{self.locate(index)}: the file ends early; run `cait verify {self.split_dir}`")
        return encoded

    def locate(self, index: int) -> str:
        """Where a sample lies, for messages."""
        shard, offset, size, _ = self._samples[index].item()
        return f"sample {index} ({self.split_dir / self._shard_names[shard]}, offset {offset}, {size} bytes)"

    def source_name(self, index: int) -> str:
        """The name under which a sample was found when the data were prepared. Reads the whole list of names."""
        return read_source_names(self._index_dir)[index]

    def _read_at(self, shard: int, offset: int, size: int) -> bytes:
        if self._pid != os.getpid():
            # After a fork: the lock may be held by a thread that does not exist here.
            self._forget_files()
        with self._lock:
            handle = self._files.pop(shard, None)
            if handle is None:
                handle = os.open(self.split_dir / self._shard_names[shard], os.O_RDONLY | os.O_CLOEXEC)
            self._files[shard] = handle
            if len(self._files) > _MAX_OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            return os.pread(handle, size, offset)

    def _forget_files(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._files: OrderedDict[int, int] = OrderedDict()

    def close(self) -> None:
        """Close the open files; they are opened again when needed."""
        if self._pid == os.getpid():
            with self._lock:
                while self._files:
                    os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_files", "_pid")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget_files()


def open_split(
    data_path: Path | str, split: str, storage: Literal["auto", "webdataset", "ffcv"] = "auto"
) -> WebDatasetReader | FfcvReader:
    """Open one split of a data set.

    Args:
        data_path: folder that holds the splits' folders.
        split: which.
        storage: the format to read; ``auto`` takes tars if there are any, else a beton.

    Raises:
        DataError: if there is no such split or it holds no shards this program reads, saying what there is.
    """
    folder = Path(data_path) / split
    if not folder.is_dir():
        raise DataError(_no_split(Path(data_path), split))
    has_tars, has_beton = bool(find_tars(folder)) or (folder / MANIFEST_FILE).exists(), bool(find_betons(folder))
    if not has_tars and not has_beton:
        raise DataError(f"{folder} holds no shards; prepare them with `cait prep SOURCE --out {data_path}`")
    if (storage == "webdataset" and not has_tars) or (storage == "ffcv" and not has_beton):
        raise DataError(
            f"{folder} holds no {'tars' if has_beton else 'beton'}, which data.format={storage} asks for;"
            " leave data.format out, or prepare the data again with `cait prep … --format both`"
        )
    return FfcvReader(folder) if storage == "ffcv" or not has_tars else WebDatasetReader(folder)


def _no_split(data_path: Path, split: str) -> str:
    if not data_path.is_dir():
        return f"{data_path}: no such folder; prepare the data with `cait prep SOURCE --out {data_path}`"
    there = sorted(entry.name for entry in data_path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return f"{data_path} has no split {split!r}; it has {', '.join(there) or 'none at all'}"
