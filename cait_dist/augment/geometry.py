"""Rotate, shear and translate, as Pillow's bicubic affine transform does.

An output pixel looks up where it comes from: the centre of pixel (x, y) is at (x + 1/2, y + 1/2), an affine map sends
it into the source image. Outside of the source it gets the fill colour. Inside it is interpolated by the cubic through
four neighbours with a = -1 (PyTorch's own samplers have a = -3/4), where neighbours beyond the border repeat
the border. The result is cut off at 0 and 255 and truncated.

Places are computed in double precision, like Pillow's, so both agree on what is outside; the interpolation itself is in
single precision.

Shearing and translating move pixels along one axis only: a row is shifted as a whole. So one gather of shifted rows
gives all four neighbours, as slices of it, where rotating needs sixteen gathers.

Images are ``(g, 3, H, W)`` uint8 throughout, fill is ``(3,)`` uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def slide_rows(images: Tensor, shifts: Tensor, fill: Tensor) -> Tensor:
    """Shift rows: output (x, y) comes from source ``x + slope * (y + 1/2) + offset`` of the same row.

    Args:
        images: see above.
        shifts: ``(g, 2+)`` float64: slope and offset of each image.
        fill: colour from outside.

    Returns:
        As images.
    """
    height, width = images.shape[-2:]
    slope, offset = shifts[:, 0, None, None], shifts[:, 1, None, None]
    moved = slope * _centres(height, images)[:, None]  # (g, H, 1)
    source = _centres(width, images) + moved + offset  # (g, H, W)
    shift = moved + offset
    whole = shift.floor()
    first = torch.arange(-1, width + 2, device=images.device) + whole.long()  # (g, H, W + 3): one window per row
    places = first.clamp_(0, width - 1)[:, None].expand(-1, images.shape[1], -1, -1)
    window = images.gather(3, places).float()
    inside = ((source >= 0) & (source < width))[:, None]
    taps = [window[..., i : i + width] for i in range(4)]
    return _within(inside, _cubic(taps, (shift - whole).float()[:, None]), fill)


def slide_columns(images: Tensor, shifts: Tensor, fill: Tensor) -> Tensor:
    """Shift columns: like `slide_rows` with the axes exchanged."""
    return slide_rows(images.mT, shifts, fill).mT


def rotate(images: Tensor, matrices: Tensor, fill: Tensor) -> Tensor:
    """Sample each image through an affine map.

    Args:
        images: see above.
        matrices: ``(g, 6)`` float64: output (x, y) comes from source (a x + b y + c, d x + e y + f).
        fill: colour from outside.

    Returns:
        As images.
    """
    height, width = images.shape[-2:]
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(1)
    x, y = _centres(width, images), _centres(height, images)[:, None]
    from_x, from_y = a * x + b * y + c, d * x + e * y + f  # (g, H, W)
    inside = ((from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height))[:, None]
    column, across = _split(from_x)
    row, down = _split(from_y)
    columns = [(column + i).clamp_(0, width - 1) for i in range(-1, 3)]
    flat = images.flatten(2)
    lines = []
    for i in range(-1, 3):
        start = (row + i).clamp_(0, height - 1) * width
        lines.append(_cubic([_pick(flat, start + place) for place in columns], across))
    return _within(inside, _cubic(lines, down), fill)


def _centres(count: int, images: Tensor) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device=images.device) + 0.5


def _split(source: Tensor) -> tuple[Tensor, Tensor]:
    """The pixel whose centre comes before a place, ``(g, H, W)`` int64, and how far it is past it, ``(g, 1, H, W)``."""
    place = source - 0.5
    before = place.floor()
    return before.long(), (place - before).float()[:, None]


def _pick(flat: Tensor, places: Tensor) -> Tensor:
    """Pixels ``(g, 3, H, W)`` float32 of ``(g, 3, HW)`` at places ``(g, H, W)``."""
    index = places.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).view(*flat.shape[:2], *places.shape[1:]).float()


def _cubic(taps: Sequence[Tensor], t: Tensor) -> Tensor:
    """From the second of four neighbours (t = 0) to the third (t = 1), as a polynomial in t.

    In this form, unlike as a weighted sum, equal neighbours give exactly their own value.
    """
    p, q, r, s = taps
    falling, slope = p - q, r - p
    third = (s - r).sub_(falling)
    second = falling.sub_(third)
    # In place, because a group of large images is bound by memory.
    return third.mul_(t).add_(second).mul_(t).add_(slope).mul_(t).add_(q)


def _within(inside: Tensor, values: Tensor, fill: Tensor) -> Tensor:
    return torch.where(inside, values.clamp_(0, 255).to(torch.uint8), fill[:, None, None])
