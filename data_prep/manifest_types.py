"""What a manifest says, as Python objects; see `manifest` for what it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import DataPrepError

FORMAT_VERSION = 1

SAMPLE_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("label", "<i4")])
Samples = npt.NDArray[np.void]


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
        changes: images whose bytes are not the original's, as pairs (source name, what was done).
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
