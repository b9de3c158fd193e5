"""Mixup and CutMix: blend neighbours of the training stream, images and labels alike.

*Mixup* (Zhang et al. 2018) shows the network ``lam * x + (1 - lam) * partner``; *CutMix* (Yun et al. 2019) pastes a
rectangle of the partner into x. Both ask for the labels in the same proportion.

Partners are neighbours: position p is blended with p xor 1, so a pair is never torn apart by cutting the stream into
ranks and micro-batches at even places. A group of ``mix_group`` consecutive positions shares the decisions (whether to
mix, how, how much, where), as a whole batch does in the recipe of CaiT; they are looked up by the group's number, so
they, too, are the same however the stream is cut.

Decisions are taken on the host (`mix_plan`): a few numbers per sample. Carrying them out (`mix_batch`) is a handful of
operations on the device that never wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .boxes import inside_boxes

MIX_DRAWS = 5


class PairError(ValueError):
    """A micro-batch that tears neighbours apart."""


class MixSettings(Protocol):
    """What mixing needs to know; `cait_dist.config.augment.AugmentConfig` has it."""

    @property
    def mixup(self) -> float:
        """Alpha of mixup's Beta(alpha, alpha); 0 for no mixup."""

    @property
    def cutmix(self) -> float:
        """Alpha of cutmix's Beta(alpha, alpha); 0 for no cutmix."""

    @property
    def mix_probability(self) -> float:
        """Share of groups that are mixed."""

    @property
    def cutmix_share(self) -> float:
        """Share of cutmix among mixed groups when both are on."""


@dataclass(frozen=True)
class MixPlan:
    """What is to be done with each sample of a micro-batch.

    Attributes:
        blend: ``(b,)`` float32; weight of a sample's own pixels outside of its box: 1 unless it is mixup.
        label_weight: ``(b,)`` float32; weight of a sample's own label.
        boxes: ``(b, 4)`` int64; top, bottom, left, right of the partner's rectangle; empty unless it is cutmix.
    """

    blend: Tensor
    label_weight: Tensor
    boxes: Tensor

    def to(self, device: torch.device | str) -> MixPlan:
        """The same on a device, without waiting for it."""
        return replace(
            self,
            blend=self.blend.to(device, non_blocking=True),
            label_weight=self.label_weight.to(device, non_blocking=True),
            boxes=self.boxes.to(device, non_blocking=True),
        )


def mix_plan(
    positions: npt.NDArray[np.int64], uniforms: npt.NDArray[np.float64], augment: MixSettings, image_size: int
) -> MixPlan | None:
    """Decide how the samples of a micro-batch are mixed.

    Args:
        positions: ``(b,)``, consecutive, whole pairs.
        uniforms: ``(b, MIX_DRAWS)`` in [0, 1); rows of one group must be equal, that is, be looked up under
            ``positions // mix_group``.
        augment: alphas and probabilities.
        image_size: side of the images in pixels.

    Returns:
        The plan, or None if nothing is ever mixed.

    Raises:
        PairError: if a pair is torn apart.
    """
    if augment.mix_probability == 0 or (augment.mixup == 0 and augment.cutmix == 0):
        return None
    if len(positions) % 2 or (len(positions) and positions[0] % 2) or (np.diff(positions) != 1).any():
        raise PairError(
            f"mixing blends neighbours, so a micro-batch must hold whole pairs of them: an even number of consecutive "
            f"samples from an even place on; got {len(positions)} from {positions[:1]}; choose an even micro-batch"
        )
    rows, of_row = np.unique(uniforms, axis=0, return_inverse=True)
    of_row = of_row.reshape(-1)  # NumPy 2.0 alone gives it another axis
    is_mixed, switch, amount, down, across = rows.T
    mixed = is_mixed < augment.mix_probability
    cutmix_share = augment.cutmix_share if augment.mixup > 0 and augment.cutmix > 0 else float(augment.cutmix > 0)
    cut = mixed & (switch < cutmix_share)
    lam = np.where(cut, _beta(amount, augment.cutmix), _beta(amount, augment.mixup))
    boxes = np.where(cut[:, None], cutmix_boxes(lam, down, across, image_size), 0)
    kept = 1 - (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / image_size**2
    blend = np.where(mixed & ~cut, lam, 1.0)
    return MixPlan(
        blend=torch.from_numpy(blend[of_row].astype(np.float32)),
        label_weight=torch.from_numpy(np.where(cut, kept, blend)[of_row].astype(np.float32)),
        boxes=torch.from_numpy(boxes[of_row]),
    )


def cutmix_boxes(
    lam: npt.NDArray[np.float64], down: npt.NDArray[np.float64], across: npt.NDArray[np.float64], image_size: int
) -> npt.NDArray[np.int64]:
    """Rectangles of about ``1 - lam`` of the image around evenly distributed centres, cut off at the border.

    Args:
        lam: ``(n,)`` share of the image to keep.
        down: ``(n,)`` in [0, 1), place of the centre from top to bottom.
        across: ``(n,)`` in [0, 1), place of the centre from left to right.
        image_size: side of the image in pixels.

    Returns:
        ``(n, 4)``: top, bottom, left, right.
    """
    side = (image_size * np.sqrt(1 - lam)).astype(np.int64)[:, None]
    middle = (np.stack((down, across), axis=1) * image_size).astype(np.int64)
    low = np.maximum(middle - side // 2, 0)
    high = np.minimum(middle + (side + 1) // 2, image_size)
    return np.stack((low[:, 0], high[:, 0], low[:, 1], high[:, 1]), axis=1)


def _beta(uniforms: npt.NDArray[np.float64], alpha: float) -> npt.NDArray[np.float64]:
    """Turn uniform numbers into Beta(alpha, alpha) ones by its inverse distribution function."""
    if alpha in (0.0, 1.0):
        return uniforms
    from scipy.special import betaincinv  # noqa: PLC0415 - slow to import

    return np.asarray(betaincinv(alpha, alpha, uniforms), dtype=np.float64)


def mix_batch(
    images: Tensor, labels: Tensor, plan: MixPlan | None, num_classes: int, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Carry out a plan.

    Args:
        images: ``(b, 3, H, W)``, floating point.
        labels: ``(b,)`` int64.
        plan: from `mix_plan`; None for no mixing.
        num_classes: K.
        label_smoothing: mass spread evenly over all classes.

    Returns:
        images: same shape and type.
        targets: ``(b, K)`` float32, rows sum to 1.
    """
    plan = plan.to(images.device) if plan is not None else None
    targets = mix_labels(labels, plan, num_classes, label_smoothing)
    if plan is None:
        return images, targets
    partners = _partners(images).float()
    blended = torch.lerp(partners, images.float(), plan.blend[:, None, None, None])
    mixed = torch.where(inside_boxes(plan.boxes, images.shape[-2], images.shape[-1]), partners, blended)
    return mixed.to(images.dtype), targets


def mix_labels(labels: Tensor, plan: MixPlan | None, num_classes: int, label_smoothing: float = 0.0) -> Tensor:
    """What the network is to say about images that were mixed; arguments as `mix_batch`, the plan on the device."""
    targets = _smooth_one_hot(labels, num_classes, label_smoothing)
    if plan is None:
        return targets
    return torch.lerp(_partners(targets), targets, plan.label_weight[:, None])


def _partners(batch: Tensor) -> Tensor:
    """Swap neighbours: row i becomes row i xor 1."""
    return batch.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _smooth_one_hot(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    off = smoothing / num_classes
    hit = labels[:, None] == torch.arange(num_classes, device=labels.device)
    return torch.where(hit, 1 - smoothing + off, off)
