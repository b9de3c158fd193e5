"""Random access to the samples of an FFCV beton, without FFCV.

A beton says where each image lies, so an image costs one ``pread``, as it does in a tar; what comes out is the JPEG
itself, or pixels where the beton stores pixels. Everything after that — order, decoding, crop, flip — is the same code
for both formats, so a run may change from one to the other in the middle and compute the same.

FFCV's own threads and decoder are another choice: see `loader_ffcv`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.beton import RAW, Table, find_betons, read_table
from data_prep.beton_record import read_beton_record, record_of
from data_prep.manifest import read_source_names

from .decode import Pixels
from .errors import CorruptShardError, DataError, ShardReadError

# Betons by others say nothing of shards; the block order then shuffles as many samples together as a tar would hold.
_SAMPLES_PER_BLOCK = 1000


class FfcvReader:
    """The samples of one split's beton. Picklable; may be used from several threads and after a fork.

    Args:
        split_dir: folder with one ``*.beton``, written by ``cait prep`` or by FFCV.

    Attributes:
        beton: the file.
        table: ``(num_samples,)`` structured array of `data_prep.beton.TABLE`.
        class_names: name of each label.
        labels: ``(num_samples,)`` int64.
        shard_sizes: samples per shard of the tars that it was made from, in the order of ids.
        digest: identity of the content; equal to that of those tars.

    Raises:
        DataError: if there is no beton, or several.
        BetonError: if it is damaged.
        ManifestError: if its record is damaged or does not fit it.
    """

    def __init__(self, split_dir: Path | str) -> None:
        self.split_dir = Path(split_dir)
        self.beton = _only_beton(self.split_dir)
        self.table: Table = read_table(self.beton)
        self.labels: npt.NDArray[np.int64] = self.table["label"].astype(np.int64)
        if record_of(self.beton).exists():
            self._trust_record()
        else:
            self._do_without_record()
        self._handle, self._pid = -1, -1

    def _trust_record(self) -> None:
        record = read_beton_record(self.beton)
        found = self.beton.stat().st_size
        if (record.bytes, record.samples) != (found, len(self.table)) or self.labels.max() >= len(record.class_names):
            raise DataError(f"{self.beton} is not the file that its record {record_of(self.beton).name} describes")
        self.class_names, self.shard_sizes, self.digest = record.class_names, record.shard_sizes, record.content

    def _do_without_record(self) -> None:
        status = self.beton.stat()
        self.class_names = tuple(str(label) for label in range(int(self.labels.max()) + 1))
        full, rest = divmod(len(self.table), _SAMPLES_PER_BLOCK)
        self.shard_sizes = (_SAMPLES_PER_BLOCK,) * full + ((rest,) if rest else ())
        self.digest = f"{self.beton.name} {status.st_size} {status.st_mtime_ns}"

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.table)

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are below it."""
        return len(self.class_names)

    def read(self, index: int) -> bytes | Pixels:
        """The image of one sample: a JPEG, or pixels ``(height, width, 3)`` where they are stored so.

        Raises:
            IndexError: if there is no such sample.
            ShardReadError: naming the place, if the bytes cannot be read.
        """
        if not 0 <= index < self.num_samples:
            raise IndexError(f"{self.beton} has samples 0 to {self.num_samples - 1}, there is no {index}")
        offset, size, mode, width, height, _ = self.table[index].item()
        content = np.empty(size, np.uint8)
        try:
            found = os.preadv(self._open(), [content.data], offset)
        except OSError as error:
            raise ShardReadError(f"{self.locate(index)}: {error.strerror or error}; check the storage") from None
        if found != size:
            raise CorruptShardError(f"{self.locate(index)}: the file ends early; run `cait verify {self.split_dir}`")
        return content.reshape(height, width, 3) if mode == RAW else content.tobytes()

    def locate(self, index: int) -> str:
        """Where a sample lies, for messages."""
        offset, size, *_ = self.table[index].item()
        return f"sample {index} ({self.beton}, offset {offset}, {size} bytes)"

    def source_name(self, index: int) -> str:
        """The name under which a sample was found when the data were prepared. Reads the whole list of names."""
        return self.source_names()[index]

    def source_names(self) -> list[str]:
        """Of all samples."""
        names = read_source_names(self.split_dir)
        if len(names) != self.num_samples:
            raise DataError(f"{self.split_dir}: has {len(names):,} names for {self.num_samples:,} samples")
        return names

    def _open(self) -> int:
        # Two threads may both open it, and one descriptor is left for the end of the process to close: no harm done.
        if self._pid != os.getpid():
            self._handle, self._pid = os.open(self.beton, os.O_RDONLY | os.O_CLOEXEC), os.getpid()
        return self._handle

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        if self._pid == os.getpid():
            os.close(self._handle)
            self._handle, self._pid = -1, -1

    def __del__(self) -> None:
        if hasattr(self, "_pid"):
            self.close()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handle": -1, "_pid": -1}


def _only_beton(folder: Path) -> Path:
    found = find_betons(folder)
    if len(found) != 1:
        raise DataError(f"{folder} must hold one .beton file, it holds {len(found)}; prepare it with `cait prep`")
    return found[0]
