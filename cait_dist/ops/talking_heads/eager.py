"""Talking-heads attention as it is defined, differentiated by autograd: the oracle for every other backend.

A mix is written as a batched product W · S with S seen as (H, N·N): the head axis stays where it is, and no
(B, H, N, N) tensor is copied to move it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    qkv: Tensor,
    proj_l_weight: Tensor,
    proj_l_bias: Tensor,
    proj_w_weight: Tensor,
    proj_w_bias: Tensor,
    *,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """Computes :func:`cait_dist.ops.talking_heads_attention` with whole maps; arguments as there."""
    q, k, v = qkv.unbind(0)  # each (B, H, N, d)
    logits = (q * scale) @ k.transpose(-2, -1)  # (B, H, N, N)
    logits = _mix_heads(logits, proj_l_weight, proj_l_bias)
    attn = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(v.dtype)
    attn = _mix_heads(attn, proj_w_weight, proj_w_bias)
    attn = F.dropout(attn, dropout_p, training=True)
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
