"""What a teacher adds to the loss ("Training data-efficient image transformers & distillation", section 4).

Both terms act on the logits of the class token: the published CaiT have one head and no distillation token.

::

    hard   (1 - α) CE(student, labels) + α CE(student, argmax teacher)
    soft   (1 - α) CE(student, labels) + α T² KL(softmax(teacher / T) ‖ softmax(student / T))

The teacher sees the very images the student sees, augmented and mixed. Where what it says was written down before,
there is a class per image of the training set; for mixed images those of both are mixed as the labels are.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cait_dist.augment.mixup import MixPlan, mix_labels
from cait_dist.config import RunConfig
from cait_dist.config.distillation import DistillationConfig

from ..starting.plan import Plan
from .identity import TeacherError
from .teacher import Teaching, open_teacher


@dataclass(frozen=True)
class Lesson:
    """The loss of a micro-batch.

    Attributes:
        loss: the whole of it
        parts: (2,), without gradient: the teacher's term before α, and the share of images about which student and
            teacher agree; None without a teacher
    """

    loss: Tensor
    parts: Tensor | None = None


class Guide(Protocol):
    """Says what the student is to say about a micro-batch, besides the labels."""

    @property
    def note(self) -> str:
        """What is to be said about it at the start of a run."""

    def targets(self, images: Tensor, ids: npt.NDArray[np.int64], mixing: MixPlan | None) -> Tensor:
        """Logits for soft, probabilities for hard distillation: (b, K).

        Args:
            images: (b, 3, H, W), as the student sees them
            ids: (b,) places in the training set
            mixing: how they were mixed
        """


class TeacherGuide:
    """A teacher that is asked."""

    def __init__(self, config: RunConfig, plan: Plan, device: torch.device) -> None:
        teacher = open_teacher(config, plan.num_classes, plan.image_size)
        statistics = config.augment.mean, config.augment.std
        self.note = str(teacher)
        self._hard, self._classes = config.distillation.kind == "hard", plan.num_classes
        self._teaching = Teaching(teacher, statistics, config.training.precision, device)

    def targets(self, images: Tensor, ids: npt.NDArray[np.int64], mixing: MixPlan | None) -> Tensor:
        """See `Guide`."""
        logits = self._teaching.logits(images)
        return F.one_hot(logits.argmax(1), self._classes).float() if self._hard else logits


class LabelGuide:
    """A teacher that was asked before, about every image by itself."""

    def __init__(self, config: RunConfig, plan: Plan, device: torch.device) -> None:
        assert config.distillation.labels is not None
        labels = read_labels(config.distillation.labels, plan)
        self._labels, self._classes = torch.from_numpy(labels), plan.num_classes
        self._device = device
        self.note = f"teacher's labels of {len(labels):,} images from {config.distillation.labels}"

    def targets(self, images: Tensor, ids: npt.NDArray[np.int64], mixing: MixPlan | None) -> Tensor:
        """See `Guide`."""
        labels = self._labels[torch.from_numpy(ids)].to(self._device, non_blocking=True)
        return mix_labels(labels, mixing.to(self._device) if mixing is not None else None, self._classes)


def open_guide(config: RunConfig, plan: Plan, device: torch.device) -> Guide | None:
    """What the configuration says is learnt from, ready to be asked; None without distillation.

    Raises:
        TeacherError: if it cannot be had, or does not fit the student or its data
    """
    if config.distillation.kind == "none":
        return None
    return (LabelGuide if config.distillation.labels is not None else TeacherGuide)(config, plan, device)


def read_labels(path: Path, plan: Plan) -> npt.NDArray[np.int64]:
    """What a teacher said about each image of the training set, as `cait evaluate` wrote it down.

    Returns:
        (images,) classes

    Raises:
        TeacherError: if it is of other images, or incomplete
    """
    where = f"'distillation.labels': {path}"
    try:
        with np.load(path, allow_pickle=False) as file:
            sample, predicted, digest = file["sample"], file["predicted"], str(file["digest"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TeacherError(f"{where} holds no answers as `cait evaluate` writes them ({error})") from None
    if digest != plan.data_digest:
        raise TeacherError(
            f"{where} is about other images than the training set: evaluate the teacher on it, with"
            " evaluation.sets='[{name: train, split: train}]'"
        )
    count = plan.calendar.num_samples
    if not np.array_equal(np.sort(sample), np.arange(count)):
        raise TeacherError(f"{where} has answers about {len(sample):,} images, and the training set {count:,}")
    if not 0 <= predicted.min() <= predicted.max() < plan.num_classes:
        raise TeacherError(f"{where} names class {predicted.max()}, but the student knows {plan.num_classes}")
    labels = np.empty(count, np.int64)
    labels[sample] = predicted
    return labels


def distil(logits: Tensor, labels: Tensor, teacher: Tensor, config: DistillationConfig) -> Lesson:
    """The loss of a micro-batch with a teacher.

    Args:
        logits: (b, K) of the student
        labels: (b, K) probabilities
        teacher: (b, K) from `Guide.targets`
        config: kind, α and T
    """
    logits = logits.float()
    if config.kind == "hard":
        taught = F.cross_entropy(logits, teacher)
    else:
        heat = config.temperature
        student, target = F.log_softmax(logits / heat, 1), F.log_softmax(teacher / heat, 1)
        taught = heat**2 * F.kl_div(student, target, reduction="batchmean", log_target=True)
    loss = (1 - config.alpha) * F.cross_entropy(logits, labels) + config.alpha * taught
    agree = (logits.argmax(1) == teacher.argmax(1)).float().mean()
    return Lesson(loss, torch.stack((taught, agree)).detach())
