"""What can be known before a run starts is checked before it starts: on one process, in a second, writing nothing."""

import torch

from cait_dist.config import RunConfig
from cait_dist.data.cache_needs import check_cache
from cait_dist.data.errors import CacheError, RemoteError
from cait_dist.models.float8 import unsuitable_widths

from ..distilling.identity import TeacherError
from ..distilling.lesson import open_guide
from ..evaluating.sets import open_truth
from ..saving.checkpoint_files import list_checkpoints
from .initial_model import build_model, missing_weights
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
            model = build_model(config.model, plan.num_classes)
        if config.training.float8:
            remedy = "change it, or set training.float8 to false"
            problems += [f"'model.{field}': {what}: {remedy}" for field, what in unsuitable_widths(model.arch).items()]
    except RemoteError as error:
        # Whatever else were asked of that server would be waited for as long, and answered the same.
        raise CannotStartError([str(error)]) from None
    except ValueError as error:
        problems.append(str(error))
    problems += _evaluation_problems(config, plan)
    if plan is not None:
        problems += _teacher_problems(config, plan)
    problems += [] if problems else _cache_problems(config)
    # A run that has a checkpoint goes on from there.
    if not list_checkpoints(config.run_dir / "checkpoints"):
        problems += missing_weights(config)
    if plan is None or problems:
        raise CannotStartError(problems)
    return plan


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


def _teacher_problems(config: RunConfig, plan: Plan) -> list[str]:
    try:
        open_guide(config, plan, torch.device("cpu"))
    except TeacherError as error:
        return [str(error)]
    return []


def _cache_problems(config: RunConfig) -> list[str]:
    try:
        check_cache(config.data, [chosen.split for chosen in config.evaluation.sets if chosen.path is None])
    except (CacheError, RemoteError) as error:
        return [str(error)]
    return []
