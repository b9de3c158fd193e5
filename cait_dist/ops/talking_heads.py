"""Talking-heads attention: attention whose heads exchange information before and after the softmax.

Plain multi-head attention keeps its H attention maps apart. Here two small (H, H) linear maps mix them: ``proj_l``
mixes the logits, ``proj_w`` mixes the probabilities. CaiT uses it in every self-attention block ("Going deeper with
Image Transformers", arXiv 2103.17239, section 4, after Shazeer et al., arXiv 2003.02436):

    S = scale · q kᵀ          one (N, N) map per head
    L = W_l S + b_l           mixed over heads
    P = softmax(L)            over keys
    A = W_w P + b_w           mixed over heads; its rows need not sum to one, and may be negative
    out = A v

The mixing is why no ready-made fused attention kernel fits: each output head needs the maps of all heads at once.

This module is the one door to that operation, so that a faster implementation can be chosen here and nowhere else. What
follows is the eager form, the oracle against which every other one is tested. A mix is written as a batched product
W · S with S seen as (H, N·N): the head axis stays where it is, and no (B, H, N, N) tensor is copied to move it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def talking_heads_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    proj_l_weight: Tensor,
    proj_l_bias: Tensor,
    proj_w_weight: Tensor,
    proj_w_bias: Tensor,
    *,
    scale: float,
    dropout_p: float = 0.0,
    training: bool = False,
) -> Tensor:
    """Attends with heads mixed before and after the softmax.

    The products run in the dtype of ``q``, ``k`` and ``v`` (or that of autocast), the softmax in at least float32.

    Args:
        q: Queries (B, H, N, d), not yet scaled.
        k: Keys (B, H, N, d).
        v: Values (B, H, N, d).
        proj_l_weight: Mixes the logits, (H, H): output head by input head.
        proj_l_bias: (H,). It shifts whole rows of logits, so the softmax cancels it: it has no effect and no gradient
            but rounding noise. It exists because published weights have it.
        proj_w_weight: Mixes the probabilities, (H, H).
        proj_w_bias: (H,), added to every entry of a head's attention map.
        scale: Factor on q kᵀ, usually d ** -0.5.
        dropout_p: Probability of zeroing an entry of the mixed map; active only when ``training``.
        training: Whether dropout is active.

    Returns:
        (B, H, N, d), in the dtype of the products.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    _check_shapes(q, k, v, proj_l_weight, proj_l_bias, proj_w_weight, proj_w_bias)
    logits = (q * scale) @ k.transpose(-2, -1)  # (B, H, N, N)
    logits = _mix_heads(logits, proj_l_weight, proj_l_bias)
    attn = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(v.dtype)
    attn = _mix_heads(attn, proj_w_weight, proj_w_bias)
    attn = F.dropout(attn, dropout_p, training)
    return attn @ v.to(attn.dtype)


def _mix_heads(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Replaces each head's map by a weighted sum of all heads' maps, plus a constant: (B, H, N, M) -> (B, H, N, M)."""
    batch, heads, rows, columns = maps.shape
    mixed = torch.baddbmm(
        bias.to(maps.dtype).view(1, heads, 1),
        weight.to(maps.dtype).expand(batch, heads, heads),
        maps.reshape(batch, heads, rows * columns),
    )
    return mixed.view(batch, heads, rows, columns)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, *mixing: Tensor) -> None:
    if q.ndim != 4 or k.shape != q.shape or v.shape != q.shape:
        raise ValueError(
            "talking_heads_attention needs q, k and v of one shape (batch, heads, tokens, head_dim), "
            f"got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    heads = q.shape[1]
    expected = [(heads, heads), (heads,)] * 2
    if [tuple(t.shape) for t in mixing] != expected:
        raise ValueError(
            f"with {heads} heads, proj_l and proj_w need weights ({heads}, {heads}) and biases ({heads},), "
            f"got {', '.join(str(tuple(t.shape)) for t in mixing)}"
        )
