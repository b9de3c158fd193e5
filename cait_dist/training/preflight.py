"""What can be known before a run starts is checked before it starts: on one process, in a second, writing nothing."""

import torch

from cait_dist.config import RunConfig
from cait_dist.config.model import ModelConfig
from cait_dist.data.cache_needs import check_cache
from cait_dist.data.errors import CacheError, RemoteError
from cait_dist.models import Cait, create_model
from cait_dist.models.weights import load_weights

from .evaluation_sets import open_truth
from .plan import CannotStartError, Plan, make_plan


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


def _evaluation_problems(config: RunConfig, plan: Plan | None) -> list[str]:
    problems = []
    for index, chosen in enumerate(config.evaluation.sets):
        try:
            _, truth = open_truth(config, chosen)
        except ValueError as error:
            problems.append(f"'evaluation.sets.{index}': {error}")
            continue
        if plan is not None and truth.num_classes > plan.num_classes:
            problems.append(
                f"'evaluation.sets.{index}': {truth.because}, but the model distinguishes {plan.num_classes}"
            )
    return problems


def _cache_problems(config: RunConfig) -> list[str]:
    try:
        check_cache(config.data, [chosen.split for chosen in config.evaluation.sets if chosen.path is None])
    except (CacheError, RemoteError) as error:
        return [str(error)]
    return []
