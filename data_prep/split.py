"""What data preparation asks of a place that images come from."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .errors import DataPrepError


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

    def only(self, names: Sequence[str]) -> Source:
        """A source that can read these names and need know no others, nor any splits.

        It is what travels to a worker with each shard, so it must be small to pickle: a million names need not go
        along each time.
        """


@runtime_checkable
class NeedsScratch(Protocol):
    """A source that must keep something on disk while images are prepared."""

    def keeping_in(self, scratch: Path) -> Source:
        """The source with a folder of its own, which need not exist and is removed when preparation is finished."""


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


def set_aside_val(
    splits: Mapping[str, Split], share: float, seed: int, place: object
) -> tuple[dict[str, Split], list[str]]:
    """Move a share of every class of ``train`` to a new split ``val``.

    Args:
        splits: of a source.
        share: at least 0 and below 1; with 0 nothing is moved.
        seed: chooses which images.
        place: the source, for messages.

    Returns:
        The new splits, and what there is to remark.

    Raises:
        DataPrepError: if there is no train, or a val already, or the share makes no sense.
    """
    if not 0 <= share < 1:
        raise DataPrepError(f"the share set aside for val must be at least 0 and below 1, got {share}")
    if not share:
        return dict(splits), []
    if "train" not in splits:
        raise DataPrepError(f"{place} has no train split of which a share could be set aside as val")
    if "val" in splits:
        raise DataPrepError(f"{place} has a val split; a share of train cannot be set aside as val as well")
    train = splits["train"]
    is_val = stratified_share(train.labels, share, seed)
    moved = {"train": train.subset(np.flatnonzero(~is_val)), "val": train.subset(np.flatnonzero(is_val))}
    remark = f"{is_val.sum():,} of {len(is_val):,} training images are set aside as val (seed {seed})"
    return {**moved, **{name: split for name, split in splits.items() if name != "train"}}, [remark]


def share_in_words(share: float, seed: int) -> str:
    """How a share that is set aside stands in `Source.kind`."""
    return f", val share {share:g}, seed {seed}" if share else ""


def require_split_name(name: str) -> str:
    """A split's name becomes that of a folder and of files, so it must be a plain word.

    Raises:
        DataPrepError: if it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
        raise DataPrepError(f"{name!r} cannot name a split; use letters, digits, - and _, e.g. v2")
    return name
