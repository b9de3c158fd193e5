"""Batches on their way to the GPU, beside its work.

A copy from page-locked memory needs neither the host nor the processors of the GPU. In a stream of its own it does not
queue behind the step that is being computed, either: the host runs ahead, so a batch is there before its turn comes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class BatchCopies:
    """Brings tensors of the host to a device.

    Args:
        device: where to. On others than GPUs the tensors are taken as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def bring(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copy; what is queued on the device from here on sees them whole, and the host does not wait.

        Args:
            tensors: in page-locked memory, as loaders hand them out; from other memory the host waits for the copy.
        """
        if self._stream is None:
            return [tensor.to(self._device) for tensor in tensors]
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            copies = [tensor.to(self._device, non_blocking=True) for tensor in tensors]
        computing.wait_stream(self._stream)
        for copy in copies:
            copy.record_stream(computing)  # else its memory could be given away while a step still reads it
        return copies
