"""Exponential moving average of the weights, partitioned as the optimizer state is.

Each rank averages the master weights it holds: no communication per step, and the memory shrinks with the world size.
To evaluate the average, every rank exchanges it with its master weights and the model is refreshed from them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .zero_partition import ZeroPartition


class MovingAverage:
    """``average = decay * average + (1 - decay) * weights`` after every step."""

    def __init__(self, partition: ZeroPartition, decay: float) -> None:
        self._partition = partition
        self._decay = decay
        self.flats = [flat.clone() for flat in partition.masters()]
        """the average, laid out like the master weights"""

    @torch.no_grad()
    def update(self) -> None:
        """Take the current master weights in."""
        torch._foreach_lerp_(self.flats, self._partition.masters(), 1 - self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the model computes with the average. Collective on entry and exit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        self._partition.forget_gathered()
        for mine, theirs in zip(self.flats, self._partition.masters(), strict=True):
            kept = theirs.clone()
            theirs.copy_(mine)
            mine.copy_(kept)
        self._partition.publish()
