"""The sample order: which sample stands at which place of the training stream.

Training reads one endless stream of positions 0, 1, 2, …. This file answers, for any position, which sample stands
there, and it answers by arithmetic: there is no list that is shuffled, no iterator that is advanced, nothing to save.
Hence

* step s of a run with global batch B uses positions ``[s*B, (s+1)*B)`` on one rank or on a thousand; each rank takes
  its contiguous part of them (`rank_positions`);
* resuming at step s, on another number of ranks if need be, is asking for other positions;
* each *pass* of ``n * repeats`` positions holds every sample exactly ``repeats`` times.

A shuffle that can be evaluated at one place without computing the others is a *Feistel network*, the construction
behind block ciphers: cut the bits of an index into two halves, and repeatedly xor one half with a keyed hash of the
other. Each round can be undone, so the whole is a permutation of ``[0, 2**bits)``; indices that land outside
``[0, n)`` are sent through again until they come back inside (*cycle walking*; fewer than two rounds trips on average).

Two modes. ``full``: any sample may follow any other; for storage with cheap random access (RAM, local disk).
``block``: shards are shuffled, then samples within a window of a few shards, so that reads stay within few files at a
time; for parallel file systems and networks.

Repeats (repeated augmentation: several differently cropped copies of a sample in one batch) are laid out in windows
of 64 samples: the window, then the window again. Each copy of the window is shuffled anew within its two halves:
so copies get different neighbours (mixup blends neighbours), yet a sample never neighbours its own copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .randomness import U64, Stream, hash64, key64, mix64

Ids: TypeAlias = npt.NDArray[np.int64]

REPEAT_WINDOW = 64
_ROUNDS = 8
# Long requests are worked off in pieces that stay in the processor's cache; it bounds memory, too.
_CHUNK = 1 << 15


def permute(indices: Ids, sizes: Ids | int, keys: U64 | int) -> Ids:
    """Send each index to its place in a keyed shuffle of ``[0, size)``.

    Args:
        indices: ``(m,)``, each in ``[0, size)``.
        sizes: length of the shuffled list, one for all or ``(m,)``.
        keys: chooses the shuffle, one for all or ``(m,)``.

    Returns:
        ``(m,)``. For fixed size and key, a one-to-one map of ``[0, size)`` onto itself.
    """
    size = np.broadcast_to(np.asarray(sizes, dtype=np.uint64), indices.shape)
    key = np.broadcast_to(np.asarray(keys, dtype=np.uint64), indices.shape)
    # At least two bits, so that both halves exist; the loop below makes the surplus harmless.
    bits = np.maximum(np.frexp((size - np.minimum(size, 1)).astype(np.float64))[1], 2).astype(np.uint64)
    out = _feistel(indices.astype(np.uint64), bits, key)
    outside = np.flatnonzero(out >= size)
    while outside.size:
        again = _feistel(out[outside], bits[outside], key[outside])
        out[outside] = again
        outside = outside[again >= size[outside]]
    return out.astype(np.int64)


def _feistel(x: U64, bits: U64, key: U64) -> U64:
    """A permutation of ``[0, 2**bits)``, element by element; the even number of rounds restores the halves' widths."""
    one = np.uint64(1)
    right_bits = bits >> one
    left_bits = bits - right_bits
    left_mask, right_mask = (one << left_bits) - one, (one << right_bits) - one
    left, right = x >> right_bits, x & right_mask
    for number in range(_ROUNDS):
        mask = left_mask if number % 2 == 0 else right_mask
        left, right = (
            right,
            left ^ (mix64(key + (right + np.uint64(number << 48)) * np.uint64(0x9E3779B97F4A7C15)) & mask),
        )
    return (left << right_bits) | right


class _Blocks(NamedTuple):
    """One pass of the block mode: shards in shuffled order, cut into windows."""

    window_starts: Ids  # (windows + 1,): places in the pass
    shard_starts: Ids  # (shards + 1,): places in the pass, shards in shuffled order
    first_ids: Ids  # (shards,): id of each of those shards' first sample
    shards: Ids  # (shards,): their numbers


