"""The small layers of CaiT, and where precision is kept.

The residual stream of CaiT is a long sum of tiny terms: with LayerScale at 1e-6, a block adds to each token about a
millionth of its branch. bfloat16 has 8 significant bits and would round most of that away, so the stream stays in
float32 or wider whatever the dtype of the parameters, and only branches leave it:

    stream (float32) ─► LayerNorm, in the stream's dtype ─► products' dtype ─► linear layers, · gamma ─► stream

:class:`StreamNorm` is the way out of the stream, or :func:`narrow` where a variant has no norm;
:func:`cait_dist.models.residual.add_branch` is the way back. A layer reads the dtype of its own parameters only, inside
its own ``forward``: tools that fetch a layer's parameters just before that layer runs then work with the model as it
is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cait_dist.ops import product_dtype, scale_outside, scaled_linear

NORM_EPS = 1e-6


class StreamNorm(nn.LayerNorm):
    """LayerNorm that computes in the dtype of the stream and returns that of matrix products."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each token.

        Args:
            x: (..., d) in the dtype of the residual stream.

        Returns:
            (..., d) in the dtype of the parameters, or that of autocast: ready for a linear layer.
        """
        y = F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return y.to(product_dtype(self.weight))


def narrow(x: Tensor, layer: nn.Linear) -> Tensor:
    """Tokens in the dtype of the layer that takes them: those that come from a norm are in that of its products."""
    return x if x.dtype == product_dtype(layer.weight) else x.to(layer.weight.dtype)


class BranchLinear(nn.Linear):
    """A linear layer of a residual branch, which computes with it what stands around: GELU before, a scale behind.

    Attributes:
        float8: Whether it trains with products of 8 bits; what is evaluated never has them.
    """

    float8 = False

    def forward(self, x: Tensor, *, scale: Tensor | None = None, gelu: bool = False) -> Tensor:
        """Maps (..., in_features) to (..., out_features).

        Args:
            x: Its input, or that of GELU.
            scale: What multiplies the output, (out_features,) or (1,); None for 1.
            gelu: Whether the exact GELU stands before the layer.
        """
        return scaled_linear(x, self.weight, self.bias, scale, gelu=gelu, float8=self.float8 and self.training)


class ShiftedLinear(BranchLinear):
    """A linear layer behind a scalar bias, as Fixup has them: W (x + shift) + b."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, *, scale: Tensor | None = None, gelu: bool = False) -> Tensor:
        """Maps (..., in_features) to (..., out_features); the shift stands behind GELU, which is kept therefore."""
        return super().forward((F.gelu(x) if gelu else x) + self.shift, scale=scale)


class _PatchProjection(nn.Conv2d):
    """A convolution that takes images of any floating dtype."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.to(self.weight.dtype))


class PatchEmbed(nn.Module):
    """Cuts the image into squares and maps each to a token of width d.

    Args:
        image_size: Height and width of the input, in pixels.
        patch_size: Height and width of a patch, in pixels.
        in_chans: Channels of the input.
        dim: Token width d.
    """

    def __init__(self, image_size: int, patch_size: int, in_chans: int, dim: int) -> None:
        super().__init__()
        self.image_shape = (in_chans, image_size, image_size)
        self.proj = _PatchProjection(in_chans, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds a batch, patches in reading order.

        Args:
            images: (B, in_chans, image_size, image_size), any floating dtype.

        Returns:
            (B, N, d) in the dtype of the parameters (or that of autocast).

        Raises:
            ValueError: If the images are not of the size the position embedding was made for.
        """
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"this model takes images of shape (batch, {', '.join(map(str, self.image_shape))}), got "
                f"{tuple(images.shape)}; resize them, or build the model with another image_size or in_chans"
            )
        tokens = self.proj(images).flatten(2).transpose(1, 2)  # (B, d, h, w) -> (B, N, d)
        return tokens.contiguous()  # the stream keeps the layout it begins with, and every norm would copy it


class Mlp(nn.Module):
    """Feed-forward network of a block: d -> hidden -> d with the exact (erf) GELU between.

    Args:
        dim: Token width d.
        hidden: Hidden width.
        drop_rate: Dropout after each of the two layers.
        shifted: Whether a scalar bias stands before both layers and the GELU.
    """

    def __init__(self, dim: int, hidden: int, drop_rate: float = 0.0, *, shifted: bool = False) -> None:
        super().__init__()
        linear = linear_type(shifted=shifted)
        self.fc1 = linear(dim, hidden)
        self.fc2 = linear(hidden, dim)
        self.act_shift = nn.Parameter(torch.zeros(1)) if shifted else None
        self.drop_rate = drop_rate

    def forward(self, x: Tensor, *, scale: Tensor | None = None) -> Tensor:
        """Maps each token by itself, (..., d) -> (..., d), times a scale (d,) or (1,) if there is one."""
        x = self.fc1(narrow(x, self.fc1))  # (..., hidden)
        x = x if self.act_shift is None else x + self.act_shift
        if self.training and self.drop_rate:  # stands between GELU and its layer, and between that and the scale
            x = F.dropout(F.gelu(x), self.drop_rate, self.training)
            return scale_outside(F.dropout(self.fc2(x), self.drop_rate, self.training), scale)
        return self.fc2(x, scale=scale, gelu=True)


def linear_type(*, shifted: bool) -> type[BranchLinear]:
    """The kind of linear layer a branch consists of."""
    return ShiftedLinear if shifted else BranchLinear


def stream_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of the residual stream for a model with parameters like this one: float32 or wider."""
    return torch.promote_types(parameter.dtype, torch.float32)
