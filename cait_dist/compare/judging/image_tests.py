"""Do two trained networks differ? Tests over the images that both were asked.

This tells something about *these weights* only. Another seed makes other weights: whether a setting is better is for
`seed_tests` to tell.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000


@dataclass(frozen=True)
class Predictions:
    """What a network said about each image of a set.

    Attributes:
        samples: ids, ascending.
        right: whether the prediction was right, in the same order.
        step: of the network.
        digest: of the set.
    """

    samples: NDArray[np.generic]
    right: NDArray[np.bool_]
    step: int
    digest: str


@dataclass(frozen=True)
class ImageTest:
    """What the images say about two networks.

    Attributes:
        images: that both were asked.
        only_a: right in the first network and wrong in the second.
        only_b: the other way round.
        difference: of the accuracies, in points.
        low: end of the 95 % confidence interval, by a paired bootstrap over images.
        high: the other end.
        p: McNemar's exact test, two-sided.
        steps: of the two networks.
    """

    images: int
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p: float
    steps: tuple[int, int]


def compare_images(a: Path, b: Path) -> ImageTest | str:
    """Test two files of saved predictions.

    Args:
        a: file of the first network
        b: file of the second

    Returns:
        the test, or why there is none
    """
    read = [read_predictions(path) for path in (a, b)]
    first, second = read
    if isinstance(first, str) or isinstance(second, str):
        return "; ".join(reason for reason in read if isinstance(reason, str))
    if first.digest != second.digest:
        return "their predictions are of different images"
    if np.array_equal(first.samples, second.samples):
        right_a, right_b = first.right, second.right
    else:
        _, places_a, places_b = np.intersect1d(first.samples, second.samples, assume_unique=True, return_indices=True)
        right_a, right_b = first.right[places_a], second.right[places_b]
    if not len(right_a):
        return "their predictions have no image in common"
    return _test(right_a, right_b, (first.step, second.step))


def read_predictions(path: Path) -> Predictions | str:
    """A file of predictions, or why it is of no use."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        return f"{path} cannot be read ({type(error).__name__})"


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int) -> Predictions:
    with np.load(path, allow_pickle=False) as file:
        samples, first = np.unique(file["sample"], return_index=True)
        right = (file["label"] == file["predicted"])[first]
        return Predictions(samples, right, int(file["step"]), str(file["digest"]))


def mcnemar(only_a: int, only_b: int) -> float:
    """The chance of so uneven a split of the images on which two equally good networks disagree."""
    from scipy.special import bdtr  # noqa: PLC0415 - takes a third of a second to load

    disagree = only_a + only_b
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), disagree, 0.5))) if disagree else 1.0


def bootstrap(only_a: int, only_b: int, images: int, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the difference of accuracies, in points.

    A resample of images is, as far as the difference goes, three counts: drawing those directly is the same as drawing
    the images, and a thousand times as fast.
    """
    shares = np.array([only_a, only_b, images - only_a - only_b]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=RESAMPLES)
    low, high = np.percentile(100 * (drawn[:, 0] - drawn[:, 1]) / images, [2.5, 97.5])
    return float(low), float(high)


def _test(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], steps: tuple[int, int]) -> ImageTest:
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    images = len(right_a)
    low, high = bootstrap(only_a, only_b, images)
    difference = 100 * (only_a - only_b) / images
    return ImageTest(images, only_a, only_b, difference, low, high, mcnemar(only_a, only_b), steps)
