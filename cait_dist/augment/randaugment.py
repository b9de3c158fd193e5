"""RandAugment (Cubuk et al. 2019) by timm's law: ``rand-m9-mstd0.5-inc1``, which DeiT and CaiT were trained with.

For each image and layer, one of fifteen operations is drawn, all alike, with replacement; it is then applied with
probability 1/2. Its strength is a magnitude, Normal(9, 0.5), cut off to [0, 10]; where an operation has two directions
(rotate left or right, brighter or darker, …), a coin decides. "inc1" stands for operations that grow stronger with
the magnitude.

One edge: magnitude 10, to which 2.3 % of the draws are cut off, posterizes to 0 bits. Pillow made the image black when
the paper was trained; recent versions raise an error (Pillow 13 with timm 1.0.31 stops the training). Here it is black.

This file decides, on the host (`rand_augment_plan`); `operations` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from .operations import Floats, Kind, Layer, brightness_tables, enhance_arguments, make_layer

DRAWS_PER_LAYER = 4
_STRONGEST = 10.0
_LEVELS = np.arange(256)


class RandAugmentSettings(Protocol):
    """What RandAugment needs to know; `cait_dist.config.augment.AugmentConfig` has it."""

    @property
    def rand_layers(self) -> int:
        """Operations drawn for each image, one after the other."""

    @property
    def rand_magnitude(self) -> float:
        """Mean strength, from 0 to 10."""

    @property
    def rand_std(self) -> float:
        """Standard deviation of the strength."""

    @property
    def rand_probability(self) -> float:
        """Probability that a drawn operation is applied."""


Arguments = Floats | npt.NDArray[np.uint8]
Level = Callable[[Floats, Floats, int, int], Arguments]
"""From strengths in [0, 1] and signs, each ``(g,)``, and the images' height and width, to arguments."""


def _nothing(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    return np.zeros((len(level), 6))


def _factor(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    return enhance_arguments(_enhancement(level, sign))


def _enhancement(level: Floats, sign: Floats) -> Floats:
    return np.maximum(0.1, 1 + sign * (level * 0.9))


def _brightness(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    return brightness_tables(_enhancement(level, sign))


def _invert(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    return np.broadcast_to(255 - _LEVELS, (len(level), 256)).astype(np.uint8)


def _posterize(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    bits = 4 - (level * 4).astype(np.int64)
    return (_LEVELS & -(1 << 8 - bits)[:, None]).astype(np.uint8)


def _solarize(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    threshold = 256 - np.minimum(256, (level * 256).astype(np.int64))
    return np.where(threshold[:, None] > _LEVELS, _LEVELS, 255 - _LEVELS).astype(np.uint8)


def _solarize_add(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    added = _LEVELS + np.minimum(128, (level * 110).astype(np.int64))[:, None]
    return np.where(_LEVELS < 128, np.minimum(added, 255), _LEVELS).astype(np.uint8)


def _shear(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    return enhance_arguments(sign * (level * 0.3))


def _translate_x(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    return np.pad((sign * (level * 0.45) * width)[:, None], ((0, 0), (1, 4)))


def _translate_y(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    return _translate_x(level, sign, width, height)


def _rotate(level: Floats, sign: Floats, height: int, width: int) -> Arguments:
    angle = -np.radians(sign * (level * 30) % 360)
    cos, sin = np.round(np.cos(angle), 15), np.round(np.sin(angle), 15)
    x, y = width / 2, height / 2
    return np.stack((cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y), axis=1)


OPERATIONS: Mapping[str, tuple[Kind, Level]] = {
    "AutoContrast": (Kind.AUTOCONTRAST, _nothing),
    "Equalize": (Kind.EQUALIZE, _nothing),
    "Invert": (Kind.TABLE, _invert),
    "Rotate": (Kind.ROTATE, _rotate),
    "Posterize": (Kind.TABLE, _posterize),
    "Solarize": (Kind.TABLE, _solarize),
    "SolarizeAdd": (Kind.TABLE, _solarize_add),
    "Color": (Kind.COLOR, _factor),
    "Contrast": (Kind.CONTRAST, _factor),
    "Brightness": (Kind.TABLE, _brightness),
    "Sharpness": (Kind.SHARPNESS, _factor),
    "ShearX": (Kind.SLIDE_ROWS, _shear),
    "ShearY": (Kind.SLIDE_COLUMNS, _shear),
    "TranslateX": (Kind.SLIDE_ROWS, _translate_x),
    "TranslateY": (Kind.SLIDE_COLUMNS, _translate_y),
}
"""The fifteen. Their order is part of the contract: changing it changes every run that uses them."""


def rand_augment_plan(uniforms: Floats, augment: RandAugmentSettings, height: int, width: int) -> list[Layer]:
    """Decide what happens to the samples of a micro-batch.

    Args:
        uniforms: ``(b, DRAWS_PER_LAYER * augment.rand_layers)`` in [0, 1).
        augment: layers, strength, probability.
        height: of the images.
        width: of the images.

    Returns:
        One layer of operations after the other.
    """
    layers = uniforms.reshape(len(uniforms), augment.rand_layers, DRAWS_PER_LAYER)
    return [_plan_layer(layers[:, i], augment, height, width) for i in range(augment.rand_layers)]


def _plan_layer(uniforms: Floats, augment: RandAugmentSettings, height: int, width: int) -> Layer:
    choice, applied, strength, coin = uniforms.T
    number = np.where(applied < augment.rand_probability, (choice * len(OPERATIONS)).astype(np.int64), -1)
    level = magnitudes(strength, augment) / _STRONGEST
    sign = np.where(coin < 0.5, 1.0, -1.0)
    parts = []
    for i, (kind, arguments) in enumerate(OPERATIONS.values()):
        rows = np.flatnonzero(number == i)
        parts.append((kind, rows, arguments(level[rows], sign[rows], height, width)))
    return make_layer(parts)


def magnitudes(uniforms: Floats, augment: RandAugmentSettings) -> Floats:
    """Turn uniform numbers into strengths, by the normal distribution's inverse distribution function."""
    if augment.rand_std == 0:
        return np.full_like(uniforms, augment.rand_magnitude)
    normal = torch.special.ndtri(torch.from_numpy(np.ascontiguousarray(uniforms))).numpy()
    return np.clip(augment.rand_magnitude + augment.rand_std * normal, 0, _STRONGEST)
