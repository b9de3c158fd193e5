"""From bytes to the numbers a network expects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Scale pixels to [0, 1], subtract a mean and divide by a standard deviation per channel.

    A module, so that its constants move to the device once instead of with every batch.

    Args:
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        wide_mean, wide_std = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * wide_std)).float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-wide_mean / wide_std).float().view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise a batch.

        Args:
            images: ``(b, 3, H, W)`` uint8.

        Returns:
            The same shape, float32.
        """
        return torch.addcmul(self.shift, images.float(), self.scale)
