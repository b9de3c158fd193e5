"""The two attentions of CaiT: among patches, and from the class token to everything (class attention).

CaiT splits what ViT does at once. In the first stage the patches attend to each other and there is no class token; in
the second the patches are frozen and a class token gathers from them what the classifier needs. "Going deeper with
Image Transformers" (arXiv 2103.17239), section 3 for class attention and section 4 for talking heads.

Both modules take tokens that are already normalised and return a plain tensor: the residual and stochastic depth are
the block's affair, so either call can be wrapped (for activation checkpointing, say) from outside. LayerScale is handed
in, for the projection to multiply into its weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cait_dist.ops import choose_backend, scale_outside, talking_heads_attention

from .architecture import Architecture
from .layers import linear_type, narrow


class SelfAttention(nn.Module):
    """Self-attention over all tokens of the first stage, with heads mixed before and after the softmax, or kept apart.

    Args:
        dim: Token width d; a multiple of ``num_heads``.
        num_heads: Heads H, each d / H wide.
        talking_heads: Whether heads are mixed; without, there are no ``proj_l`` and ``proj_w``.
        attn_drop_rate: Dropout on the (mixed) attention map.
        drop_rate: Dropout on the output.
        shifted: Whether a scalar bias stands before both linear layers.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        talking_heads: bool = True,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        shifted: bool = False,
    ) -> None:
        super().__init__()
        linear = linear_type(shifted=shifted)
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.talking_heads = talking_heads
        self.attn_drop_rate = attn_drop_rate
        self.drop_rate = drop_rate
        self.qkv = linear(dim, 3 * dim)
        if talking_heads:
            self.proj_l = nn.Linear(num_heads, num_heads)
            self.proj_w = nn.Linear(num_heads, num_heads)
        self.proj = linear(dim, dim)

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Tensor:
        """Lets every token attend to every token.

        Args:
            x: Tokens (B, N, d), normalised into the dtype of the parameters, or as the stream has them.
            scale: What multiplies the output, (d,) or (1,); None for 1.

        Returns:
            (B, N, d).
        """
        batch, tokens, dim = x.shape
        qkv = self.qkv(narrow(x, self.qkv))
        qkv = qkv.view(batch, tokens, 3, self.num_heads, -1)  # the 3d outputs are [q | k | v], each by head
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B, H, N, d/H), no copy
        y = self.attend(qkv)
        y = y.transpose(1, 2).reshape(batch, tokens, dim)
        if self.training and self.drop_rate:  # stands between the projection and its scale
            return scale_outside(F.dropout(self.proj(y), self.drop_rate, self.training), scale)
        return self.proj(y, scale=scale)

    def attend(self, qkv: Tensor) -> Tensor:
        """What lies between the two linear layers: queries, keys and values (3, B, H, N, d) -> (B, H, N, d)."""
        if not self.talking_heads:
            q, k, v = qkv.unbind(0)
            return F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop_rate if self.training else 0.0)
        return talking_heads_attention(
            qkv,
            self.proj_l.weight,
            self.proj_l.bias,
            self.proj_w.weight,
            self.proj_w.bias,
            scale=self.scale,
            dropout_p=self.attn_drop_rate,
            training=self.training,
        )


class ClassAttention(nn.Module):
    """Attention with a single query, the class token, over the class token and all patches.

    Its cost is linear in the number of patches. There is no head mixing, and by design no dropout of any kind in this
    stage, whatever the rates of the model.

    Args:
        dim: Token width d; a multiple of ``num_heads``.
        num_heads: Heads H, each d / H wide.
        shifted: Whether a scalar bias stands before each linear layer.
    """

    def __init__(self, dim: int, num_heads: int, *, shifted: bool = False) -> None:
        super().__init__()
        linear = linear_type(shifted=shifted)
        self.num_heads = num_heads
        self.q = linear(dim, dim)
        self.k = linear(dim, dim)
        self.v = linear(dim, dim)
        self.proj = linear(dim, dim)

    def forward(self, u: Tensor, *, scale: Tensor | None = None) -> Tensor:
        """Gathers information for the class token.

        Args:
            u: Tokens (B, 1 + N, d), the class token first, normalised or as the stream has them.
            scale: What multiplies the output, (d,) or (1,); None for 1.

        Returns:
            (B, 1, d), the update of the class token.
        """
        u = narrow(u, self.q)
        q = self._split_heads(self.q(u[:, :1]))  # (B, H, 1, d/H)
        k = self._split_heads(self.k(u))  # (B, H, 1 + N, d/H)
        v = self._split_heads(self.v(u))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2), scale=scale)

    def _split_heads(self, x: torch.Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def attention_backend(arch: Architecture, device: torch.device, dtype: torch.dtype) -> str:
    """Says which backend the self-attention of a network runs with in training.

    Args:
        arch: Its shape.
        device: Where it is.
        dtype: That of the matrix products.

    Returns:
        One of :func:`cait_dist.ops.available_backends`, or ``plain`` where heads are not mixed.
    """
    if not arch.talking_heads:
        return "plain"
    tokens = arch.num_patches + int(arch.class_token in ("from_start", "inserted"))
    return choose_backend(device, dtype, heads=arch.num_heads, tokens=tokens)
