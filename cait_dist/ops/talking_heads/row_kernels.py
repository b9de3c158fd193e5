"""Two Triton kernels on whole rows of attention maps: all that happens between the two matrix products, in one pass.

Between q kᵀ and A v stand a mix, a softmax and a mix. As separate operations each reads and writes whole (H, N, N)
maps; here a program takes one query row of one sample with all its heads, H · N numbers, which a multiprocessor holds
in its first-level cache, and the maps are read once and written once. That all heads of a row are at hand is the point:
the mixes need them, and so does D = rowsum(P ∘ dP) of the backward pass, for which FlashAttention's shortcut
D = rowsum(dO ∘ O) does not hold once heads are mixed behind the softmax.

A row is walked in tiles of ``BLOCK`` keys, twice: first for the statistics of the softmax, then for the result; the
second time the tile comes from the cache. Tiles are (key, head), so that the probabilities, the result of one product
on the tensor cores, are at once the left operand of the next. Heads are padded to ``PADDED``, the least that tensor
cores take: only in registers, never in memory.

Numbers: maps are stored in the dtype of q; products accumulate in float32, and so do the softmax and all sums
(``ACC``; float64 for float64). Logits are never rounded to the dtype of the maps; P, A, dL and dS are, once each.

This module imports Triton at the top: import it where a kernel is launched, not before.
"""

import triton
import triton.language as tl


