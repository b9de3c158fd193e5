"""A copy of what a rank holds, in memory of the host, so that it can be written down while the original changes."""

import numpy as np
import numpy.typing as npt
import torch

from ..ema import MovingAverage
from ..zero_partition import ZeroPartition

Arrays = dict[str, npt.NDArray[np.float32]]


class HostCopy:
    """What a rank writes into a checkpoint, in memory that is allocated once.

    Args:
        partition: what this rank holds
        ema: the moving average, if one is kept
    """

    def __init__(self, partition: ZeroPartition, ema: MovingAverage | None) -> None:
        self._partition, self._ema = partition, ema
        count = sum(fragment.numel for fragment in partition.owned)
        on_gpu = bool(self._kinds()["master"]) and self._kinds()["master"][0].is_cuda
        self._buffers = {kind: torch.zeros(count, pin_memory=on_gpu) for kind in self._kinds()}

    @torch.no_grad()
    def take(self) -> Arrays:
        """Copy; the arrays change with the next call. Keys are KIND/PARAMETER@START."""
        arrays = {}
        for kind, flats in self._kinds().items():
            views = self._buffers[kind].split([fragment.numel for fragment in self._partition.owned])
            for fragment, view in zip(self._partition.owned, views, strict=True):
                view.copy_(fragment.of(flats), non_blocking=True)
                arrays[f"{kind}/{fragment.name}@{fragment.start}"] = view.numpy()
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        return arrays

    def _kinds(self) -> dict[str, list[torch.Tensor]]:
        kinds = {"master": self._partition.masters()}
        kinds |= {kind: self._partition.moments(kind) for kind in self._partition.moment_kinds}
        return kinds | ({"ema": self._ema.flats} if self._ema is not None else {})
