"""Dropout on attention maps that nobody keeps: what falls out is drawn again, the same, in the backward pass.

It follows from a seed of the call, the number of the sample and the first of its rows. So the two passes may cut a
batch differently into blocks of samples; rows they have to cut alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MapDropout:
    """Zeroes entries of maps with probability ``p``, and scales the others by 1 / (1 − p)."""

    p: float
    seed: int

    def drop_(self, maps: Tensor, samples: slice, rows: slice) -> None:
        """Acts on a block in place: on maps, or on gradients by what has come of them here.

        Args:
            maps: (b, H, m, N), in any layout.
            samples: Which of the batch these are.
            rows: Which query rows.
        """
        tokens = maps.shape[-1]
        generator = torch.Generator(maps.device)
        for sample, block in zip(range(samples.start, samples.stop), maps, strict=True):
            generator.manual_seed(self.seed + sample * tokens + rows.start)
            factors = torch.empty(block.shape, dtype=maps.dtype, device=maps.device)
            block.mul_(factors.bernoulli_(1 - self.p, generator=generator).div_(1 - self.p))


def draw_seed() -> Tensor:
    """A seed from torch's global random numbers: an int64 scalar on the CPU, wherever the maps are."""
    return torch.randint(2**62, (), device="cpu")
