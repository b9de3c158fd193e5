"""The teacher of a distillation: a network that looks at the same images and is never trained.

It is whole on every rank, in evaluation mode, outside of DeepSpeed: nothing of it is partitioned, and its memory comes
on top of the student's. It may be a run of this project, a file of weights of one of its networks, or a network of
timm's with a file of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cait_dist.config import RunConfig
from cait_dist.models import create_model, list_models
from cait_dist.models.weights import fit_weights, load_weights, read_state_dict

from ..saving.saved_weights import open_weights
from .identity import TeacherError

TIMM = "timm/"
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of pixels in [0, 1]."""


@dataclass(frozen=True)
class Teacher:
    """A network that teaches.

    Attributes:
        network: images (b, 3, H, W), normalised with its own statistics → logits (b, classes)
        statistics: with which its images are normalised
        source: where its weights come from, for people
    """

    network: nn.Module
    statistics: Statistics
    source: str

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def __str__(self) -> str:
        megabytes = self.parameters * 4 / 1e6
        return f"teacher {self.source}: {self.parameters:,} parameters, {megabytes:,.0f} MB on every rank"


class Teaching:
    """Asks a teacher about images that were prepared for the student.

    Args:
        teacher: whom to ask
        student: statistics with which the student's images are normalised
        precision: ``bf16`` or ``fp32``, of the products
        device: where the images are
    """

    def __init__(self, teacher: Teacher, student: Statistics, precision: str, device: torch.device) -> None:
        self._network = teacher.network.to(device).eval().requires_grad_(False)
        self._cast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        self._renormalise = _renormalise(student, teacher.statistics, device)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """What the teacher says about images (b, 3, H, W): logits (b, classes), fp32."""
        with self._cast:
            answer: Tensor = self._network(self._renormalise(images))
        return answer.float()


def open_teacher(config: RunConfig, num_classes: int, image_size: int) -> Teacher:
    """Load the teacher of a configuration that has one.

    Args:
        config: of the student's run
        num_classes: of the student, which must be the teacher's
        image_size: of the student, which the teacher must take

    Raises:
        TeacherError: if it cannot be loaded, or does not fit the student
    """
    distillation = config.distillation
    assert distillation.teacher is not None
    try:
        if distillation.teacher.is_dir():
            return _from_run(distillation.teacher, distillation.teacher_weights, num_classes, image_size)
        if distillation.teacher_model is None:
            raise TeacherError(
                f"{distillation.teacher} is a file of weights: say in distillation.teacher_model whose, a name like"
                f" {list_models()[0]} or timm/regnety_160"
            )
        if distillation.teacher_model.startswith(TIMM):
            teacher = _from_timm(distillation.teacher_model.removeprefix(TIMM), distillation.teacher, num_classes)
        else:
            statistics = config.augment.mean, config.augment.std
            name, path = distillation.teacher_model, distillation.teacher
            network = create_model(name, num_classes=num_classes, image_size=image_size)
            teacher = Teacher(network, statistics, str(load_weights(network, path, strict_head=True)))
    except ValueError as error:
        raise TeacherError(f"'distillation.teacher': {error}") from error
    _try(teacher, image_size, num_classes)
    return teacher


def _from_run(place: Path, kind: str, num_classes: int, image_size: int) -> Teacher:
    _, config, weights, step, kind, _ = open_weights(place, None, kind)
    settings = {**config.model.overrides, "image_size": image_size}
    network = create_model(config.model.name, num_classes=num_classes, **settings)
    report = fit_weights(network, weights, place, strict_head=True)
    return Teacher(network, (config.augment.mean, config.augment.std), f"{report} ({kind}, step {step})")


def _from_timm(name: str, path: Path, num_classes: int) -> Teacher:
    try:
        import timm  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        raise TeacherError(
            f"distillation.teacher_model '{TIMM}{name}' is a network of timm's: pip install timm, which is missing"
        ) from None
    if name not in timm.list_models():
        raise TeacherError(f"distillation.teacher_model '{TIMM}{name}': timm {timm.__version__} has no such model")
    network = timm.create_model(name, num_classes=num_classes)
    try:
        network.load_state_dict(read_state_dict(path))
    except RuntimeError as error:
        raise TeacherError(f"{path} does not fit timm's {name}: {' '.join(str(error).split())[:300]}") from None
    usual: dict[str, Any] = network.pretrained_cfg
    return Teacher(network, (tuple(usual["mean"]), tuple(usual["std"])), f"{TIMM}{name} with {path}")


def _try(teacher: Teacher, image_size: int, num_classes: int) -> None:
    """Ask once: some networks take images of one size only."""
    images = torch.zeros(2, 3, image_size, image_size)
    try:
        with torch.no_grad():
            answer = teacher.network.eval()(images)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise TeacherError(
            f"'distillation.teacher': {teacher.source} does not take images of {image_size} px: {error}"
        ) from None
    if tuple(answer.shape) != (2, num_classes):
        raise TeacherError(
            f"'distillation.teacher': {teacher.source} answers with {tuple(answer.shape[1:])} values per image; the"
            f" student distinguishes {num_classes} classes"
        )


def _renormalise(ours: Statistics, theirs: Statistics, device: torch.device) -> Callable[[Tensor], Tensor]:
    """From images normalised with our statistics to images normalised with theirs."""
    if ours == theirs:
        return lambda images: images
    (mean, std), (their_mean, their_std) = (
        [torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in statistics]
        for statistics in (ours, theirs)
    )
    scale, shift = (std / their_std).float().to(device), ((mean - their_mean) / their_std).float().to(device)
    return lambda images: torch.addcmul(shift, images, scale)
