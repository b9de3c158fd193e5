"""Talking-heads attention on a GPU: batched matrix products, and between them one Triton kernel on whole rows.

Per chunk of samples, with T for one (H, N, N) map of a sample in the dtype of q, memory sees

    forward     S = q kᵀ (write T) · S ← A (read T, write T) · out = A v (read T)                          4 T
    backward    S again (T) · dA = dO vᵀ (T) · S ← A, dA ← dS (4 T) · dv, dq, dk (3 T)                     9 T

while eager autograd moves several times as much, and keeps up to five maps of every layer until the backward pass. Here
q, k and v are all that is kept. Recomputing the logits tile by tile, as FlashAttention does, would gain nothing in
CaiT: all heads of a tile have to be at hand, and H · d numbers of a key are as many as the N logits of a row that it
would save reading.

As in :mod:`.chunked`, b_l has no effect and a gradient of exactly zero, and that of b_w needs no map (but where some of
it is dropped). Products of float32 take TF32 where torch's own would.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .blocks import ranges
from .mixing import Mixing
from .tuning import Launch, launch_for

WORKSPACE_BYTES = 512 * 2**20
"""Bound on the maps of a chunk, one in the forward pass and two in the backward pass; one sample is the least."""
LOG2_E = math.log2(math.e)
WHOLE = slice(0, None)
"""All rows of a map, which are never divided here."""


def forward(qkv: Tensor, mixing: Mixing) -> Tensor:
    """Attends; arguments and result as :func:`cait_dist.ops.talking_heads.chunked.forward`."""
    q, k, v = qkv.unbind(0)
    batch, heads, tokens, dim = q.shape
    out = q.new_empty(batch, tokens, heads, dim)
    launch, dropout = launch_for("forward_rows", q, heads), mixing.dropout
    for samples, (maps,) in _chunks(q, 1, mixing.workspace_bytes):
        qs, ks, vs = (t[samples].flatten(0, 1) for t in (q, k, v))  # (b·H, N, d)
        torch.bmm(qs, ks.mT, out=maps)
        _forward_rows(maps, mixing, launch)
        if dropout is not None:
            dropout.drop_(maps.unflatten(0, (-1, heads)), samples, WHOLE)
        out.transpose(1, 2)[samples] = torch.bmm(maps, vs).unflatten(0, (-1, heads))
    return out


def backward(do: Tensor, qkv: Tensor, mixing: Mixing) -> tuple[Tensor, ...]:
    """Differentiates; arguments and results as :func:`cait_dist.ops.talking_heads.chunked.backward`."""
    q, k, v = qkv.unbind(0)
    heads = q.shape[1]
    dqkv = torch.empty_like(qkv)
    dq, dk, dv = dqkv.unbind(0)
    wide, dropout = mixing.b_w.dtype, mixing.dropout
    dw_l, dw_w, db_w = (torch.zeros_like(w, dtype=wide) for w in (mixing.w_l, mixing.w_w, mixing.b_w))
    launch = launch_for("backward_rows", q, heads)
    for samples, (maps, grads) in _chunks(q, 2, mixing.workspace_bytes):
        qs, ks, vs, dos = (t[samples].flatten(0, 1) for t in (q, k, v, do))
        torch.bmm(qs, ks.mT, out=maps)
        torch.bmm(dos, vs.mT, out=grads)
        if dropout is not None:
            dropout.drop_(grads.unflatten(0, (-1, heads)), samples, WHOLE)
            db_w += grads.unflatten(0, (-1, heads)).sum((0, 2, 3), dtype=wide)
        parts = _backward_rows(maps, grads, mixing, launch)
        dw_l += parts[0]
        dw_w += parts[1]
        if dropout is not None:
            dropout.drop_(maps.unflatten(0, (-1, heads)), samples, WHOLE)
        for target, a, b in ((dv, maps.mT, dos), (dq, grads, ks), (dk, grads.mT, qs)):
            target[samples] = torch.bmm(a, b).unflatten(0, (-1, heads))
    if dropout is None:
        do_sum, v_sum = (t.sum(2, dtype=wide) for t in (do, v))  # (B, H, d)
        db_w = (do_sum * v_sum).sum((0, 2))
    return dqkv, dw_l, dw_w, db_w


def _chunks(q: Tensor, buffers: int, workspace_bytes: int | None) -> Iterator[tuple[slice, list[Tensor]]]:
    """Samples with their share of the workspace: ``buffers`` maps (b·H, N, N)."""
    batch, heads, tokens, _ = q.shape
    budget = WORKSPACE_BYTES if workspace_bytes is None else workspace_bytes
    chunks = ranges(batch, max(1, budget // (buffers * heads * tokens * tokens * q.element_size())))
    memory = [q.new_empty(chunks[0].stop * heads, tokens, tokens) for _ in range(buffers)]
    for samples in chunks:
        yield samples, [maps[: (samples.stop - samples.start) * heads] for maps in memory]


def _forward_rows(maps: Tensor, mixing: Mixing, launch: Launch) -> None:
    from .row_kernels import forward_rows  # noqa: PLC0415

    heads, tokens = len(mixing.w_l), maps.shape[-1]
    weights = mixing.w_l, mixing.w_w, mixing.b_w
    with _on_device_of(maps):
        forward_rows[(tokens, len(maps) // heads)](maps, *weights, tokens, mixing.scale * LOG2_E, **launch.options)


def _backward_rows(maps: Tensor, grads: Tensor, mixing: Mixing, launch: Launch) -> tuple[Tensor, Tensor]:
    """Fills both maps anew; returns dW_l and dW_w (H, H)."""
    from .row_kernels import backward_rows  # noqa: PLC0415

    heads, tokens = len(mixing.w_l), maps.shape[-1]
    rows = len(maps) // heads * tokens
    programs = min(rows, launch.programs)
    dw_l, dw_w = (maps.new_empty(programs, heads, heads, dtype=launch.accumulator) for _ in range(2))
    weights, scales = (mixing.w_l, mixing.w_w, mixing.b_w), (mixing.scale * LOG2_E, mixing.scale)
    with _on_device_of(maps):
        backward_rows[(programs,)](maps, grads, dw_l, dw_w, *weights, tokens, rows, *scales, **launch.options)
    return dw_l.sum(0), dw_w.sum(0)


def _on_device_of(maps: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, whichever that is."""
    return torch.cuda.device(maps.device) if maps.is_cuda else contextlib.nullcontext()
