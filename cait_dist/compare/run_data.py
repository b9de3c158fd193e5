"""What is known of one run, wherever it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One metric over a run, each step once.

    A long curve holds only the points that decide its picture (the lowest and the highest of each stretch of steps);
    its last point, and every evaluation, are always there.

    Attributes:
        steps: optimizer steps done, ascending, (n,).
        values: (n,); not finite where training was not.
        times: seconds since the epoch, (n,).
    """

    steps: Array
    values: Array
    times: Array

    @property
    def last(self) -> float:
        """The value at the end; NaN for an empty curve."""
        return float(self.values[-1]) if len(self.values) else float("nan")


@dataclass(frozen=True)
class Total:
    """A metric over all recorded steps of a run, also those that its curve leaves out.

    Attributes:
        count: values recorded.
        mean: of the finite ones.
        typical: median of the means of equal stretches, which a few slow steps do not move.
        low: smallest finite value.
        high: largest finite value.
        not_finite: values that were NaN or infinite.
    """

    count: int
    mean: float
    typical: float
    low: float
    high: float
    not_finite: int = 0


@dataclass(frozen=True)
class AttemptData:
    """One attempt at a run.

    Attributes:
        number: from 1.
        began: seconds since the epoch.
        ended: seconds since the epoch: of its end, or of its last sign of life.
        first_step: the step it went on from.
        last_step: the last step recorded.
        processes: ranks, each with a device of its own.
        outcome: finished, stopped, failed or lost; running for one that goes on.
        redone_steps: steps that it did again because no checkpoint held them.
        lost_seconds: time since the step it went on from.
    """

    number: int
    began: float
    ended: float
    first_step: int
    last_step: int
    processes: int
    outcome: str
    redone_steps: int = 0
    lost_seconds: float = 0.0


@dataclass(frozen=True)
class SetFacts:
    """An evaluation set: what makes two of them the same.

    Attributes:
        digest: identity of the images and their order.
        images: how many.
    """

    digest: str
    images: int


@dataclass(frozen=True)
class RunFacts:
    """What a run was planned to be; None where an old or foreign run does not tell.

    Attributes:
        global_batch: samples per step.
        total_steps: steps of the whole run.
        train_images: images of the training set.
        train_digest: its identity.
        image_size: side of the images in pixels, in training and evaluation.
        parameters: of the model.
        macs: multiply-adds of one forward pass of one image.
        device: name of the GPU, or ``cpu``.
        peak_flops: of one device, dense, in the run's precision.
        sets: evaluation sets by name.
        code: version, and the commit where there is one.
        environment: Python, packages, machine.
    """

    global_batch: int | None = None
    total_steps: int | None = None
    train_images: int | None = None
    train_digest: str | None = None
    image_size: int | None = None
    parameters: int | None = None
    macs: int | None = None
    device: str | None = None
    peak_flops: float | None = None
    sets: Mapping[str, SetFacts] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunData:
    """One run.

    Attributes:
        name: shown to the user; every compared run has another.
        source: the run directory, or ``mlflow:RUN_ID``.
        config: resolved settings by dotted key, as `cait_dist.config.flatten` gives them.
        facts: what was planned.
        attempts: in order.
        curves: by metric: ``train/loss``, ``val/top1``, ``val_ema/top1``, ``perf/images_per_second``, …
        totals: by metric.
        predictions: files of saved predictions by ``SET/WEIGHTS``, e.g. ``val/raw``, ``val/ema``.
    """

    name: str
    source: str
    config: Mapping[str, Any]
    facts: RunFacts
    attempts: tuple[AttemptData, ...]
    curves: Mapping[str, Curve]
    totals: Mapping[str, Total]
    predictions: Mapping[str, Path] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end."""
        return bool(self.attempts) and self.attempts[-1].outcome == "finished"

    def images(self, steps: Array) -> Array:
        """Images seen after so many steps; NaN where the batch is not known."""
        return np.asarray(steps, dtype=np.float64) * (self.facts.global_batch or np.nan)

    def epochs(self, steps: Array) -> Array:
        """How often the training set was seen after so many steps; NaN where that is not known."""
        return self.images(steps) / (self.facts.train_images or np.nan)

    def wall_seconds(self, times: Array) -> Array:
        """Seconds since the run was begun, pauses between attempts included."""
        return np.asarray(times, dtype=np.float64) - (self.attempts[0].began if self.attempts else np.nan)

    def device_hours(self, times: Array) -> Array:
        """Hours that devices were held up to each moment, over all attempts, those steps included that were redone."""
        hours = np.zeros(len(times))
        for attempt in self.attempts:
            hours += np.clip(times - attempt.began, 0, max(attempt.ended - attempt.began, 0)) * attempt.processes / 3600
        return hours
