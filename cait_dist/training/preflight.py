"""What can be known before a run starts is checked before it starts: on one process, in a second, writing nothing."""

from dataclasses import dataclass
from typing import Any

import torch

from cait_dist.config import RunConfig
from cait_dist.config.model import ModelConfig
from cait_dist.data.cache_needs import check_cache
from cait_dist.data.errors import CacheError, RemoteError
from cait_dist.data.loader_ffcv import check_ffcv_decoder
from cait_dist.data.reader_webdataset import open_split
from cait_dist.models import Cait, create_model
from cait_dist.models.weights import load_weights

from .batch_plan import BatchPlan, plan_batches
from .schedule import Calendar


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


def preflight(config: RunConfig, processes: int) -> Plan:
    """Check that this configuration can be started on that many processes.

    Raises:
        CannotStartError: with every obstacle found, each naming the field and the remedy
    """
    problems: list[str] = []
    plan = None
    try:
        plan = make_plan(config, processes)
        with torch.device("meta"):
            build_model(config.model, plan.num_classes)
    except RemoteError as error:
        # Whatever else were asked of that server would be waited for as long, and answered the same.
        raise CannotStartError([str(error)]) from None
    except ValueError as error:
        problems.append(str(error))
    problems += _evaluation_problems(config, plan)
    problems += [] if problems else _cache_problems(config)
    if config.model.init_from is not None and not config.model.init_from.is_file():
        problems.append(f"'model.init_from': there is no file {config.model.init_from}")
    if plan is None or problems:
        raise CannotStartError(problems)
    return plan


def make_plan(config: RunConfig, processes: int) -> Plan:
    """Work out batches, calendar and the model's ends.

    Raises:
        ValueError: when the data cannot be read or the batch cannot be split
    """
    training = config.training
    batches = plan_batches(training.global_batch, processes, training.micro_batch_limit, pairs=config.augment.mixes)
    reader = open_split(config.data.path, config.data.train_split, config.data.format, config.data.remote)
    if config.data.decoder == "ffcv":
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
    )


def build_model(config: ModelConfig, num_classes: int) -> Cait:
    """The model as configured, with freshly drawn weights."""
    overrides = config.model_dump(exclude={"name", "init_from", "num_classes"})
    return create_model(config.name, num_classes=num_classes, **overrides)


def initial_model(config: RunConfig, num_classes: int) -> tuple[Cait, list[str]]:
    """The model a run starts from, the same on every rank, and what is to be said about loaded weights."""
    torch.manual_seed(config.seed)
    model = build_model(config.model, num_classes)
    if config.model.init_from is None:
        return model, []
    try:
        return model, [str(load_weights(model, config.model.init_from))]
    except ValueError as error:
        raise CannotStartError([f"'model.init_from': {error}"]) from error


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


def _evaluation_problems(config: RunConfig, plan: Plan | None) -> list[str]:
    problems = []
    for index, chosen in enumerate(config.evaluation.sets):
        try:
            place = chosen.path or config.data.path
            classes = open_split(place, chosen.split, config.data.format, config.data.remote).num_classes
        except ValueError as error:
            problems.append(f"'evaluation.sets.{index}': {error}")
            continue
        if plan is not None and classes > plan.num_classes:
            problems.append(
                f"'evaluation.sets.{index}': {classes} classes, but the model distinguishes {plan.num_classes}"
            )
    return problems


def _cache_problems(config: RunConfig) -> list[str]:
    try:
        check_cache(config.data, [chosen.split for chosen in config.evaluation.sets if chosen.path is None])
    except (CacheError, RemoteError) as error:
        return [str(error)]
    return []
