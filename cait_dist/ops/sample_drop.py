"""Stochastic depth: for each sample, a coin decides whether a residual branch takes part in this training step.

A kept branch is divided by its probability of being kept, so that the expected output equals that of evaluation, where
nothing is dropped. CaiT uses one constant rate for all blocks ("Going deeper with Image Transformers", arXiv
2103.17239; the authors say why in facebookresearch/deit issue 184: as good as a rate that grows with depth, and
simpler).

Tossing the coins is all that happens here; :mod:`cait_dist.models.residual` acts on them. Nor need they be tossed here:
a mask that the caller derives from (seed, epoch, position of the sample) is the same on 1 or 1,000 ranks, and the same
when a checkpointed block is computed again in the backward pass. :func:`draw_keep_mask` is for callers that have no
such wish.
"""

import torch
from torch import Tensor


def draw_keep_mask(
    batch: int,
    depth: int,
    rate: float,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tosses one independent coin per sample, block and branch.

    Args:
        batch: Number of samples B.
        depth: Number of self-attention blocks.
        rate: Probability of dropping a branch, in [0, 1).
        generator: Source of randomness; torch's global one for the CPU if not given.

    Returns:
        (B, depth, 2) bool on the CPU, where it can be looked at without waiting for a GPU; the last axis is (attention
        branch, feed-forward branch).

    Raises:
        ValueError: If ``rate`` is not in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"the stochastic-depth rate must be in [0, 1), got {rate}; 0 switches it off")
    return torch.rand(batch, depth, 2, device="cpu", generator=generator) >= rate
