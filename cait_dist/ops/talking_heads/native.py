"""Talking-heads attention on a CPU: matrix products by torch, and one compiled pass over whole rows between them.

Where :mod:`.chunked` reads and writes its maps at every step, here a map is written by a product, read and written once
by a row pass (:mod:`.native_rows`), and read by the next product:

    forward     S = q kᵀ · S ← A · out = A v
    backward    S again · dA = dO vᵀ · S ← A, dA ← dS · dv, dq, dk

It works on one sample at a time, on as many of its query rows as the workspace holds, or on several that are small.
The result of a sample does not depend on its company. As elsewhere, q, k and v are all that is kept, b_l has no effect
and a gradient of exactly zero, and what is summed over rows is summed in float32 at least. Narrow maps are rounded
twice, where eager rounds them four times.
"""

import torch
from torch import Tensor

from .blocks import Blocks, ranges
from .mixing import Mixing
from .native_rows import RowPasses, row_passes

WORKSPACE_BYTES = 8 * 2**20
"""Bound on the two maps of the backward pass; one query row is the least. More rows make better products, until their
maps outgrow the caches."""
CACHED_BYTES = 2**20
"""Bound on a map of several samples, which are worked on together only as long as a core's own cache holds what lies
between a product and a row pass. It saves small networks most of the time that calls take."""


def forward(qkv: Tensor, mixing: Mixing) -> Tensor:
    """Attends; arguments and result as :func:`cait_dist.ops.talking_heads.chunked.forward`."""
    q, k, v = qkv.unbind(0)
    batch, heads, tokens, dim = q.shape
    passes, weights, dropout = _passes(q), _wide_weights(mixing), mixing.dropout
    out = q.new_empty(batch, tokens, heads, dim)
    work, dense = cut(q, 1, mixing.workspace_bytes), _wants_dense(q)
    for samples in work.samples:
        qs, ks, vs = (_as_one(t[samples], dense) for t in (q, k, v))  # (b H, N, d)
        for rows in work.rows:
            (maps,) = work.maps(samples, rows)
            torch.bmm(qs[:, rows], ks.mT, out=maps)
            passes.forward(maps, *weights, mixing.scale)
            if dropout is not None:
                dropout.drop_(maps.unflatten(0, (-1, heads)), samples, rows)
            out[samples, rows] = torch.bmm(maps, vs).unflatten(0, (-1, heads)).transpose(1, 2)
    return out


def backward(do: Tensor, qkv: Tensor, mixing: Mixing) -> tuple[Tensor, ...]:
    """Differentiates; arguments and results as :func:`cait_dist.ops.talking_heads.chunked.backward`."""
    q, k, v = qkv.unbind(0)
    heads = q.shape[1]
    passes, weights, dropout = _passes(q), _wide_weights(mixing), mixing.dropout
    dqkv = torch.empty_like(qkv)
    dq, dk, dv = dqkv.unbind(0)
    sums = mixing.b_w.new_zeros(torch.get_num_threads(), 2 * heads + 1, heads)
    work, dense = cut(q, 2, mixing.workspace_bytes), _wants_dense(q)
    for samples in work.samples:
        qs, ks, vs, dos = (_as_one(t[samples], dense) for t in (q, k, v, do))  # (b H, N, d)
        dks, dvs = _Total(dk[samples], len(work.rows)), _Total(dv[samples], len(work.rows))
        for rows in work.rows:
            maps, grads = work.maps(samples, rows)
            torch.bmm(qs[:, rows], ks.mT, out=maps)
            torch.bmm(dos[:, rows], vs.mT, out=grads)
            if dropout is not None:
                dropout.drop_(grads.unflatten(0, (-1, heads)), samples, rows)
            passes.backward(maps, grads, *weights, mixing.scale, sums)
            if dropout is not None:
                dropout.drop_(maps.unflatten(0, (-1, heads)), samples, rows)
            dvs.add_product(maps.mT, dos[:, rows])
            dks.add_product(grads.mT, qs[:, rows])
            dq[samples, :, rows] = torch.bmm(grads, ks).unflatten(0, (-1, heads))
        dks.finish()
        dvs.finish()
    dw_l, dw_w, db_w = (part.sum(0) for part in sums.split([heads, heads, 1], dim=1))
    return dqkv, dw_l, dw_w, db_w.view(heads)


def cut(q: Tensor, buffers: int, workspace_bytes: int | None) -> Blocks:
    """Cuts the attention of a batch and reserves the memory; the same blocks in either pass.

    Args:
        q: Queries (B, H, N, d).
        buffers: Maps of a block that are needed at once.
        workspace_bytes: Bound on two such maps, or None for :data:`WORKSPACE_BYTES`.
    """
    batch, heads, tokens, _ = q.shape
    half = (WORKSPACE_BYTES if workspace_bytes is None else workspace_bytes) // 2
    row_bytes = heads * tokens * q.element_size()
    rows = ranges(tokens, max(1, half // row_bytes))
    samples = ranges(batch, max(1, min(half, CACHED_BYTES) // (row_bytes * tokens)))
    largest = heads * samples[0].stop * rows[0].stop * tokens
    return Blocks(samples, rows, heads, tokens, [q.new_empty(largest) for _ in range(buffers)])


class _Total:
    """A gradient (b, H, N, d): the product of the one block, or the wide sum of those of several."""

    def __init__(self, target: Tensor, blocks: int) -> None:
        self._target, self._blocks = target, blocks
        self._sum: Tensor | None = None

    def add_product(self, a: Tensor, b: Tensor) -> None:
        if self._sum is None:
            self._sum = torch.bmm(a, b)
            if self._blocks > 1:
                self._sum = self._sum.to(torch.promote_types(a.dtype, torch.float32))
        elif self._sum.dtype == a.dtype:
            self._sum.baddbmm_(a, b)
        else:
            self._sum.add_(torch.bmm(a, b))

    def finish(self) -> None:
        assert self._sum is not None
        self._target.copy_(self._sum.view(self._target.shape))


def runs_on(device: torch.device, heads: int, dtype: torch.dtype) -> bool:
    """Whether it can run there; the first time it is asked on a CPU, its passes are compiled."""
    return device.type == "cpu" and row_passes(heads, dtype) is not None


# A compiler of the network need not look into the one that is called there. This is all that
# torch.compiler.assume_constant_result does, after a second in which it loads the whole of torch's compiler.
vars(runs_on)["_dynamo_marked_constant"] = True


def _passes(q: Tensor) -> RowPasses:
    passes = row_passes(q.shape[1], q.dtype)
    assert passes is not None, "chosen without asking runs_on"
    return passes


def _wide_weights(mixing: Mixing) -> tuple[Tensor, Tensor, Tensor]:
    """In the dtype in which rows are computed."""
    return mixing.w_l.to(mixing.b_w.dtype), mixing.w_w.to(mixing.b_w.dtype), mixing.b_w


def _wants_dense(q: Tensor) -> bool:
    """Whether products are on dense tensors.

    Narrow ones are quicker on them by more than the copy costs, and samples that are worked on together have to lie so.
    A sample that happens to be alone is not computed differently.
    """
    return q.element_size() < 4 or 2 * q.shape[1] * q.shape[2] ** 2 * q.element_size() <= CACHED_BYTES


def _as_one(t: Tensor, dense: bool) -> Tensor:
    """(b, H, N, d) as (b H, N, d)."""
    return (t.contiguous() if dense else t).flatten(0, 1)
