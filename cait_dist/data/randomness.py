"""Random numbers without a state: a number is a pure function of what it is for.

An ordinary generator hands out numbers in the order in which they are asked for, so its results depend on who asked
before: on the number of workers, on the rank, on where a run was resumed. Here a number is looked up instead. The
place in the table is ``(seed, stream, position, draw)``: the run's seed, what the number decides (a crop, a flip, …),
which sample of the training stream it is for, and the how-manieth number of that sample. Whoever looks, whenever,
finds the same number; a resumed run needs no saved generator.

The table is never stored: each entry is computed by hashing its place. The hash is the finaliser of splitmix64
(Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014; constants of Stafford's variant 13),
chained over the words. It uses only 64-bit integer arithmetic, so values are the same on every machine and with every
version of NumPy.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

U64: TypeAlias = npt.NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLY_1 = 0xBF58476D1CE4E5B9
_MULTIPLY_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


class Stream(IntEnum):
    """What a random number decides; numbers of two streams have nothing to do with each other.

    The values are part of the contract: changing one changes every run that uses it.
    """

    ORDER = 1
    CROP = 2
    FLIP = 3
    MIX = 4
    DROP_PATH = 5
    DROPOUT = 6
    RAND_AUGMENT = 7
    ERASING = 8
    COLOR_JITTER = 9
    STAND_IN = 10


def mix64(words: U64) -> U64:
    """Scramble 64-bit words in place, one to one: every input bit flips half of the output bits on average.

    Args:
        words: any shape; overwritten with the result.

    Returns:
        The same array.
    """
    words ^= words >> np.uint64(30)
    words *= np.uint64(_MULTIPLY_1)
    words ^= words >> np.uint64(27)
    words *= np.uint64(_MULTIPLY_2)
    words ^= words >> np.uint64(31)
    return words


def key64(*words: int) -> int:
    """Hash a few integers (any sign, taken modulo 2**64) into one 64-bit key; the order matters."""
    key = 0
    for word in words:
        key = (key ^ (word & _MASK)) + _GOLDEN & _MASK
        key = (key ^ key >> 30) * _MULTIPLY_1 & _MASK
        key = (key ^ key >> 27) * _MULTIPLY_2 & _MASK
        key ^= key >> 31
    return key


def hash64(key: int, words: npt.NDArray[np.integer]) -> U64:
    """Hash each word under a key: ``key64`` continued by one more word, for a whole array at once.

    Args:
        key: from `key64`.
        words: integers of any shape.

    Returns:
        A new array of the same shape.
    """
    return mix64((words.astype(np.uint64) ^ np.uint64(key)) + np.uint64(_GOLDEN))


def uniform(seed: int, stream: int, positions: npt.NDArray[np.integer], draws: int) -> npt.NDArray[np.float64]:
    """Look up random numbers, evenly distributed over [0, 1).

    Args:
        seed: the run's seed.
        stream: what the numbers are for, a `Stream`.
        positions: one-dimensional, ``(n,)``; places in the training stream (or any other index).
        draws: numbers per position.

    Returns:
        ``(n, draws)``. Column j does not depend on ``draws``: asking for more numbers only adds columns.
    """
    rows = hash64(key64(seed, int(stream)), np.asarray(positions))
    columns = mix64(np.arange(1, draws + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    bits = mix64((rows[:, None] ^ columns[None, :]) + np.uint64(_GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
