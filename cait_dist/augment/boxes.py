"""Rectangles as masks."""

from __future__ import annotations

import torch
from torch import Tensor


def inside_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks ``(b, 1, height, width)`` of boxes ``(b, 4)``: top, bottom, left, right."""
    top, bottom, left, right = boxes[:, :, None].unbind(1)
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