class SampleOrder:
    """The order of all passes over one data set: a pure function from position to sample id.

    Args:
        num_samples: size of the data set, n.
        seed: chooses the order.
        mode: ``full`` or ``block`` (see the module's text).
        repeats: copies of each sample in a pass.
        shard_sizes: samples per shard, in the order of ids; needed for ``block``.
        block_shards: shards per window of ``block``.

    Raises:
        DataError: for sizes that make no sense, or ``block`` without shard sizes.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        mode: Literal["full", "block"] = "full",
        repeats: int = 1,
        shard_sizes: Sequence[int] | None = None,
        block_shards: int = 8,
    ) -> None:
        if num_samples < 1 or repeats < 1 or block_shards < 1:
            raise DataError(
                "num_samples, repeats and block_shards must be at least 1, "
                f"got {num_samples}, {repeats}, {block_shards}"
            )
        if mode not in ("full", "block"):
            raise DataError(f"order must be 'full' or 'block', got {mode!r}")
        if mode == "block":
            if shard_sizes is None:
                raise DataError("order 'block' shuffles shard by shard and needs the shards' sizes; use 'full' instead")
            if sum(shard_sizes) != num_samples or min(shard_sizes) < 1:
                raise DataError(
                    f"shard sizes must be positive and add up to {num_samples}, they give {sum(shard_sizes)}"
                )
        self.num_samples = num_samples
        self.seed = seed
        self.mode = mode
        self.repeats = repeats
        self.block_shards = block_shards
        self._shard_sizes = np.asarray(shard_sizes if mode == "block" else (), dtype=np.int64)
        self._blocks = lru_cache(maxsize=4)(self._cut_blocks)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_blocks"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._blocks = lru_cache(maxsize=4)(self._cut_blocks)

    @property
    def pass_length(self) -> int:
        """Positions after which every sample has been seen ``repeats`` times."""
        return self.num_samples * self.repeats

    def ids(self, positions: npt.ArrayLike) -> Ids:
        """Sample ids at the given positions of the stream.

        Args:
            positions: ``(m,)``, not negative, in any order, across any passes. Time and memory are O(m).

        Returns:
            ``(m,)``, each in ``[0, num_samples)``.

        Raises:
            DataError: for a negative position.
        """
        places = np.asarray(positions, dtype=np.int64)
        if places.size and places.min() < 0:
            raise DataError(f"positions of the training stream start at 0, got {places.min()}")
        out = np.empty(places.shape, dtype=np.int64)
        for start in range(0, places.size, _CHUNK):
            piece = slice(start, start + _CHUNK)
            passes, rest = np.divmod(places[piece], self.pass_length)
            for number in np.unique(passes):
                chosen = passes == number
                out[piece][chosen] = self._ids_of_pass(int(number), rest[chosen])
        return out

    def shards_from(self, position: int, windows: int = 2) -> list[int]:
        """The shards that the stream reads in the window of a position and in those that follow, in mode ``block``."""
        number, rest = divmod(position, self.pass_length)
        window = int(np.searchsorted(self._blocks(number).window_starts, rest // self.repeats, side="right")) - 1
        found: list[int] = []
        for _ in range(windows):
            shards = self._blocks(number).shards
            found += shards[window * self.block_shards :][: self.block_shards].tolist()
            window += 1
            if window * self.block_shards >= len(shards):
                number, window = number + 1, 0
        return list(dict.fromkeys(found))

    def _ids_of_pass(self, number: int, rest: Ids) -> Ids:
        """Ids at places ``rest`` in ``[0, pass_length)`` of one pass."""
        key = key64(self.seed, Stream.ORDER, number)
        places = self._undo_repeats(key, rest)
        if self.mode == "full":
            return permute(places, self.num_samples, key)
        return self._block_ids(key, self._blocks(number), places)

    def _undo_repeats(self, key: int, rest: Ids) -> Ids:
        """From a place among ``n * repeats`` to a place among the n distinct samples."""
        if self.repeats == 1:
            return rest
        # What is left over at the end joins the last window: a window of its own could be so small that copies touch.
        last = max(self.num_samples // REPEAT_WINDOW - 1, 0)
        window = np.minimum(rest // (REPEAT_WINDOW * self.repeats), last)
        start = window * REPEAT_WINDOW
        size = np.where(window == last, self.num_samples - last * REPEAT_WINDOW, REPEAT_WINDOW)
        copy, slot = np.divmod(rest - start * self.repeats, size)
        # Shuffling the halves apart keeps the last sample of one copy from being the first of the next.
        half = size - size // 2
        second = slot >= half
        low = np.where(second, half, 0)
        keys = hash64(key, ((window * self.repeats + copy) * 2 + second) ^ (1 << 62))
        return start + low + permute(slot - low, np.where(second, size - half, half), keys)

    def _cut_blocks(self, number: int) -> _Blocks:
        """Shuffle the shards of one pass and cut them into windows."""
        shards = np.arange(len(self._shard_sizes))
        shuffled = np.argsort(hash64(key64(self.seed, Stream.ORDER, number, 1), shards), kind="stable")
        starts = np.concatenate(([0], np.cumsum(self._shard_sizes[shuffled])))
        cuts = np.append(starts[:-1][:: self.block_shards], starts[-1])
        firsts = np.cumsum(self._shard_sizes) - self._shard_sizes
        return _Blocks(window_starts=cuts, shard_starts=starts, first_ids=firsts[shuffled], shards=shuffled)

    @staticmethod
    def _block_ids(key: int, blocks: _Blocks, places: Ids) -> Ids:
        """Shuffle places within their window, then translate them into ids."""
        window = np.searchsorted(blocks.window_starts, places, side="right") - 1
        start = blocks.window_starts[window]
        shuffled = start + permute(places - start, blocks.window_starts[window + 1] - start, hash64(key, window))
        shard = np.searchsorted(blocks.shard_starts, shuffled, side="right") - 1
        return blocks.first_ids[shard] + shuffled - blocks.shard_starts[shard]


def rank_positions(step: int, global_batch: int, rank: int, world_size: int) -> range:
    """The positions that one rank uses in one step: its contiguous part of the global batch.

    Raises:
        DataError: if the batch cannot be shared evenly, naming batches that can.
    """
    share, left_over = divmod(global_batch, world_size)
    if left_over or not share:
        near = ", ".join(str(n * world_size) for n in (share, share + 1) if n)
        raise DataError(f"a global batch of {global_batch} cannot be shared by {world_size} ranks; {near} can")
    if not 0 <= rank < world_size:
        raise DataError(f"rank must lie in [0, {world_size}), got {rank}")
    start = step * global_batch + rank * share
    return range(start, start + share)


def eval_slice(num_samples: int, rank: int, world_size: int) -> range:
    """One rank's part of an evaluation set: together the ranks see every sample exactly once, none is padded."""
    return range(num_samples * rank // world_size, num_samples * (rank + 1) // world_size)
