"""Cropping, flipping and resizing of single images, on the reader's side.

The random crop follows the law of Szegedy et al. 2015 as torchvision and timm implement it, except that it takes its
random numbers as an argument: see `randomness` for why. Resizing is an antialiased bicubic filter, which averages over
all source pixels that a target pixel covers; libraries that skip this give different pixels and measurably different
accuracies. Evaluation uses Pillow's own, to the bit what published accuracies are measured with. Training uses torch's
vectorised form of the same filter, which takes less than a third of the time and differs in the last bits of few
pixels (`tests/unit/data/test_data_crop.py` holds how many).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from .decode import Pixels, decode_rgb
from .randomness import Stream, uniform

_TRIES = 10
CROP_DRAWS = 2 * _TRIES + 2
FLIP_DRAWS = 1
Uniforms = npt.NDArray[np.float64]


class CropSettings(Protocol):
    """What a training view needs to know; `cait_dist.config.augment.AugmentConfig` has it."""

    @property
    def crop_scale(self) -> tuple[float, float]:
        """Range of the crop's area over the image's."""

    @property
    def crop_ratio(self) -> tuple[float, float]:
        """Range of the crop's width over its height."""

    @property
    def hflip(self) -> float:
        """Probability of a horizontal flip."""


class Box(NamedTuple):
    """A rectangle of pixels."""

    left: int
    top: int
    width: int
    height: int


def view_uniforms(seed: int, positions: npt.NDArray[np.int64]) -> Uniforms:
    """The random numbers of the training views at some positions of the stream.

    Returns:
        ``(len(positions), CROP_DRAWS + FLIP_DRAWS)``.
    """
    crop = uniform(seed, Stream.CROP, positions, CROP_DRAWS)
    return np.concatenate((crop, uniform(seed, Stream.FLIP, positions, FLIP_DRAWS)), axis=1)


def random_resized_crop_box(
    width: int,
    height: int,
    uniforms: Sequence[float] | Uniforms,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Choose the box of a random resized crop.

    Up to ten times, an area (uniform) and an aspect ratio (log-uniform) are drawn until the box fits into the image;
    failing that, the largest central box whose ratio is allowed is taken.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        uniforms: `CROP_DRAWS` numbers in [0, 1).
        scale: range of the box's area over the image's.
        ratio: range of the box's width over its height.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(_TRIES):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * uniforms[2 * attempt])
        aspect = math.exp(log_low + (log_high - log_low) * uniforms[2 * attempt + 1])
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(uniforms[2 * _TRIES] * (width - box_width + 1))
            top = int(uniforms[2 * _TRIES + 1] * (height - box_height + 1))
            return Box(left, top, box_width, box_height)
    return _central_box(width, height, ratio)


def _central_box(width: int, height: int, ratio: tuple[float, float]) -> Box:
    box_width, box_height = width, height
    if width / height < ratio[0]:
        box_height = min(max(round(width / ratio[0]), 1), height)
    elif width / height > ratio[1]:
        box_width = min(max(round(height * ratio[1]), 1), width)
    return Box((width - box_width) // 2, (height - box_height) // 2, box_width, box_height)


def train_view(
    image: bytes | Pixels, image_size: int, uniforms: Uniforms, augment: CropSettings, out: Tensor | None = None
) -> Tensor:
    """Show a random part of an image.

    Args:
        image: an image file's content, or pixels ``(height, width, 3)``.
        image_size: side of the result in pixels.
        uniforms: one row of `view_uniforms`.
        augment: ranges of the crop and probability of the flip.
        out: where to put the result, if it has a place already.

    Returns:
        ``(3, image_size, image_size)`` uint8, the channel being the innermost dimension in memory.

    Raises:
        CorruptImageError: if the image cannot be decoded.
    """
    pixels = decode_rgb(image) if isinstance(image, bytes) else image
    out = torch.empty((image_size, image_size, 3), dtype=torch.uint8).permute(2, 0, 1) if out is None else out
    height, width, _ = pixels.shape
    box = random_resized_crop_box(width, height, uniforms[:CROP_DRAWS], augment.crop_scale, augment.crop_ratio)
    # Cut first, then resize: a filter that is given a box would let pixels from outside of it bleed in. The copy is
    # worth it: torch's vectorised filter takes contiguous pixels only.
    part = np.ascontiguousarray(pixels[box.top : box.top + box.height, box.left : box.left + box.width])
    view = torch.from_numpy(part).permute(2, 0, 1)[None]
    # The filter is symmetric to the bit, so the flip may come first, where there are usually fewer pixels.
    view = view.flip(3) if uniforms[CROP_DRAWS] < augment.hflip else view
    _resize_into(out[None], view)
    return out


def _resize_into(out: Tensor, view: Tensor) -> None:
    if view.shape == out.shape:
        out.copy_(view)
    else:
        # What `F.interpolate` calls. That cannot write to a given place, and returns channels apart from each other:
        # taking them apart and putting them together again takes longer than the filter.
        torch.ops.aten._upsample_bicubic2d_aa.out(view, out.shape[2:], False, None, None, out=out)


def eval_view(image: bytes | Pixels, image_size: int, crop_ratio: float) -> Tensor:
    """Show the centre of an image, as published accuracies are measured.

    The short side is resized to ``image_size / crop_ratio`` (rounded down), then the central square is taken.

    Args:
        image: an image file's content, or pixels ``(height, width, 3)``.
        image_size: side of the result in pixels.
        crop_ratio: side of the square over the short side, at most 1.

    Returns:
        ``(3, image_size, image_size)`` uint8, the channel being the innermost dimension in memory.

    Raises:
        CorruptImageError: if the image cannot be decoded.
    """
    pixels = decode_rgb(image) if isinstance(image, bytes) else image
    height, width, _ = pixels.shape
    short = math.floor(image_size / crop_ratio)
    # The long side is rounded down and the corner to the nearest even number: torchvision's habits.
    new_width, new_height = (
        (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    )
    resized = _resize(pixels, new_width, new_height)
    top, left = round((new_height - image_size) / 2), round((new_width - image_size) / 2)
    view = np.array(resized[top : top + image_size, left : left + image_size])
    return torch.from_numpy(view).permute(2, 0, 1)


def _resize(pixels: Pixels, width: int, height: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
