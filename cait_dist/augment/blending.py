"""Operations that blend an image with a poorer version of itself: without colour, or smoothed.

Pillow's "enhancers" all compute ``poor + factor * (image - poor)``: a factor below 1 gives some of the poor version, a
factor above 1 goes beyond the image. The result is cut off at 0 and 255 and truncated, not rounded.

Images are ``(g, 3, H, W)`` uint8 throughout, factors ``(g,)``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def blend(poor: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Blend in single precision, as Pillow does, and truncate to uint8."""
    start = poor.float()
    # Not lerp: it fuses the product with the sum, which rounds once where Pillow rounds twice.
    return (start + factor.float() * (images.float() - start)).clamp(0, 255).to(torch.uint8)


def luma(images: Tensor) -> Tensor:
    """Brightness ``(g, H, W)`` int32 by the weights of ITU-R 601, in Pillow's 16-bit fixed point."""
    red, green, blue = images.int().unbind(1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Move colours away from (factor > 1) or towards (factor < 1) grey."""
    return blend(luma(images)[:, None], images, factor[:, None, None, None])


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Sharpen (factor > 1) or smooth (factor < 1)."""
    return blend(_smooth(images), images, factor[:, None, None, None])


def _smooth(images: Tensor) -> Tensor:
    """Pillow's SMOOTH: each pixel counts 5 times, its eight neighbours once; the outermost pixels stay as they are."""
    wide = images.to(torch.int16)
    across = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    around = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]
    inner = around + 4 * wide[..., 1:-1, 1:-1]
    smooth = images.clone()
    # n / 13 is never nearer than 1/26 to a half, so single precision rounds as exact arithmetic would.
    smooth[..., 1:-1, 1:-1] = (inner.float() / 13 + 0.5).to(torch.uint8)
    return smooth
