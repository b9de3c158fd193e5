"""The whole augmentation of a batch on the device, in the order of the paper's recipe.

::

    bytes ──► colour jitter or RandAugment ──► normalise ──► random erasing ──► mixup or cutmix ──► images and targets

What happens to a sample is a function of its place in the training stream alone. All decisions are taken on the host,
from random numbers that are looked up under that place; the device carries them out and is never waited for: no value
is read back, and no shape depends on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .color_jitter import COLOR_JITTER_DRAWS, color_jitter_plan
from .erasing import ERASE_DRAWS, ErasePlan, EraseSettings, erase_batch, erase_plan
from .mixup import MIX_DRAWS, MixPlan, MixSettings, mix_batch, mix_plan
from .normalize import Normalize
from .operations import Layer, apply_operations
from .randaugment import DRAWS_PER_LAYER, RandAugmentSettings, rand_augment_plan

Positions: TypeAlias = npt.NDArray[np.int64]
Purpose: TypeAlias = Literal["COLOR_JITTER", "RAND_AUGMENT", "ERASING", "MIX"]


class LookUp(Protocol):
    """Random numbers by place."""

    def __call__(self, purpose: Purpose, positions: Positions, draws: int) -> npt.NDArray[np.float64]:
        """``(b, draws)`` in [0, 1) for positions ``(b,)``, independent between purposes."""


class AugmentSettings(RandAugmentSettings, EraseSettings, MixSettings, Protocol):
    """All that is to be known; `cait_dist.config.augment.AugmentConfig` has it."""

    @property
    def color_jitter(self) -> float:
        """Largest relative change of brightness, contrast and saturation; 0 for none."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of the pixels in [0, 1], per channel."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Of the pixels in [0, 1], per channel."""

    @property
    def mix_group(self) -> int:
        """Neighbouring samples that share one mixing ratio."""

    @property
    def label_smoothing(self) -> float:
        """Mass of the targets that is spread evenly over all classes."""


@dataclass(frozen=True)
class AugmentPlan:
    """What is to be done with a micro-batch; on the host."""

    operations: Sequence[Layer]
    erasing: ErasePlan | None
    mixing: MixPlan | None


class BatchAugmentation:
    """Augments micro-batches.

    Args:
        settings: what to do, how strongly, how often.
        num_classes: width of the targets.
        look_up: random numbers by place.
        device: where the images are.
    """

    def __init__(
        self, settings: AugmentSettings, num_classes: int, look_up: LookUp, device: torch.device | str = "cpu"
    ) -> None:
        self._settings, self._num_classes, self._look_up = settings, num_classes, look_up
        self._normalize = Normalize(settings.mean, settings.std).to(device)
        # What comes into view from outside of an image has the mean colour, as in timm.
        fill = [min(255, round(255 * value)) for value in settings.mean]
        self._fill = torch.tensor(fill, dtype=torch.uint8).to(device)

    def __call__(self, images: Tensor, labels: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        """Augment one micro-batch.

        Args:
            images: ``(b, 3, H, W)`` uint8 on the device, of any memory layout; not changed.
            labels: ``(b,)`` int64 on the device.
            positions: ``(b,)``, places in the training stream; whole pairs of neighbours if anything is mixed.

        Returns:
            images: ``(b, 3, H, W)`` float32, normalised.
            targets: ``(b, num_classes)`` float32, rows sum to 1.
        """
        plan = self.plan(positions, images.shape[-2], images.shape[-1])
        return self.carry_out(plan, images, labels)

    def plan(self, positions: Positions, height: int, width: int) -> AugmentPlan:
        """Take all decisions for a micro-batch of images of one size."""
        settings = self._settings
        mixing = self._look_up("MIX", positions // settings.mix_group, MIX_DRAWS)
        return AugmentPlan(
            self._plan_operations(positions, height, width),
            self._plan_erasing(positions, height, width),
            mix_plan(positions, mixing, settings, width),
        )

    def carry_out(self, plan: AugmentPlan, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Do what a plan says; arguments and results as in a call."""
        images = self._normalize(apply_operations(images, plan.operations, self._fill))
        images = erase_batch(images, plan.erasing)
        return mix_batch(images, labels, plan.mixing, self._num_classes, self._settings.label_smoothing)

    def _plan_operations(self, positions: Positions, height: int, width: int) -> list[Layer]:
        settings = self._settings
        if settings.color_jitter > 0:
            return color_jitter_plan(
                self._look_up("COLOR_JITTER", positions, COLOR_JITTER_DRAWS), settings.color_jitter
            )
        if settings.rand_layers == 0:
            return []
        draws = self._look_up("RAND_AUGMENT", positions, DRAWS_PER_LAYER * settings.rand_layers)
        return rand_augment_plan(draws, settings, height, width)

    def _plan_erasing(self, positions: Positions, height: int, width: int) -> ErasePlan | None:
        if self._settings.erase_probability == 0:
            return None
        return erase_plan(self._look_up("ERASING", positions, ERASE_DRAWS), self._settings, height, width)
