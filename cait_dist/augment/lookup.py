"""Operations that send each level of a channel to another: they are tables of 256 entries, applied in one gather.

What a table says may be known beforehand (invert, posterize, solarize, brightness: `fixed` tables, made on the host),
or depend on the image (autocontrast, equalize, contrast: made on the device from its extremes, histogram or mean).
Every table is that of Pillow, level by level: where Pillow truncates, so does this file, in the same precision.

Images are ``(g, 3, H, W)`` uint8 throughout, tables ``(g, 3 or 1, 256)`` uint8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blending import blend, luma

LEVELS = 256


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replace every level by its entry in the table of its image and channel."""
    found = tables.expand(-1, images.shape[1], -1).gather(2, images.flatten(2).long())
    return found.view(images.shape)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel so that its darkest level becomes 0 and its brightest 255; a flat channel stays."""
    flat, levels = images.flatten(2), _levels(images, torch.float64)
    low, high = flat.amin(2, keepdim=True).double(), flat.amax(2, keepdim=True).double()
    scale = torch.full_like(low, 255) / (high - low)  # 255 / x would be 255 times the rounded 1 / x
    stretched = (levels * scale - low * scale).clamp(0, 255)
    return look_up(images, torch.where(high > low, stretched, levels).to(torch.uint8))


def equalize(images: Tensor) -> Tensor:
    """Spread the levels of each channel so that about equally many pixels have each of them."""
    flat, levels = images.flatten(2), _levels(images, torch.int64)
    counts = _histograms(flat)
    brightest = counts.gather(2, flat.amax(2, keepdim=True).long())
    step = (flat.shape[2] - brightest) // 255
    darker = counts.cumsum(2) - counts
    spread = ((step // 2 + darker) // step.clamp(min=1)).clamp(max=255)
    return look_up(images, torch.where(step > 0, spread, levels).to(torch.uint8))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Move levels away from (factor > 1) or towards (factor < 1) the mean brightness; factor is ``(g,)``."""
    gray = luma(images).flatten(1)
    pixels = gray.shape[1]
    mean = (2 * gray.sum(1) + pixels) // (2 * pixels)  # rounds a half up, in integers
    levels = _levels(images, torch.float32)
    return look_up(images, blend(mean[:, None, None], levels, factor[:, None, None]))


def _levels(images: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.arange(LEVELS, dtype=dtype, device=images.device)


def _histograms(flat: Tensor) -> Tensor:
    """Pixels per level: ``(g, 3, HW)`` uint8 to ``(g, 3, 256)`` int64; unlike bincount it never waits for the GPU."""
    images, channels, _ = flat.shape
    first = LEVELS * torch.arange(images * channels, device=flat.device).view(images, channels, 1)
    places = (flat.long() + first).flatten()
    counts = torch.zeros(images * channels * LEVELS, dtype=torch.int64, device=flat.device)
    return counts.scatter_add_(0, places, counts.new_ones(1).expand(places.shape)).view(images, channels, LEVELS)
