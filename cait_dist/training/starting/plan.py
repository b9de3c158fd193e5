"""What follows from a configuration, its data and the number of processes. Nothing here loads torch.

A job reads its plan again whenever it starts, while its nodes wait: so that has to be quick.
"""

from dataclasses import dataclass
from typing import Any

from cait_dist.config import RunConfig
from cait_dist.config.model import ModelConfig
from cait_dist.data.reader_webdataset import open_train_split
from cait_dist.planning.counting.batch_plan import BatchPlan, plan_batches

from ..distilling.identity import teacher_digest
from ..schedule import Calendar


class CannotStartError(ValueError):
    """What stands in the way of a run; ``str()`` is the text for the user, one line for each obstacle."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n  ".join(["the run cannot start:", *problems]))


@dataclass(frozen=True)
class Plan:
    """The facts of a run that follow from its configuration, its data and the number of processes."""

    batches: BatchPlan
    calendar: Calendar
    num_classes: int
    image_size: int
    data_digest: str
    teacher_digest: str | None = None
    """identity of what is distilled"""


def make_plan(config: RunConfig, processes: int) -> Plan:
    """Work out batches, calendar and the model's ends.

    Raises:
        ValueError: when the data cannot be read or the batch cannot be split
    """
    training = config.training
    batches = plan_batches(training.global_batch, processes, training.micro_batch_limit, pairs=config.augment.mixes)
    reader = open_train_split(config.data)
    if config.data.decoder == "ffcv":
        from cait_dist.data.loader_ffcv import check_ffcv_decoder  # noqa: PLC0415 - loads torch

        check_ffcv_decoder(reader)
    if training.global_batch > reader.num_samples:
        raise ValueError(
            f"training.global_batch {training.global_batch} exceeds the {reader.num_samples} samples of"
            f" {config.data.path}/{config.data.train_split}: lower it"
        )
    return Plan(
        batches=batches,
        calendar=Calendar(reader.num_samples, training.global_batch, training.epochs),
        num_classes=_head_width(config, reader),
        image_size=image_size_of(config.model),
        data_digest=reader.digest,
        teacher_digest=teacher_digest(config.distillation),
    )


def image_size_of(config: ModelConfig) -> int:
    """Side of the images in pixels that the model is made for."""
    return config.image_size or int(config.name.rpartition("_")[2])


def _head_width(config: RunConfig, reader: Any) -> int:
    chosen = config.model.num_classes or reader.num_classes
    if chosen < reader.num_classes:
        raise ValueError(
            f"'model.num_classes' is {chosen}, but {config.data.path} has {reader.num_classes} classes:"
            " raise it, or leave it null"
        )
    return int(chosen)
