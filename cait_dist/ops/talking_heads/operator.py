"""Talking-heads attention as one operator of torch, with its gradient, for every backend that keeps q, k and v alone.

To a compiler an operator is one opaque step whose shapes are known: ``torch.compile`` of a block goes through it
without a break in the graph, and neither looks into the loop over blocks nor traces a Triton kernel. The backend is an
argument, chosen by the caller before.

Queries, keys and values are one tensor, as the layer before makes them, and so are their gradients, laid out alike:
three would have to be joined again by copying.

What is kept for the backward pass: these, and copies of the two (H, H) matrices and of b_w. Copies, not the
parameters: a partitioned parameter may be gone by then. Of dropout, its seed is kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library
from torch.autograd.function import once_differentiable

from ..eager_tensors import is_eager
from ..product_dtype import product_dtype
from . import chunked, fused, native
from .map_dropout import MapDropout, draw_seed
from .mixing import Mixing

_IMPLEMENTATIONS = {"chunked": chunked, "fused": fused, "native": native}


def attend(
    qkv: Tensor,
    proj_l_weight: Tensor,
    proj_l_bias: Tensor,
    proj_w_weight: Tensor,
    proj_w_bias: Tensor,
    *,
    scale: float,
    backend: str,
    dropout_p: float = 0.0,
    workspace_bytes: int | None = None,
) -> Tensor:
    """Computes :func:`cait_dist.ops.talking_heads_attention` as in training; arguments as there.

    Args:
        qkv: (3, B, H, N, d), in any layout.
        proj_l_weight: (H, H).
        proj_l_bias: (H,), without effect; its gradient is exactly zero.
        proj_w_weight: (H, H).
        proj_w_bias: (H,).
        scale: Factor on q kᵀ.
        backend: ``chunked``, ``native`` or ``fused``.
        dropout_p: Probability of zeroing an entry of the mixed map.
        workspace_bytes: Bound on the maps that exist at once; None takes the backend's own. The least that is worked
            on may need more.

    Returns:
        (B, H, N, d), laid out as (B, N, H, d).
    """
    mixing = (proj_l_weight, proj_l_bias, proj_w_weight, proj_w_bias)
    call = scale, backend, workspace_bytes, dropout_p, draw_seed() if dropout_p else None
    qkv = qkv.to(product_dtype(qkv))
    attention = _Attention.apply if is_eager(qkv) else _forward
    return attention(qkv, *mixing, *call).transpose(1, 2)


def _compute(
    qkv: Tensor,
    proj_l_weight: Tensor,
    proj_l_bias: Tensor,
    proj_w_weight: Tensor,
    proj_w_bias: Tensor,
    scale: float,
    backend: str,
    workspace_bytes: int | None,
    dropout_p: float,
    seed: Tensor | None,
) -> Tensor:
    """From (3, B, H, N, d) to (B, N, H, d)."""
    w_l, w_w = (t.to(qkv.dtype).contiguous() for t in (proj_l_weight, proj_w_weight))
    with torch.autocast(qkv.device.type, enabled=False):
        mixing = Mixing(w_l, w_w, proj_w_bias.to(_wide(qkv)), scale, workspace_bytes, _dropout(dropout_p, seed))
        return _IMPLEMENTATIONS[backend].forward(qkv, mixing)


def _gradients(
    do: Tensor,
    qkv: Tensor,
    w_l: Tensor,
    w_w: Tensor,
    b_w: Tensor,
    scale: float,
    backend: str,
    workspace_bytes: int | None,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by qkv (3, B, H, N, d), laid out as it is, and by w_l, w_w and b_w, in float32 at least."""
    with torch.autocast(qkv.device.type, enabled=False):  # the caller may still be, or only now be, inside one
        mixing = Mixing(w_l, w_w, b_w, scale, workspace_bytes, _dropout(dropout_p, seed))
        return _IMPLEMENTATIONS[backend].backward(do.transpose(1, 2), qkv, mixing)


_forward = library.custom_op("cait_dist::talking_heads", _compute, mutates_args=())
_backward = library.custom_op("cait_dist::talking_heads_backward", _gradients, mutates_args=())


@_forward.register_fake
def _(qkv: Tensor, *_: Any) -> Tensor:
    batch, heads, tokens, dim = qkv.shape[1:]
    return qkv.new_empty(batch, tokens, heads, dim)


@_backward.register_fake
def _(do: Tensor, qkv: Tensor, w_l: Tensor, w_w: Tensor, b_w: Tensor, *_: Any) -> Any:
    return torch.empty_like(qkv), *(torch.empty_like(w, dtype=b_w.dtype) for w in (w_l, w_w, b_w))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, *mixing = inputs[:5]
    *call, seed = inputs[5:]
    w_l, _, w_w, b_w = mixing
    kept = (w_l.to(qkv.dtype, copy=True), w_w.to(qkv.dtype, copy=True), b_w.to(_wide(qkv), copy=True))
    ctx.save_for_backward(qkv, *(t.contiguous() for t in kept), seed)
    ctx.call = call
    ctx.dtypes = [t.dtype for t in mixing]


def _differentiate(ctx: Any, do: Tensor, gradients: Callable[..., Any] = _backward) -> tuple[Tensor | None, ...]:
    *kept, seed = ctx.saved_tensors
    dqkv, dw_l, dw_w, db_w = gradients(do, *kept, *ctx.call, seed)
    parameters = (dw_l, torch.zeros_like(db_w), dw_w, db_w)
    return dqkv, *(g.to(dtype) for g, dtype in zip(parameters, ctx.dtypes, strict=True)), *[None] * 5


_forward.register_autograd(_differentiate, setup_context=_keep)


class _Attention(torch.autograd.Function):
    """The same without an operator's checks, which take longer than a small attention, where no compiler is at work."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        out = _compute(*inputs)
        _keep(ctx, inputs, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        return _differentiate(ctx, do, _gradients)


def _dropout(p: float, seed: Tensor | None) -> MapDropout | None:
    return None if seed is None else MapDropout(p, int(seed))


def _wide(qkv: Tensor) -> torch.dtype:
    return torch.promote_types(qkv.dtype, torch.float32)
