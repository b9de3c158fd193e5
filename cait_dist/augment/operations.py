"""Carry out operations on images, each image its own, in groups.

A *plan* is a sequence of layers; in a layer each image undergoes at most one operation. Samples that undergo the same
kind of operation are worked off together, each with its own arguments; the others are not touched, so what is not
applied costs nothing. The host decides and makes the lists of samples; the device never has to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import blending, geometry, lookup

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


class Kind(Enum):
    """What can be done to a group of images in one go."""

    TABLE = auto()
    AUTOCONTRAST = auto()
    EQUALIZE = auto()
    CONTRAST = auto()
    COLOR = auto()
    SHARPNESS = auto()
    SLIDE_ROWS = auto()
    SLIDE_COLUMNS = auto()
    ROTATE = auto()


@dataclass(frozen=True)
class Group:
    """Samples that undergo the same kind of operation.

    Attributes:
        kind: of operation.
        rows: ``(g,)`` int64, their places in the batch.
        arguments: ``(g, 256)`` uint8 tables for `Kind.TABLE`, else ``(g, 6)`` float64, of which a kind uses the first
            few.
    """

    kind: Kind
    rows: Tensor
    arguments: Tensor


Layer: TypeAlias = tuple[Group, ...]

_CARRY_OUT: Mapping[Kind, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    Kind.TABLE: lambda images, tables, _: lookup.look_up(images, tables[:, None]),
    Kind.AUTOCONTRAST: lambda images, *_: lookup.autocontrast(images),
    Kind.EQUALIZE: lambda images, *_: lookup.equalize(images),
    Kind.CONTRAST: lambda images, factors, _: lookup.contrast(images, factors[:, 0]),
    Kind.COLOR: lambda images, factors, _: blending.color(images, factors[:, 0]),
    Kind.SHARPNESS: lambda images, factors, _: blending.sharpness(images, factors[:, 0]),
    Kind.SLIDE_ROWS: geometry.slide_rows,
    Kind.SLIDE_COLUMNS: geometry.slide_columns,
    Kind.ROTATE: geometry.rotate,
}


def apply_operations(images: Tensor, plan: Sequence[Layer], fill: Tensor) -> Tensor:
    """Carry out a plan.

    Args:
        images: ``(b, 3, H, W)`` uint8 of any memory layout; not changed.
        plan: on the host or on the images' device.
        fill: ``(3,)`` uint8 on the images' device, the colour of what comes into view from outside.

    Returns:
        The same shape, type and layout; the images themselves if there is nothing to do.
    """
    if not any(plan):
        return images
    changed = images.clone()
    for layer in to_device(plan, images.device):
        for group in layer:
            chosen = changed.index_select(0, group.rows).contiguous()
            changed.index_copy_(0, group.rows, _CARRY_OUT[group.kind](chosen, group.arguments, fill))
    return changed


def to_device(plan: Sequence[Layer], device: torch.device | str) -> list[Layer]:
    """The same plan on a device, in three transfers however many groups it has, without waiting for them."""
    groups = [group for layer in plan for group in layer]
    tables = [group for group in groups if group.kind is Kind.TABLE]
    others = [group for group in groups if group.kind is not Kind.TABLE]
    rows = iter(_moved([group.rows for group in groups], device))
    arguments = {
        id(group): moved
        for some in (tables, others)
        for group, moved in zip(some, _moved([group.arguments for group in some], device), strict=True)
    }
    return [tuple(replace(group, rows=next(rows), arguments=arguments[id(group)]) for group in layer) for layer in plan]


def _moved(pieces: Sequence[Tensor], device: torch.device | str) -> Sequence[Tensor]:
    if not pieces:
        return ()
    return torch.cat(list(pieces)).to(device, non_blocking=True).split([len(piece) for piece in pieces])


def enhance_arguments(factors: Floats) -> Floats:
    """Arguments ``(g, 6)`` of an operation that has one number per sample."""
    return np.pad(factors[:, None], ((0, 0), (0, 5)))


def brightness_tables(factors: Floats) -> npt.NDArray[np.uint8]:
    """Tables ``(g, 256)`` that multiply every level, in single precision, as Pillow does."""
    levels = np.arange(lookup.LEVELS, dtype=np.float32)
    return np.clip(factors.astype(np.float32)[:, None] * levels, 0, 255).astype(np.uint8)


def make_layer(parts: Sequence[tuple[Kind, Ints, npt.NDArray[np.float64] | npt.NDArray[np.uint8]]]) -> Layer:
    """Put parts (kind, rows, arguments) of the same kind into one group; parts without rows fall away."""
    layer = []
    for kind in Kind:
        rows = [rows for of, rows, _ in parts if of is kind and len(rows)]
        arguments = [arguments for of, rows, arguments in parts if of is kind and len(rows)]
        if rows:
            together = np.concatenate(rows), np.concatenate(arguments)
            layer.append(Group(kind, *(torch.from_numpy(np.ascontiguousarray(array)) for array in together)))
    return tuple(layer)
