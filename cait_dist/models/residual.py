"""The residual, the one rule by which a branch is added to the stream.

    x  <-  x + keep / (1 - p) · scale · branch(x)

In CaiT the scale is LayerScale: a learned vector of length d, one per branch, that starts at a tiny epsilon. At first
every block is almost the identity, and each channel learns by itself how much of the branch to let in. This is what
makes deep CaiT trainable ("Going deeper with Image Transformers", arXiv 2103.17239, section 2 and figure 1d). The other
columns of that figure have one number for it, or none: :mod:`cait_dist.models.branches`.

The last layer of a branch is linear, so the scale and 1 / (1 - p) go into its weights, and the branch returns the
product (:mod:`cait_dist.ops.scaled_linear`): no pass over its output, of which nothing is kept.

keep is stochastic depth. A dropped branch is not computed and multiplied by zero, as in the code of the authors, but
left out: the kept samples are gathered, go through the branch, and are added back to their places. So a rate of 0.3
saves three tenths of the work of all blocks, and a branch that would have overflowed for a dropped sample harms nobody.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Branch = Callable[[Tensor, Tensor | None], Tensor]
"""Of some samples (K, T, d), each by itself, and a scale (d,) or (1,), or None for 1: what it adds, (K, T, d)."""


def add_branch(x: Tensor, branch: Branch, scale: Tensor | None, keep: Tensor | None, drop_path_rate: float) -> Tensor:
    """Adds a scaled branch to the residual stream, in the dtype of the stream.

    Args:
        x: The stream (B, T, d), float32 or wider.
        branch: Normalisation and attention, or normalisation and feed-forward network.
        scale: LayerScale (d,), a scalar (1,), in any floating dtype, or None for 1.
        keep: (B,) bool, False for the samples whose branch is dropped in this step; None drops nothing. A mask on the
            CPU costs no synchronisation wherever ``x`` lives; one on a GPU makes the host wait for it.
        drop_path_rate: The rate with which ``keep`` was drawn, in [0, 1).

    Returns:
        (B, T, d) in the dtype of ``x``.

    Raises:
        ValueError: If ``keep`` is not a boolean mask over the samples.
    """
    if keep is None:
        return _Add.apply(x, branch(x, scale), None)
    _check_mask(keep, len(x))
    scale = (x.new_ones(1) if scale is None else scale.to(x.dtype)) / (1.0 - drop_path_rate)
    kept = keep.nonzero().flatten()
    if len(kept) == len(x):
        return _Add.apply(x, branch(x, scale), None)
    return _add_to_kept(x, branch, scale, kept.to(x.device, non_blocking=True))


def _add_to_kept(x: Tensor, branch: Branch, scale: Tensor, kept: Tensor) -> Tensor:
    """Adds the branch to the rows ``kept``, and runs it at least once.

    Where parameters are partitioned, a layer that runs on one process waits for the same layer on all others: a process
    that drops all its samples runs the branch on one sample of zeros and takes nothing of the output. Its parameters
    then get gradients of exactly zero, and nothing that a real sample might have made infinite gets near them. The
    zeros ask for a gradient as a real sample would, because its arrival is the sign to release the parameters again.
    """
    rows = x.index_select(0, kept) if len(kept) else torch.zeros_like(x[:1], requires_grad=torch.is_grad_enabled())
    return _Add.apply(x, branch(rows, scale)[: len(kept)], kept)


class _Add(torch.autograd.Function):
    """Adds y, of any dtype, to x or to its rows ``kept``, and keeps their numbers; ``index_add`` keeps y, widened.

    A block that is computed again is so when the first of what it saved is asked for. With partitioned parameters all
    processes have to fetch layers in one order, so for all that is here, before the first layer of the backward pass,
    whether a process keeps all samples or some: hence something is saved in either case.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, kept: Tensor | None) -> Tensor:
        ctx.save_for_backward(x.new_empty(0) if kept is None else kept)
        ctx.all_kept, ctx.dtype = kept is None, y.dtype
        if kept is not None:
            return x.index_add(0, kept, y.to(x.dtype))
        return x + y if y.dtype == x.dtype else y.to(x.dtype).add_(x)  # one buffer less than the sum of two dtypes

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (kept,) = ctx.saved_tensors
        return grad, (grad if ctx.all_kept else grad.index_select(0, kept)).to(ctx.dtype), None


def _check_mask(keep: Tensor, samples: int) -> None:
    if keep.dtype != torch.bool or keep.shape != (samples,):
        raise ValueError(
            f"keep must be a boolean mask of shape ({samples},), one entry per sample, "
            f"got {keep.dtype} of shape {tuple(keep.shape)}"
        )
