"""The data set that needs no download."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import DataPrepError
from .split import Split, stratified_share

DIGITS_VAL_SHARE = 0.2


@dataclass(frozen=True)
class DigitsSource:
    """scikit-learn's ``digits``: 1,797 real handwritten digits of 8×8 pixels, shipped with that package.

    They are enlarged (bicubic) and split 80/20 by class. No two of the 1,797 images are equal, which the constructor
    of the split checks: an image on both sides would make the accuracy a lie.

    Args:
        image_size: side of the written images in pixels.
        seed: chooses the split.
    """

    image_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not 8 <= self.image_size <= 1024:
            raise DataPrepError(f"digits have 8×8 pixels; choose an image size from 8 to 1024, not {self.image_size}")

    @property
    def kind(self) -> str:
        """Name and choices."""
        return f"digits, {self.image_size} px, split seed {self.seed}"

    @property
    def place(self) -> str:
        """The package they come with."""
        return "sklearn.datasets.load_digits"

    @property
    def remarks(self) -> Sequence[str]:
        """Nothing to remark."""
        return ()

    @cached_property
    def _images(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """All images ``(1797, 8, 8)`` as grey values 0 … 255, and their labels."""
        from sklearn.datasets import load_digits  # noqa: PLC0415 - takes seconds to import

        bunch = load_digits()
        return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)

    @cached_property
    def splits(self) -> Mapping[str, Split]:
        """``train`` and ``val``; equal images would all go to train."""
        images, labels = self._images
        is_val = stratified_share(labels, DIGITS_VAL_SHARE, self.seed)
        _, group = np.unique(images.reshape(len(images), -1), axis=0, return_inverse=True)
        is_val &= np.bincount(group.reshape(-1))[group.reshape(-1)] == 1
        whole = Split(
            tuple(str(digit) for digit in range(10)), tuple(f"digits/{i:04d}" for i in range(len(labels))), labels
        )
        return {"train": whole.subset(np.flatnonzero(~is_val)), "val": whole.subset(np.flatnonzero(is_val))}

    def read(self, name: str) -> bytes:
        """The digit of that name, enlarged, as a JPEG."""
        digit = Image.fromarray(self._images[0][int(name.rpartition("/")[2])])
        big = digit.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC).convert("RGB")
        buffer = io.BytesIO()
        big.save(buffer, "JPEG", quality=95)
        return buffer.getvalue()

    def only(self, names: Sequence[str]) -> DigitsSource:
        """This source, which is small."""
        return self

    def __getstate__(self) -> dict[str, object]:
        # The cached images are cheap to load again, and would otherwise travel with every shard to build.
        return {"image_size": self.image_size, "seed": self.seed}
