"""Talking-heads attention as one operator of torch, with its gradient, for every backend that keeps q, k and v alone.

To a compiler an operator is one opaque step whose shapes are known: ``torch.compile`` of a block goes through it
without a break in the graph, and neither looks into the loop over blocks nor traces a Triton kernel. The backend is an
argument, chosen by the caller before.

What is kept for the backward pass: q, k and v, and copies of the two (H, H) matrices and of b_w. Copies, not the
parameters: a partitioned parameter may be gone by then.
"""

from typing import Any

import torch
from torch import Tensor, library

from . import chunked, fused, native

_IMPLEMENTATIONS = {"chunked": chunked, "fused": fused, "native": native}


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    proj_l_weight: Tensor,
    proj_l_bias: Tensor,
    proj_w_weight: Tensor,
    proj_w_bias: Tensor,
    *,
    scale: float,
    backend: str,
    workspace_bytes: int | None = None,
) -> Tensor:
    """Computes :func:`cait_dist.ops.talking_heads_attention` without dropout; arguments as there.

    Args:
        q: (B, H, N, d), in any layout; as are ``k`` and ``v``.
        k: (B, H, N, d).
        v: (B, H, N, d).
        proj_l_weight: (H, H).
        proj_l_bias: (H,), without effect; its gradient is exactly zero.
        proj_w_weight: (H, H).
        proj_w_bias: (H,).
        scale: Factor on q kᵀ.
        backend: ``chunked``, ``native`` or ``fused``.
        workspace_bytes: Bound on the maps that exist at once; None takes the backend's own. The least that is worked
            on may need more.

    Returns:
        (B, H, N, d), laid out as (B, N, H, d).
    """
    q, k, v = (t.to(product_dtype(q)) for t in (q, k, v))
    mixing = (proj_l_weight, proj_l_bias, proj_w_weight, proj_w_bias)
    return _forward(q, k, v, *mixing, scale, backend, workspace_bytes).transpose(1, 2)


def product_dtype(q: Tensor) -> torch.dtype:
    """That in which queries are multiplied with keys, here and now: autocast has a say in it."""
    device = q.device.type
    narrowed = torch.is_autocast_enabled(device) and q.dtype != torch.float64
    return torch.get_autocast_dtype(device) if narrowed else q.dtype


@library.custom_op("cait_dist::talking_heads", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    proj_l_weight: Tensor,
    proj_l_bias: Tensor,
    proj_w_weight: Tensor,
    proj_w_bias: Tensor,
    scale: float,
    backend: str,
    workspace_bytes: int | None,
) -> Tensor:
    """From q, k, v (B, H, N, d) to (B, N, H, d)."""
    w_l, w_w = (t.to(q.dtype).contiguous() for t in (proj_l_weight, proj_w_weight))
    with torch.autocast(q.device.type, enabled=False):
        return _IMPLEMENTATIONS[backend].forward(q, k, v, w_l, w_w, proj_w_bias.to(_wide(q)), scale, workspace_bytes)


@_forward.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    batch, heads, tokens, dim = q.shape
    return q.new_empty(batch, tokens, heads, dim)


@library.custom_op("cait_dist::talking_heads_backward", mutates_args=())
def _backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w_l: Tensor,
    w_w: Tensor,
    b_w: Tensor,
    scale: float,
    backend: str,
    workspace_bytes: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by q, k, v (B, H, N, d), contiguous, and by w_l, w_w and b_w, in float32 at least."""
    with torch.autocast(q.device.type, enabled=False):  # the caller may still be, or only now be, inside one
        return _IMPLEMENTATIONS[backend].backward(do.transpose(1, 2), q, k, v, w_l, w_w, b_w, scale, workspace_bytes)


@_backward.register_fake
def _(do: Tensor, q: Tensor, k: Tensor, v: Tensor, w_l: Tensor, w_w: Tensor, b_w: Tensor, *_: Any) -> Any:
    weights = (torch.empty_like(w, dtype=b_w.dtype) for w in (w_l, w_w, b_w))
    return *(q.new_empty(q.shape) for _ in range(3)), *weights


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, *mixing, scale, backend, workspace_bytes = inputs
    w_l, _, w_w, b_w = mixing
    kept = (w_l.to(q.dtype, copy=True), w_w.to(q.dtype, copy=True), b_w.to(_wide(q), copy=True))
    ctx.save_for_backward(q, k, v, *(t.contiguous() for t in kept))
    ctx.call = scale, backend, workspace_bytes
    ctx.dtypes = [t.dtype for t in mixing]


def _differentiate(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv, dw_l, dw_w, db_w = _backward(grad_out, *ctx.saved_tensors, *ctx.call)
    parameters = (dw_l, torch.zeros_like(db_w), dw_w, db_w)
    return dq, dk, dv, *(g.to(dtype) for g, dtype in zip(parameters, ctx.dtypes, strict=True)), None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def _wide(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)
