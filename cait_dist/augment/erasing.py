"""Random erasing (Zhong et al. 2017) by timm's law, mode "pixel": a rectangle of the normalised image becomes noise.

The rectangle's area (evenly distributed) and its height over width (log-evenly) are drawn up to ten times, until it is
smaller than the image both ways; its place is evenly distributed. Every pixel and channel in it becomes Normal(0, 1).

The noise needs no generator: a pixel's is a hash of the sample's key and the pixel's number, the hash of
`cait_dist.data.randomness` in PyTorch's integers, which wrap around. Three times 16 bits of a hash choose three of the
65,536 quantiles in the middle of equal shares of the normal distribution. So there is no rounding that could differ:
the noise has the same bits on every device, and however the stream is cut.

Decisions are taken on the host (`erase_plan`), carried out on the device (`erase_batch`), which is never waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .boxes import inside_boxes
from .operations import Floats

_ATTEMPTS = 10
ERASE_DRAWS = 4 + 2 * _ATTEMPTS

_WRAP = 1 << 64
_GOLDEN, _MULTIPLY_1, _MULTIPLY_2 = (
    word - _WRAP for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_QUANTILES = 1 << 16


class EraseSettings(Protocol):
    """What erasing needs to know; `cait_dist.config.augment.AugmentConfig` has it."""

    @property
    def erase_probability(self) -> float:
        """Share of samples in which a rectangle is erased."""

    @property
    def erase_area(self) -> tuple[float, float]:
        """Least and largest area over that of the image."""

    @property
    def erase_ratio(self) -> tuple[float, float]:
        """Least and largest height over width."""


@dataclass(frozen=True)
class ErasePlan:
    """What is to be erased.

    Attributes:
        rows: ``(e,)`` int64, places in the batch of the samples that lose something.
        boxes: ``(e, 4)`` int64: top, bottom, left, right.
        keys: ``(e,)`` int64, of the noise.
    """

    rows: Tensor
    boxes: Tensor
    keys: Tensor


def erase_plan(uniforms: Floats, augment: EraseSettings, height: int, width: int) -> ErasePlan | None:
    """Decide what is erased from the samples of a micro-batch.

    Args:
        uniforms: ``(b, ERASE_DRAWS)`` in [0, 1).
        augment: probability and bounds.
        height: of the images.
        width: of the images.

    Returns:
        The plan, or None if nothing is erased.
    """
    erased, down, right, key = uniforms[:, :4].T
    boxes, fits = _boxes(uniforms[:, 4:].reshape(len(uniforms), _ATTEMPTS, 2), down, right, augment, height, width)
    rows = np.flatnonzero((erased < augment.erase_probability) & fits)
    if not len(rows):
        return None
    keys = (key[rows] * 2.0**53).astype(np.int64)
    return ErasePlan(torch.from_numpy(rows), torch.from_numpy(boxes[rows]), torch.from_numpy(keys))


def _boxes(
    attempts: Floats, down: Floats, right: Floats, augment: EraseSettings, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles ``(b, 4)`` of the first attempts that fit, and whether one did ``(b,)``."""
    low, high = augment.erase_area
    area = (low + attempts[..., 0] * (high - low)) * height * width
    flattest, tallest = np.log(augment.erase_ratio)
    ratio = np.exp(flattest + attempts[..., 1] * (tallest - flattest))
    sides = np.rint(np.sqrt(np.stack((area * ratio, area / ratio), axis=-1))).astype(np.int64)  # (b, attempts, 2)
    fit = (sides < (height, width)).all(axis=-1)
    side = np.take_along_axis(sides, fit.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    start = (np.stack((down, right), axis=1) * ((height, width) - side + 1)).astype(np.int64)
    end = start + side
    return np.stack((start[:, 0], end[:, 0], start[:, 1], end[:, 1]), axis=1), fit.any(axis=1)


def erase_batch(images: Tensor, plan: ErasePlan | None) -> Tensor:
    """Carry out a plan.

    Args:
        images: ``(b, 3, H, W)``, normalised; overwritten.
        plan: from `erase_plan`; None if nothing is erased.

    Returns:
        The images.
    """
    if plan is None:
        return images
    height, width = images.shape[-2:]
    rows, boxes, keys = (part.to(images.device, non_blocking=True) for part in (plan.rows, plan.boxes, plan.keys))
    noise = normal_noise(keys, height * width).view(-1, 3, height, width).to(images.dtype)
    chosen = torch.where(inside_boxes(boxes, height, width), noise, images.index_select(0, rows))
    return images.index_copy_(0, rows, chosen)


def normal_noise(keys: Tensor, pixels: int) -> Tensor:
    """Noise ``(e, 3, pixels)`` float32, Normal(0, 1), that belongs to keys ``(e,)`` int64."""
    columns = _mix64(torch.arange(1, pixels + 1, device=keys.device) * _GOLDEN)
    bits = _mix64((keys[:, None] ^ columns) + _GOLDEN)
    shares = torch.stack([bits >> 16 * channel & _QUANTILES - 1 for channel in range(3)], dim=1)
    return _quantiles(keys.device)[shares]


def _mix64(words: Tensor) -> Tensor:
    """`cait_dist.data.randomness.mix64` on signed words; the masks take away the copies of the sign that >> brings."""
    words = (words ^ (words >> 30 & (1 << 34) - 1)) * _MULTIPLY_1
    words = (words ^ (words >> 27 & (1 << 37) - 1)) * _MULTIPLY_2
    return words ^ (words >> 31 & (1 << 33) - 1)


@lru_cache(maxsize=8)
def _quantiles(device: torch.device) -> Tensor:
    shares = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    return torch.special.ndtri(shares).float().to(device, non_blocking=True)
