"""Images to try operations on, and timm's own operations with a given strength and direction."""

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

FILL = (124, 116, 104)
"""round(255 * ImageNet's mean), what timm hands to its operations."""


def timm_data(module: str) -> Any:
    """``timm.data.MODULE``; torchvision's shape functions may not know the operators of a CPU build."""
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    return pytest.importorskip(f"timm.data.{module}", reason="timm, the reference, is not installed")


def timm_operation(name: str, magnitude: float, sign: float) -> Callable[[Image.Image], Image.Image]:
    """One of timm's operations, its coin replaced by ``sign``."""
    reference = timm_data("auto_augment")
    full = next(
        full
        for full in reference._RAND_INCREASING_TRANSFORMS
        if full.removesuffix("Increasing").removesuffix("Rel") == name
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_randomly_negate", lambda value: sign * value)
        level = reference.LEVEL_TO_ARG[full]
        arguments = level(magnitude, {}) if level else ()
    operation = reference.NAME_TO_OP[full]
    return lambda image: operation(image, *arguments, fillcolor=FILL, resample=Image.Resampling.BICUBIC)


def photos(height: int, width: int) -> list[np.ndarray]:
    """The two photos that come with scikit-learn, ``(height, width, 3)`` uint8."""
    datasets = pytest.importorskip("sklearn.datasets")
    sources = [Image.fromarray(image) for image in datasets.load_sample_images().images]
    return [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image in sources]


def trial_images(height: int, width: int) -> list[np.ndarray]:
    """Photos, noise, one colour, a grey ramp, two levels, and almost one colour."""
    random = np.random.default_rng(height * 1000 + width)
    ramp = (np.arange(width) * 255 // max(width - 1, 1)).astype(np.uint8)
    almost_flat = np.full((height, width, 3), 200, np.uint8)
    almost_flat[0, 0] = (0, 200, 255)
    return [
        *photos(height, width),
        random.integers(0, 256, (height, width, 3), dtype=np.uint8),
        np.full((height, width, 3), 77, np.uint8),
        np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy(),
        np.where(random.random((height, width, 1)) < 0.5, 10, 200).astype(np.uint8).repeat(3, axis=2),
        almost_flat,
    ]


def as_batch(images: list[np.ndarray]) -> torch.Tensor:
    """Contiguous ``(b, 3, H, W)``."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def through_pillow(operation: Callable[[Image.Image], Image.Image], batch: torch.Tensor) -> torch.Tensor:
    images = [Image.fromarray(image) for image in batch.permute(0, 2, 3, 1).contiguous().numpy()]
    return as_batch([np.asarray(operation(image)) for image in images])
