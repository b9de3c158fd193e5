"""What data preparation asks of a place that images come from."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Split:
    """One split of a source: what it holds, in a fixed order, but no image yet.

    Attributes:
        class_names: name of each label.
        names: one per image, unique; the source's `read` understands them.
        labels: ``(len(names),)`` int64, each in ``[0, len(class_names))``.
    """

    class_names: tuple[str, ...]
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def subset(self, rows: npt.NDArray[np.int64]) -> Split:
        """The same classes with only the given rows, in the given order."""
        return Split(self.class_names, tuple(self.names[row] for row in rows), self.labels[rows])


class Source(Protocol):
    """What data preparation asks of a place that images come from. Sources must be picklable."""

    @property
    def kind(self) -> str:
        """Short name of the sort of source and what was chosen about it; part of the plan's identity."""

    @property
    def place(self) -> str:
        """Where it is, for people."""

    @property
    def remarks(self) -> Sequence[str]:
        """What the user should be told about how the source was understood."""

    @property
    def splits(self) -> Mapping[str, Split]:
        """The splits by name."""

    def read(self, name: str) -> bytes:
        """The encoded image of that name.

        Raises:
            OSError: if it cannot be read.
        """


def stratified_share(labels: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose about ``share`` of every class, at least one of a class with two or more, never all of it.

    Args:
        labels: ``(n,)``.
        share: between 0 and 1.
        seed: chooses which.

    Returns:
        ``(n,)`` mask of the chosen.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    # RandomState, not default_rng: NumPy promises that its stream never changes between versions.
    generator = np.random.RandomState([seed & 0xFFFFFFFF, zlib.crc32(b"val-share")])
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        chosen[generator.permutation(rows)[:count]] = True
    return chosen
