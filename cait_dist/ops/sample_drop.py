"""Stochastic depth: for each sample, a coin decides whether a residual branch takes part in this training step.

A kept branch is divided by its probability of being kept, so that the expected output equals that of evaluation, where
nothing is dropped. CaiT uses one constant rate for all blocks ("Going deeper with Image Transformers", arXiv
2103.17239; the authors say why in facebookresearch/deit issue 184: as good as a rate that grows with depth, and
simpler).

The coin is not tossed here: callers pass an explicit mask. A mask that the caller derives from (seed, epoch, position
of the sample) is the same on 1 or 1,000 ranks, and the same when a checkpointed block is computed again in the backward
pass. :func:`draw_keep_mask` is for callers that have no such wish.
"""

import torch
from torch import Tensor


def drop_path(branch_output: Tensor, keep: Tensor, rate: float) -> Tensor:
    """Zeroes the dropped samples and divides the kept ones by the probability of being kept.

    Args:
        branch_output: (B, ...), one row per sample, or anything that multiplies such a tensor.
        keep: (B,) bool, True where the branch of that sample takes part.
        rate: The probability of being dropped with which ``keep`` was drawn, in [0, 1).

    Returns:
        The shape and dtype of ``branch_output``.

    Raises:
        ValueError: If ``keep`` is not a boolean mask over the samples, or ``rate`` is not in [0, 1).
    """
    if keep.dtype != torch.bool or keep.shape != branch_output.shape[:1]:
        raise ValueError(
            f"keep must be a boolean mask of shape ({branch_output.shape[0]},), one entry per sample, "
            f"got {keep.dtype} of shape {tuple(keep.shape)}"
        )
    _check_rate(rate)
    factor = keep.to(branch_output.dtype) / (1.0 - rate)
    return branch_output * factor.view(-1, *[1] * (branch_output.ndim - 1))


def draw_keep_mask(
    batch: int,
    depth: int,
    rate: float,
    *,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tosses one independent coin per sample, block and branch.

    Args:
        batch: Number of samples B.
        depth: Number of self-attention blocks.
        rate: Probability of dropping a branch, in [0, 1).
        device: Where the mask shall live.
        generator: Source of randomness, on ``device``; torch's global one if not given.

    Returns:
        (B, depth, 2) bool; the last axis is (attention branch, feed-forward branch).

    Raises:
        ValueError: If ``rate`` is not in [0, 1).
    """
    _check_rate(rate)
    return torch.rand(batch, depth, 2, device=device, generator=generator) >= rate


def _check_rate(rate: float) -> None:
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"the stochastic-depth rate must be in [0, 1), got {rate}; 0 switches it off")
