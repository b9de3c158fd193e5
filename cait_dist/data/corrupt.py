"""What stands in for a sample that is corrupt.

Whether a sample is corrupt is a property of its file, and who stands in is looked up from the seed and the position
in the training stream. So the same sample stands there on any number of ranks and workers, and after a resume. Label,
mixture and teacher follow it; crop and flip belong to the position.

Only what is wrong with the files counts: an image that cannot be decoded, a shard that ends early or is gone. A server
or a disk that does not answer is an error, as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import CorruptImageError, CorruptShardError, DataError
from .randomness import Stream, key64

CORRUPTIONS = (CorruptImageError, CorruptShardError)
MOST_STAND_INS = 32
"""that may be corrupt themselves: not chance any more, but data that are gone"""


@dataclass(frozen=True)
class CorruptSample:
    """A sample that was met and left out.

    Attributes:
        position: in the training stream.
        sample: its id.
        reason: what is wrong with it, and where it lies.
    """

    position: int
    sample: int
    reason: str


def stand_in(seed: int, position: int, trial: int, num_samples: int) -> int:
    """The sample that takes a corrupt one's position; ``trial`` counts those that were corrupt themselves."""
    return key64(seed, Stream.STAND_IN, position, trial) % num_samples


def take_sound(
    ids: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    seed: int,
    num_samples: int,
    take: Callable[[int, int], None],
) -> tuple[CorruptSample, ...]:
    """Take every row's sample, or the one that stands in for it.

    Args:
        ids: ``(b,)`` sample ids; those of corrupt samples are replaced.
        positions: ``(b,)`` of them.
        seed: of the run.
        num_samples: ids are below it.
        take: reads a row's sample; raises one of `CORRUPTIONS` if that is corrupt.

    Returns:
        What was corrupt.

    Raises:
        DataError: if too many that could stand in are corrupt, too.
    """
    found: list[CorruptSample] = []
    for row, position in enumerate(positions.tolist()):
        for trial in range(MOST_STAND_INS + 1):
            try:
                take(row, int(ids[row]))
                break
            except CORRUPTIONS as error:
                found.append(CorruptSample(position, int(ids[row]), str(error)))
                ids[row] = stand_in(seed, position, trial, num_samples)
        else:
            raise DataError(
                f"{found[-1].reason} — the {MOST_STAND_INS + 1}th corrupt sample in a row: the data are damaged or gone"
            )
    return tuple(found)
