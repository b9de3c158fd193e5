"""Talking-heads attention block by block: keeps q, k and v for the backward pass, and never a whole attention map.

Eager autograd keeps three to five (B, H, N, N) tensors per layer; in CaiT-M48 at 448 px these are four fifths of all
activations. Here the query rows are cut into blocks. The maps of a block exist only while it is worked on, in buffers
that all blocks share and that stay in the cache; the backward pass computes them again. Within a block every step is
one large product: maps lie as (H, b, m, N), for b samples and m query rows, so that a mix is W · S with S seen as
(H, b·m·N).

With the names of :mod:`cait_dist.ops.talking_heads`, dX for the gradient of the loss by X, and ⟨ , ⟩ for the sum of an
elementwise product:

    dA = dO vᵀ            dP = W_wᵀ dA        dL = P ∘ (dP − rowsum(P ∘ dP))        dS = W_lᵀ dL
    dv = Aᵀ dO            dq = scale · dS k   dk = scale · dSᵀ q
    dW_w[o, g] = ⟨dA_o, P_g⟩                  dW_l[g, h] = ⟨dL_g, S_h⟩

Two identities save work and noise:

* b_l is constant along a row of logits, so the softmax cancels it: it is left out, and db_l is exactly zero.
* b_w adds a constant to every entry of a map, a term of rank one: out_o += b_w[o] · Σ_j v_o[j]. Hence
  dv_o[j] += b_w[o] · Σ_i dO_o[i] and db_w[o] = ⟨Σ_i dO_o[i], Σ_j v_o[j]⟩, without any N × N work. (Dropout on the
  map takes that away.)

Narrow inputs have narrow maps, as in eager; the softmax computes in float32 inside, and what is summed over blocks is
summed in float32 at least. ``scale`` multiplies q and not W_l, where it would cost nothing: a rounding error of W_l is
the same for the whole map, and does not average out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import cut_into_blocks
from .map_dropout import MapDropout
from .mixing import Mixing

WORKSPACE_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
"""Size of all block buffers together. A CPU wants them in its cache, a GPU wants kernels that outlast their launch."""


def forward(qkv: Tensor, mixing: Mixing) -> Tensor:
    """Attends, outside autograd.

    Args:
        qkv: (3, B, H, N, d), in any layout.
        mixing: How; without a bound, the block buffers take :data:`WORKSPACE_BYTES`. One query row of one sample
            is the least that is worked on, even if it needs more.

    Returns:
        (B, N, H, d).
    """
    q, k, v = qkv.unbind(0)
    batch, heads, tokens, dim = q.shape
    out, b_w, dropout = q.new_empty(batch, tokens, heads, dim), mixing.b_w, mixing.dropout
    # (B, H, d), the term of rank one, which it is no more where some of it is dropped.
    offset = v.sum(2, dtype=b_w.dtype) * b_w.view(heads, 1) if dropout is None else None
    blocks = cut_into_blocks(q, _budget(q, mixing.workspace_bytes))
    for samples in blocks.samples:
        qs, ks, vs = (_heads_first(t) for t in (q[samples] * mixing.scale, k[samples], v[samples]))
        for rows in blocks.rows:
            probs, maps, *_ = blocks.maps(samples, rows)
            _probabilities(qs[:, rows], ks, mixing.w_l, logits=maps, scores=probs, out=probs)
            _mix(mixing.w_w, probs, out=maps)
            if dropout is not None:
                _Dropped(dropout, samples, rows, b_w).finish_map(maps)
            _store(torch.bmm(maps, vs), out.transpose(1, 2)[samples, :, rows], offset, samples)
    return out


def backward(do: Tensor, qkv: Tensor, mixing: Mixing) -> tuple[Tensor, ...]:
    """Differentiates, outside autograd.

    Args:
        do: Gradient of the result, (B, H, N, d), in any layout.
        qkv: As in :func:`forward`.
        mixing: As in :func:`forward`.

    Returns:
        Gradients by qkv, laid out as it is, and by w_l, w_w and b_w, in the dtype of b_w.
    """
    q, k, v = qkv.unbind(0)
    heads = q.shape[1]
    dqkv = torch.empty_like(qkv)
    dq, dk, dv = dqkv.unbind(0)
    b_w, dropout = mixing.b_w, mixing.dropout
    dw_l, dw_w, db_w = (torch.zeros_like(w, dtype=b_w.dtype) for w in (mixing.w_l, mixing.w_w, b_w))
    offset = None
    if dropout is None:
        do_sum, v_sum = (t.sum(2, dtype=b_w.dtype) for t in (do, v))  # (B, H, d)
        offset, db_w = do_sum * b_w.view(heads, 1), (do_sum * v_sum).sum((0, 2))
    blocks = cut_into_blocks(q, _budget(q, mixing.workspace_bytes))
    for samples in blocks.samples:
        qs, ks, vs, dos = (_heads_first(t) for t in (q[samples] * mixing.scale, k[samples], v[samples], do[samples]))
        dks, dvs = (torch.zeros_like(qs, dtype=b_w.dtype) for _ in range(2))
        sums = _Sums(dks, dvs, dw_l, dw_w, db_w)
        for rows in blocks.rows:
            maps = blocks.maps(samples, rows)
            dropped = None if dropout is None else _Dropped(dropout, samples, rows, b_w)
            dqs = _backward_block(qs[:, rows], ks, vs, dos[:, rows], mixing, maps, sums, dropped)
            _store(dqs.mul_(mixing.scale), dq[samples, :, rows])
        _store(dks, dk[samples])
        _store(dvs, dv[samples], offset, samples)
    return dqkv, dw_l, dw_w, db_w


def _budget(q: Tensor, workspace_bytes: int | None) -> int:
    default = WORKSPACE_BYTES.get(q.device.type, WORKSPACE_BYTES["cpu"])
    return default if workspace_bytes is None else workspace_bytes


@dataclass(frozen=True)
class _Sums:
    """Gradients to which every block adds: (H·b, N, d), (H, H) and (H,), float32 at least."""

    dk: Tensor
    dv: Tensor
    dw_l: Tensor
    dw_w: Tensor
    db_w: Tensor


@dataclass(frozen=True)
class _Dropped:
    """Dropout on one block, whose maps (H·b, m, N) have to have b_w in them."""

    dropout: MapDropout
    samples: slice
    rows: slice
    b_w: Tensor

    def finish_map(self, maps: Tensor) -> None:
        """From W_w P to what multiplies v."""
        maps.view(len(self.b_w), -1).add_(self.b_w.view(-1, 1))
        self._drop_(maps)

    def finish_gradient(self, grads: Tensor, db_w: Tensor) -> None:
        """From the gradient of what multiplies v to dA, and its part of db_w."""
        self._drop_(grads)
        db_w.add_(grads.view(len(self.b_w), -1).sum(1, dtype=db_w.dtype))

    def _drop_(self, maps: Tensor) -> None:
        self.dropout.drop_(maps.unflatten(0, (len(self.b_w), -1)).transpose(0, 1), self.samples, self.rows)


def _backward_block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    do: Tensor,
    mixing: Mixing,
    maps: list[Tensor],
    sums: _Sums,
    dropped: _Dropped | None,
) -> Tensor:
    """Adds the part of m query rows to the sums; returns the gradient (H·b, m, d) of these rows of scale · q."""
    scores, probs, left, right = maps
    w_l, w_w = mixing.w_l, mixing.w_w
    _probabilities(q, k, w_l, logits=left, scores=scores, out=probs)
    _mix(w_w, probs, out=left)  # A
    torch.bmm(do, v.transpose(1, 2), out=right)  # dA
    if dropped is not None:
        dropped.finish_map(left)
        dropped.finish_gradient(right, sums.db_w)
    _add_product(sums.dv, left.transpose(1, 2), do)
    sums.dw_w.add_(_inner_products(right, probs, len(w_w)))
    _mix(w_w.t(), right, out=left)  # dP
    torch.ops.aten._softmax_backward_data.out(left, probs, -1, probs.dtype, grad_input=right)  # dL
    sums.dw_l.add_(_inner_products(right, scores, len(w_l)))
    _mix(w_l.t(), right, out=left)  # dS
    _add_product(sums.dk, left.transpose(1, 2), q)
    return torch.bmm(left, k)


def _probabilities(q: Tensor, k: Tensor, w_l: Tensor, *, logits: Tensor, scores: Tensor, out: Tensor) -> None:
    """Fills three maps; ``out`` may be ``scores``. The softmax accumulates in float32 at least."""
    torch.bmm(q, k.transpose(1, 2), out=scores)
    _mix(w_l, scores, out=logits)
    torch.softmax(logits, -1, out=out)


def _mix(weight: Tensor, maps: Tensor, *, out: Tensor) -> None:
    heads = len(weight)
    torch.mm(weight, maps.view(heads, -1), out=out.view(heads, -1))


def _inner_products(a: Tensor, b: Tensor, heads: int) -> Tensor:
    """⟨a_g, b_h⟩ for all pairs of heads: (H, H)."""
    return torch.mm(a.view(heads, -1), b.view(heads, -1).t())


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total.add_(torch.bmm(a, b))


def _heads_first(t: Tensor) -> Tensor:
    """(b, H, n, d) -> (H·b, n, d); a view where the layout allows it, always so for one sample."""
    return t.transpose(0, 1).flatten(0, 1)


def _store(source: Tensor, target: Tensor, offset: Tensor | None = None, samples: slice | None = None) -> None:
    """Writes (H·b, n, d), plus the samples' part of an offset (B, H, d) that is the same for all n, to (b, H, n, d)."""
    samples_first = source.unflatten(0, (target.shape[1], -1)).transpose(0, 1)
    if offset is None:
        target.copy_(samples_first)
    else:
        torch.add(samples_first, offset[samples].unsqueeze(2), out=target)
