"""Random access to the samples of WebDataset shards.

A tar stores its members as they are, one after the other. Whoever knows where they lie can read any of them with one
``pread`` and needs neither the tar format nor the other members; the manifest knows. So a stream of samples in any
order costs what the storage asks for it, and nothing is ever extracted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cait_dist.config.data import DataConfig, RemoteConfig
from cait_dist.config.section import is_url
from data_prep.beton import find_betons
from data_prep.manifest import MANIFEST_FILE

from .errors import CorruptShardError, DataError, ShardReadError
from .index_webdataset import find_tars
from .reader_ffcv import FfcvReader
from .remote import Stop
from .shard_files import LocalShards, ShardFiles, remote_shards


class WebDatasetReader:
    """The samples of one split. Picklable; may be used from several threads and after a fork.

    Args:
        split_dir: folder with shards and manifest, or with plain WebDataset tars, which are indexed once.
        shards: where they lie, if it is not a folder.

    Attributes:
        num_samples: number of samples; ids are below it.
        class_names: name of each label.
        labels: ``(num_samples,)`` int64.
        shard_sizes: samples per shard, in the order of ids.
        shards: their names, sizes and checksums, in the order of ids.
        digest: identity of the content; equal for equal samples in the same order.

    Raises:
        ManifestError: if the manifest is damaged or does not fit the shards.
        ShardIndexError: if tars without a manifest cannot be understood.
    """

    def __init__(self, split_dir: Path | str, shards: ShardFiles | None = None) -> None:
        self._files = shards or LocalShards(Path(split_dir))
        manifest = self._files.manifest
        self.class_names = manifest.class_names
        self.labels: npt.NDArray[np.int64] = manifest.samples["label"].astype(np.int64)
        self.shards = manifest.shards
        self.shard_sizes = tuple(shard.samples for shard in manifest.shards)
        self.digest = manifest.digest
        self._samples = manifest.samples

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
            raise IndexError(f"{self._files.place} has samples 0 to {self.num_samples - 1}, there is no {index}")
        shard, offset, size, _ = self._samples[index].item()
        try:
            encoded = self._files.read_at(shard, offset, size)
        except FileNotFoundError:
            raise self._corrupt(
                f"{self.locate(index)}: the file is gone; restore it, or run `cait verify {self._files.place}`"
            ) from None
        except OSError as error:
            raise ShardReadError(f"{self.locate(index)}: {error.strerror or error}; check the storage") from None
        if len(encoded) != size:
            raise self._corrupt(f"{self.locate(index)}: the file ends early; run `cait verify {self._files.place}`")
        return encoded

    @property
    def _corrupt(self) -> type[ShardReadError]:
        # What is fetched was checked when it came: whatever is wrong with it now is the cache's trouble, and passes.
        return CorruptShardError if self._files.fetch_ahead is None else ShardReadError

    def locate(self, index: int) -> str:
        """Where a sample lies, for messages."""
        shard, offset, size, _ = self._samples[index].item()
        return f"sample {index} ({self._files.place}/{self.shards[shard].name}, offset {offset}, {size} bytes)"

    def source_name(self, index: int) -> str:
        """The name under which a sample was found when the data were prepared. Reads the whole list of names."""
        return self.source_names()[index]

    def source_names(self) -> list[str]:
        """Of all samples."""
        names = self._files.source_names()
        if len(names) != self.num_samples:
            raise DataError(
                f"{self._files.place}: has {len(names):,} names for {self.num_samples:,} samples; run `cait verify`"
            )
        return names

    @property
    def fetch_ahead(self) -> Callable[[int, Stop], bool] | None:
        """Sees to it that a shard will be at hand (see `ShardFiles`); None if all of them are, always."""
        return self._files.fetch_ahead

    def close(self) -> None:
        """Close the open files; they are opened again when needed."""
        self._files.close()


def open_split(
    data_path: Path | str,
    split: str,
    storage: Literal["auto", "webdataset", "ffcv"] = "auto",
    remote: RemoteConfig | None = None,
    check_shards: bool = True,
) -> WebDatasetReader | FfcvReader:
    """Open one split of a data set.

    Args:
        data_path: folder that holds the splits' folders, or its URL.
        split: which.
        storage: the format to read; ``auto`` takes tars if there are any, else a beton.
        remote: how to read what lies beyond a URL.
        check_shards: refuse tars that are missing or have another size than their manifest states.

    Raises:
        DataError: if there is no such split or it holds no shards this program reads, saying what there is.
    """
    if is_url(data_path):
        return _open_remote(f"{data_path}/{split}", storage, remote or RemoteConfig())
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
    if storage == "ffcv" or not has_tars:
        return FfcvReader(folder)
    return WebDatasetReader(folder, LocalShards(folder, check_shards=check_shards))


def open_train_split(data: DataConfig) -> WebDatasetReader | FfcvReader:
    """Open the split to train on; where corrupt samples are skipped, shards that are damaged are no obstacle.

    Raises:
        DataError: see `open_split`.
    """
    return open_split(data.path, data.train_split, data.format, data.remote, data.on_corrupt == "stop")


def _open_remote(url: str, storage: str, remote: RemoteConfig) -> WebDatasetReader:
    if storage == "ffcv":
        raise DataError(f"{url}: betons are read from disks only; leave data.format out to read the tars")
    return WebDatasetReader(url, remote_shards(url, remote))


def _no_split(data_path: Path, split: str) -> str:
    if not data_path.is_dir():
        return f"{data_path}: no such folder; prepare the data with `cait prep SOURCE --out {data_path}`"
    there = sorted(entry.name for entry in data_path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return f"{data_path} has no split {split!r}; it has {', '.join(there) or 'none at all'}"
