"""Which teacher a run learns from, by content: a resumed run must learn from the same. Nothing here loads torch."""

from __future__ import annotations

from pathlib import Path

from cait_dist.config.distillation import DistillationConfig

from ..saving.checkpoint_files import Checkpoint, file_sha256, list_checkpoints, open_checkpoint


class TeacherError(ValueError):
    """What is to be distilled is missing or does not fit; the message names the setting and the remedy."""


def teacher_digest(config: DistillationConfig) -> str | None:
    """Digest of the teacher's weights, or of the labels it gave; None without distillation.

    Raises:
        TeacherError: if there is nothing at the place given
    """
    if config.labels is not None:
        if not config.labels.is_file():
            raise TeacherError(f"'distillation.labels': there is no file {config.labels}")
        return file_sha256(config.labels)
    if config.teacher is None:
        return None
    if config.teacher.is_file():
        return file_sha256(config.teacher)
    return checkpoint_of(config.teacher).digest


def checkpoint_of(place: Path) -> Checkpoint:
    """The checkpoint that a folder is, or the newest of the run that it is.

    Raises:
        TeacherError: if it is neither
    """
    if not place.exists():
        raise TeacherError(
            f"'distillation.teacher': there is no {place}: pass a run, one of its checkpoints, or a file of weights"
        )
    if place.absolute().parent.name == "checkpoints":
        found = open_checkpoint(place)
    else:
        found = next(reversed(list_checkpoints(place / "checkpoints")), None)
    if found is None:
        raise TeacherError(f"'distillation.teacher': {place} holds no complete checkpoint")
    return found
