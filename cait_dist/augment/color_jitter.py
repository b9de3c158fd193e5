"""Colour jitter by torchvision's law: brightness, contrast and saturation, each by a random factor, in random order.

DeiT and CaiT leave it out where RandAugment is on, which contains all three.

This file decides, on the host (`color_jitter_plan`); `operations` carries it out.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from .operations import Floats, Kind, Layer, brightness_tables, enhance_arguments, make_layer

COLOR_JITTER_DRAWS = 4
_ORDERS = np.array(list(permutations(range(3))))


def color_jitter_plan(uniforms: Floats, amount: float) -> list[Layer]:
    """Decide how the colours of a micro-batch are changed.

    Args:
        uniforms: ``(b, COLOR_JITTER_DRAWS)`` in [0, 1).
        amount: factors lie evenly in [1 - amount, 1 + amount], but not below 0.

    Returns:
        Three layers of operations, or none if the amount is 0.
    """
    if amount == 0:
        return []
    low, high = max(0.0, 1 - amount), 1 + amount
    factors = low + uniforms[:, :3] * (high - low)
    order = _ORDERS[(uniforms[:, 3] * len(_ORDERS)).astype(np.int64)]
    return [_plan_layer(order[:, turn], factors) for turn in range(3)]


def _plan_layer(which: np.ndarray, factors: Floats) -> Layer:
    brightness, contrast, saturation = (np.flatnonzero(which == i) for i in range(3))
    return make_layer(
        [
            (Kind.TABLE, brightness, brightness_tables(factors[brightness, 0])),
            (Kind.CONTRAST, contrast, enhance_arguments(factors[contrast, 1])),
            (Kind.COLOR, saturation, enhance_arguments(factors[saturation, 2])),
        ]
    )
