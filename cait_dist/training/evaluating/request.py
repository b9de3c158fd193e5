"""What an evaluation is asked for, understood: which run, which checkpoints, which sets, which weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cait_dist.config import RunConfig, diff, load_config
from cait_dist.config.evaluation import EvaluationSet
from cait_dist.tracking.run_directory import RunDirectory

from ..saving.checkpoint_files import Checkpoint, list_checkpoints, open_checkpoint
from ..saving.export import KINDS

NEWEST, ALL = "newest", "all"
SUBMITTED = "launch/config.yaml"
"""What a run that waits in a queue will be begun with."""
MAY_CHANGE = (
    "evaluation.", "data.path", "data.format", "data.workers", "data.prefetch", "data.remote.", "training.precision",
)  # fmt: skip
"""What an evaluation may set otherwise than the run; everything else says what the weights are."""


class EvaluationError(ValueError):
    """An evaluation cannot be made; the message says why and what can be."""


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    Attributes:
        place: a run directory, or one of its checkpoints.
        step: ``newest``, ``all`` or a step; None for the newest, or for all with ``follow``.
        weights: ``raw``, ``ema``; empty for those of the configuration.
        sets: names of sets; empty for those of the configuration.
        follow: stay until the run is finished.
        overrides: settings that win over the run's.
        config: file to read instead of the run's newest configuration.
    """

    place: Path
    step: str | None = None
    weights: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    follow: bool = False
    overrides: tuple[str, ...] = ()
    config: Path | None = None


def read_config(run: RunDirectory, request: Request) -> RunConfig:
    """The run's newest configuration, with the request's settings laid over it.

    Raises:
        EvaluationError: if they would change what the weights are
        ConfigError: if they are wrong
    """
    candidates = [*(attempt / "config.yaml" for attempt in reversed(run.attempts())), run.config, run.path / SUBMITTED]
    path = request.config or next((path for path in candidates if path.is_file()), run.config)
    own, config = load_config(path).config, load_config(path, request.overrides).config
    wrong = [key for key, _, _ in diff(own, config) if not key.startswith(MAY_CHANGE)]
    if wrong:
        raise EvaluationError(
            f"'{wrong[0]}' is the run's own: an evaluation may set {', '.join(key.rstrip('.') for key in MAY_CHANGE)}"
        )
    return config


def find_run(request: Request) -> RunDirectory:
    """The run that the request is about.

    Raises:
        RunDirectoryError: if there is none
    """
    place = request.place.absolute()
    if _is_checkpoint(place):
        return RunDirectory.existing(place.parent.parent)
    if request.follow and (place / SUBMITTED).is_file():
        return RunDirectory(place)  # it waits in a queue, and is still to begin
    return RunDirectory.existing(request.place)


def chooser(request: Request, run: RunDirectory) -> Callable[[], list[Checkpoint]]:
    """What to call to see which checkpoints are to be evaluated by now.

    Raises:
        EvaluationError: if the request contradicts itself
    """
    place, step = request.place.absolute(), request.step
    if _is_checkpoint(place):
        if request.follow or step is not None:
            raise EvaluationError(f"{place} is one checkpoint: leave --step and --follow out, or pass {run.path}")
        return lambda: [found] if (found := open_checkpoint(place)) else []
    if step not in (None, NEWEST, ALL) and not step.isdecimal():
        raise EvaluationError(f"--step must be a number, '{NEWEST}' or '{ALL}', got '{step}'")
    if request.follow and step not in (None, ALL):
        raise EvaluationError(f"--follow evaluates every checkpoint: leave --step {step} out")
    if request.follow or step == ALL:
        return lambda: list_checkpoints(run.checkpoints)
    if step in (None, NEWEST):
        return lambda: list_checkpoints(run.checkpoints)[-1:]
    return lambda: [found for found in list_checkpoints(run.checkpoints) if found.step == int(step)]


def _is_checkpoint(place: Path) -> bool:
    return place.parent.name == "checkpoints"


def chosen_sets(config: RunConfig, names: Sequence[str]) -> list[EvaluationSet]:
    """The sets of those names; all that are configured if there are no names.

    Raises:
        EvaluationError: if there is no such set
    """
    known = {chosen.name: chosen for chosen in config.evaluation.sets}
    for name in names:
        if name not in known:
            raise EvaluationError(f"--set {name}: 'evaluation.sets' of the run has {', '.join(known) or 'none'}")
    chosen = [known[name] for name in dict.fromkeys(names)] or list(known.values())
    if not chosen:
        raise EvaluationError("'evaluation.sets' of the run is empty: pass evaluation.sets='[{name: val}]'")
    return chosen


def chosen_weights(config: RunConfig, weights: Sequence[str]) -> list[str]:
    """The kinds of weights to measure; those that are configured if none are named.

    Raises:
        EvaluationError: if there are no such weights
    """
    for kind in weights:
        if kind not in KINDS:
            raise EvaluationError(f"--weights must be 'raw' or 'ema', got '{kind}'")
    if "ema" in weights and config.training.ema_decay is None:
        raise EvaluationError("--weights ema: the run keeps no moving average ('training.ema_decay' is null)")
    return list(dict.fromkeys(weights)) or list(config.evaluation.weights)
