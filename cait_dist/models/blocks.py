"""The two kinds of block: self-attention among the tokens, and class attention from one token to the others.

Each is two residual branches, attention and feed-forward network; how a branch is added is the block's affair and comes
from the architecture alone. Scales are parameters of the block (``gamma_1`` and ``gamma_2``, or ``alpha_1`` and
``alpha_2``), after all its layers, as in published weights.
"""

import torch
from torch import Tensor, nn

from .architecture import Architecture
from .attention import ClassAttention, SelfAttention
from .layers import Mlp, StreamNorm
from .residual import add_branch

_SCALES = {"channel": "gamma", "scalar": "alpha"}


class _ResidualBlock(nn.Module):
    """Makes what surrounds the layers of a branch."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self._branch = arch.branch

    def _add_scales(self, arch: Architecture, *numbers: int) -> None:
        size = arch.embed_dim if self._branch.scale == "channel" else 1
        for number in numbers if self._branch.scale != "none" else ():
            scale = nn.Parameter(torch.full((size,), arch.branch_start))
            self.register_parameter(f"{_SCALES[self._branch.scale]}_{number}", scale)

    def _scale(self, number: int) -> Tensor | None:
        return None if self._branch.scale == "none" else getattr(self, f"{_SCALES[self._branch.scale]}_{number}")


class SelfAttentionBlock(_ResidualBlock):
    """Self-attention among the tokens, then a feed-forward network: with LayerScale and talking heads, CaiT's."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        dim, shifted = arch.embed_dim, arch.branch.has_shifts
        self.drop_path_rate = arch.drop_path_rate
        self.norm1 = make_norm(arch)
        self.attn = SelfAttention(
            dim,
            arch.num_heads,
            talking_heads=arch.talking_heads,
            attn_drop_rate=arch.attn_drop_rate,
            drop_rate=arch.drop_rate,
            shifted=shifted,
        )
        self.norm2 = make_norm(arch)
        self.mlp = Mlp(dim, arch.mlp_hidden, arch.drop_rate, shifted=shifted)
        self._add_scales(arch, 1, 2)

    def forward(self, x: Tensor, keep_attn: Tensor | None = None, keep_mlp: Tensor | None = None) -> Tensor:
        """Updates the tokens.

        Args:
            x: Tokens (B, N, d), the residual stream: float32 or wider.
            keep_attn: (B,) bool, which samples run the attention branch; None runs it for all.
            keep_mlp: (B,) bool, which samples run the feed-forward branch; None runs it for all.

        Returns:
            (B, N, d) in the dtype of ``x``.
        """
        x = add_branch(x, self.attention_branch, self._scale(1), keep_attn, self.drop_path_rate)
        return add_branch(x, self.feed_forward_branch, self._scale(2), keep_mlp, self.drop_path_rate)

    def attention_branch(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Tokens (K, N, d) of the stream -> (K, N, d), for any number of samples, times the scale."""
        return self.attn(self.norm1(x), scale=scale)

    def feed_forward_branch(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Tokens (K, N, d) of the stream -> (K, N, d), for any number of samples, times the scale."""
        return self.mlp(self.norm2(x), scale=scale)


class ClassAttentionBlock(_ResidualBlock):
    """The class token reads the patches, then goes through a feed-forward network; the patches stay as they are.

    Dropout and stochastic depth never act here, whatever the rates of the model, as in the code of the authors.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        dim, shifted = arch.embed_dim, arch.branch.has_shifts
        self.has_mlp = arch.class_attention_mlp
        self.norm1 = make_norm(arch)
        self.attn = ClassAttention(dim, arch.num_heads, shifted=shifted)
        if self.has_mlp:
            self.norm2 = make_norm(arch)
            self.mlp = Mlp(dim, arch.mlp_hidden, shifted=shifted)
        self._add_scales(arch, *((1, 2) if self.has_mlp else (1,)))

    def forward(self, patches: Tensor, cls: Tensor) -> Tensor:
        """Updates the class token.

        Args:
            patches: Patch tokens (B, N, d) as the self-attention stage left them.
            cls: Class token (B, 1, d), the residual stream of this stage: float32 or wider.

        Returns:
            The class token (B, 1, d).
        """

        def attend(cls: Tensor, scale: Tensor | None) -> Tensor:
            return self.attn(self.norm1(torch.cat((cls, patches), dim=1)), scale=scale)

        cls = add_branch(cls, attend, self._scale(1), None, 0.0)
        if not self.has_mlp:
            return cls
        return add_branch(cls, lambda c, scale: self.mlp(self.norm2(c), scale=scale), self._scale(2), None, 0.0)


def make_norm(arch: Architecture) -> nn.Module:
    """The way out of the stream: a norm, or nothing where the architecture has none."""
    return StreamNorm(arch.embed_dim) if arch.branch.norm else nn.Identity()
