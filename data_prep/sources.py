"""Where images come from: a folder of images, or scikit-learn's digits.

A *source* has splits (train, val, …); a split is an ordered list of names with labels, and the source turns a name
into the bytes of an image file. The list alone decides what is written where, so it must come out the same on every
machine: names are sorted, and whatever is drawn is drawn from a frozen generator with a seed.
"""

from __future__ import annotations

from pathlib import Path

from .digits import DigitsSource
from .folder import FolderSource
from .split import Source, Split

__all__ = ["DigitsSource", "FolderSource", "Source", "Split", "open_source"]


def open_source(
    what: str | Path, *, image_size: int = 32, val_share: float = 0.0, seed: int = 0
) -> DigitsSource | FolderSource:
    """The source that a user means.

    Args:
        what: the word ``digits``, or a folder.
        image_size: for digits: side of the written images in pixels.
        val_share: for folders: share of train to set aside as val.
        seed: chooses what is set aside.

    Raises:
        DataPrepError: see `DigitsSource` and `FolderSource`.
    """
    if str(what) == "digits":
        return DigitsSource(image_size=image_size, seed=seed)
    return FolderSource(Path(what), val_share=val_share, seed=seed)