@triton.jit
def _dot(a, b, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """Product of two tiles, accumulated in ACC. UPCAST is for Triton's interpreter, which multiplies bf16 wrongly."""
    if UPCAST:
        a = a.to(ACC)
        b = b.to(ACC)
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def _load_weights(w, HEADS: tl.constexpr, PADDED: tl.constexpr):
    """An (H, H) matrix and its transpose, padded with zeros."""
    h = tl.arange(0, PADDED)
    inside = (h < HEADS)[:, None] & (h < HEADS)[None, :]
    straight = tl.load(w + h[:, None] * HEADS + h[None, :], mask=inside, other=0.0)
    transposed = tl.load(w + h[None, :] * HEADS + h[:, None], mask=inside, other=0.0)
    return straight, transposed


@triton.jit
def forward_rows(
    maps,
    w_l,
    w_w,
    b_w,
    tokens,
    factor,
    HEADS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Replaces S = q kᵀ by A; grid (query rows, samples).

    Args:
        maps: (b, H, N, N), contiguous.
        w_l: (H, H), in the dtype of the maps; as is ``w_w``.
        w_w: (H, H).
        b_w: (H,), in ACC.
        tokens: N.
        factor: scale · log₂ e, on the mixed logits.
        HEADS: H.
        PADDED: H, rounded up to a power of two that is at least 16.
        BLOCK: Keys in a tile.
        ACC: What products accumulate in.
        PRECISION: Of products of float32: ieee or tf32.
        UPCAST: Whether products are made in ACC.
    """
    h = tl.arange(0, PADDED)
    heads = (h < HEADS)[None, :]
    row = maps + tl.program_id(1).to(tl.int64) * HEADS * tokens * tokens + tl.program_id(0) * tokens
    by_head = h[None, :] * (tokens * tokens)
    _, wl_t = _load_weights(w_l, HEADS, PADDED)
    _, ww_t = _load_weights(w_w, HEADS, PADDED)
    bias = tl.load(b_w + h, mask=h < HEADS, other=0.0)[None, :]
    top = tl.full([PADDED], -float("inf"), ACC)
    total = tl.zeros([PADDED], ACC)
    for start in range(0, tokens, BLOCK):
        j = start + tl.arange(0, BLOCK)
        keys = (j < tokens)[:, None]
        s = tl.load(row + by_head + j[:, None], mask=keys & heads, other=0.0)
        logits = tl.where(keys, _dot(s, wl_t, ACC, PRECISION, UPCAST) * factor, -float("inf"))
        higher = tl.maximum(top, tl.max(logits, 0))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(logits - higher[None, :]), 0)
        top = higher
    shift = top + tl.log2(total)
    for start in range(0, tokens, BLOCK):
        j = start + tl.arange(0, BLOCK)
        here = (j < tokens)[:, None] & heads
        s = tl.load(row + by_head + j[:, None], mask=here, other=0.0)
        probs = tl.exp2(_dot(s, wl_t, ACC, PRECISION, UPCAST) * factor - shift[None, :]).to(s.dtype)
        a = _dot(probs, ww_t, ACC, PRECISION, UPCAST) + bias
        tl.store(row + by_head + j[:, None], a.to(s.dtype), mask=here)


@triton.jit(do_not_specialize=["rows"])
def backward_rows(
    maps,
    grads,
    dw_l,
    dw_w,
    w_l,
    w_w,
    b_w,
    tokens,
    rows,
    factor,
    scale,
    HEADS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Replaces S by A, and dA by dS; each program takes every so-manieth row and sums its share of dW.

    Args:
        maps: S (b, H, N, N), contiguous.
        grads: dA = dO vᵀ, likewise.
        dw_l: (programs, H, H) in ACC, the parts of dW_l; likewise ``dw_w``.
        dw_w: (programs, H, H).
        w_l: (H, H), in the dtype of the maps; as is ``w_w``.
        w_w: (H, H).
        b_w: (H,), in ACC.
        tokens: N.
        rows: b · N; stochastic depth changes it from call to call, which must not compile the kernel anew.
        factor: scale · log₂ e.
        scale: Of q kᵀ.
        HEADS: H; it and the rest as in :func:`forward_rows`.
        PADDED: See there.
        BLOCK: See there.
        ACC: See there.
        PRECISION: See there.
        UPCAST: See there.
    """
    h = tl.arange(0, PADDED)
    heads = (h < HEADS)[None, :]
    by_head = h[None, :] * (tokens * tokens)
    wl, wl_t = _load_weights(w_l, HEADS, PADDED)
    ww, ww_t = _load_weights(w_w, HEADS, PADDED)
    bias = tl.load(b_w + h, mask=h < HEADS, other=0.0)[None, :]
    sum_l = tl.zeros([PADDED, PADDED], ACC)
    sum_w = tl.zeros([PADDED, PADDED], ACC)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        base = (row // tokens).to(tl.int64) * HEADS * tokens * tokens + (row % tokens) * tokens
        s_row = maps + base
        g_row = grads + base
        top = tl.full([PADDED], -float("inf"), ACC)
        total = tl.zeros([PADDED], ACC)
        dot = tl.zeros([PADDED], ACC)
        for start in range(0, tokens, BLOCK):
            j = start + tl.arange(0, BLOCK)
            keys = (j < tokens)[:, None]
            s = tl.load(s_row + by_head + j[:, None], mask=keys & heads, other=0.0)
            da = tl.load(g_row + by_head + j[:, None], mask=keys & heads, other=0.0)
            logits = tl.where(keys, _dot(s, wl_t, ACC, PRECISION, UPCAST) * factor, -float("inf"))
            dp = _dot(da, ww, ACC, PRECISION, UPCAST)
            higher = tl.maximum(top, tl.max(logits, 0))
            shrink = tl.exp2(top - higher)
            weights = tl.exp2(logits - higher[None, :])
            total = total * shrink + tl.sum(weights, 0)
            dot = dot * shrink + tl.sum(weights * dp, 0)
            top = higher
        shift = top + tl.log2(total)
        dot = dot / total
        for start in range(0, tokens, BLOCK):
            j = start + tl.arange(0, BLOCK)
            keys = (j < tokens)[:, None]
            s = tl.load(s_row + by_head + j[:, None], mask=keys & heads, other=0.0)
            da = tl.load(g_row + by_head + j[:, None], mask=keys & heads, other=0.0)
            logits = tl.where(keys, _dot(s, wl_t, ACC, PRECISION, UPCAST) * factor, -float("inf"))
            wide = tl.exp2(logits - shift[None, :])
            dl = (wide * (_dot(da, ww, ACC, PRECISION, UPCAST) - dot[None, :])).to(s.dtype)
            probs = wide.to(s.dtype)
            sum_w += _dot(tl.trans(da), probs, ACC, PRECISION, UPCAST)
            sum_l += _dot(tl.trans(dl), s, ACC, PRECISION, UPCAST)
            a = _dot(probs, ww_t, ACC, PRECISION, UPCAST) + bias
            ds = _dot(dl, wl, ACC, PRECISION, UPCAST) * scale
            tl.store(s_row + by_head + j[:, None], a.to(s.dtype), mask=keys & heads)
            tl.store(g_row + by_head + j[:, None], ds.to(s.dtype), mask=keys & heads)
    inside = (h < HEADS)[:, None] & heads
    mine = tl.program_id(0) * HEADS * HEADS + h[:, None] * HEADS + h[None, :]
    tl.store(dw_l + mine, sum_l * scale, mask=inside)
    tl.store(dw_w + mine, sum_w, mask=inside)
