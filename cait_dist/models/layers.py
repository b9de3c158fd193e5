"""The small layers of CaiT, and where precision is kept.

The residual stream of CaiT is a long sum of tiny terms: with LayerScale at 1e-6, a block adds to each token about a
millionth of its branch. bfloat16 has 8 significant bits and would round most of that away, so the stream stays in
float32 or wider whatever the dtype of the parameters, and only branches leave it:

    stream (float32) ─► LayerNorm, in the stream's dtype ─► parameters' dtype ─► linear layers ─► · gamma ─► stream

:class:`StreamNorm` is the way out of the stream; :func:`cait_dist.models.residual.layer_scale_residual` the way back.
A layer reads the dtype of its own parameters only, inside its own ``forward``: tools that fetch a layer's parameters
just before that layer runs then work with the model as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class StreamNorm(nn.LayerNorm):
    """LayerNorm that computes in the dtype of the stream and returns the dtype of the parameters."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each token.

        Args:
            x: (..., d) in the dtype of the residual stream.

        Returns:
            (..., d) in the dtype of the parameters, ready for a linear layer.
        """
        y = F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return y.to(self.weight.dtype)


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
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, d, h, w) -> (B, N, d)


class Mlp(nn.Module):
    """Feed-forward network of a block: d -> hidden -> d with the exact (erf) GELU between.

    Args:
        dim: Token width d.
        hidden: Hidden width.
        drop_rate: Dropout after each of the two layers.
    """

    def __init__(self, dim: int, hidden: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        """Maps each token by itself: (..., d) -> (..., d)."""
        x = F.dropout(F.gelu(self.fc1(x)), self.drop_rate, self.training)  # (..., hidden)
        return F.dropout(self.fc2(x), self.drop_rate, self.training)


def stream_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of the residual stream for a model with parameters like this one: float32 or wider."""
    return torch.promote_types(parameter.dtype, torch.float32)
