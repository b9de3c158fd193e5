"""The plan of a run: what it needs, what fits, how long it takes, and which way of running it is to be preferred."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cait_dist.config import RunConfig
from cait_dist.models import Architecture, architecture

from .counting.activation_memory import BACKENDS
from .counting.communication import Network
from .counting.flops import MacCount, ParamCount, count_macs, count_params
from .errors import PlanError
from .gpus import Gpu
from .options import STAGES, Option, Situation
from .rates.calibration import Calibration, default_path, load_calibration

POLICIES = ("none", "attention", "every-2", "block")
"""that are compared; the configured one is added"""
SCALING = tuple(2**power for power in range(11))
DEFAULT_CLASSES = 1000
_CLOSE = 1.02
"""steps whose times differ by less than this factor are as good as each other"""


@dataclass(frozen=True)
class Request:
    """What was asked, besides the configuration.

    Attributes:
        gpus: to train on.
        gpu: of which kind.
        gpus_per_node: in each node.
        reserve: share of a GPU's memory that is left to the driver and to fragments.
        images: of the training set, where there are no data to look at.
        price: of a GPU for an hour.
        loader_rate: images per second that the input of a node makes.
        within: bytes/s between GPUs of a node, None for the datasheet's.
        between: bytes/s of a GPU's network adapter, likewise.
        attention: backend.
        calibration: measured rates.
    """

    gpus: int
    gpu: Gpu
    gpus_per_node: int = 8
    reserve: float = 0.08
    images: int | None = None
    price: float | None = None
    loader_rate: float | None = None
    within: float | None = None
    between: float | None = None
    attention: str | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Duration:
    """Of a whole run. Without calibration: at most so many images, at least so long.

    Attributes:
        images_per_second: of all GPUs.
        steps: of the optimizer; None where the size of the data set is not known, as are the rest.
        hours: from start to end, evaluations and checkpoints left out.
        gpu_hours: on all GPUs.
        cost: in the currency of the price.
    """

    images_per_second: float
    steps: int | None
    hours: float | None
    gpu_hours: float | None
    cost: float | None


@dataclass(frozen=True)
class ScalePoint:
    """The recommended way on another number of GPUs.

    Attributes:
        gpus: how many.
        images_per_second: of all; None where it cannot be run.
        efficiency: over as many times one GPU of the smallest number that can be.
        accumulation: micro-batches per step.
        network_share: time that the network needs at least, over the step's.
        note: why it cannot be run.
    """

    gpus: int
    images_per_second: float | None
    efficiency: float | None
    accumulation: int | None
    network_share: float | None
    note: str | None


@dataclass(frozen=True)
class RunPlan:
    """Everything there is to say."""

    situation: Situation
    request: Request
    data_images: int | None
    params: ParamCount
    macs: MacCount
    options: tuple[Option, ...]
    configured: Option
    recommended: Option
    duration: Duration
    scaling: tuple[ScalePoint, ...]

    @property
    def calibrated(self) -> bool:
        """Whether times are predictions, and not bounds."""
        return self.situation.calibration is not None


def plan_run(config: RunConfig, request: Request) -> RunPlan:
    """Make the plan.

    Raises:
        PlanError: if a wish cannot be met, naming what can.
    """
    _check(request)
    images, classes = find_data(config, request.images)
    situation = Situation(
        config=config,
        arch=_architecture(config, classes),
        gpu=request.gpu,
        network=Network(
            request.gpus_per_node, request.within or request.gpu.nvlink, request.between or request.gpu.network
        ),
        budget=(1 - request.reserve) * request.gpu.memory,
        attention=request.attention,
        calibration=request.calibration,
    )
    training = config.training
    policies = dict.fromkeys((*POLICIES, training.activation_checkpointing))
    options = tuple(situation.option(policy, stage, request.gpus) for policy in policies for stage in STAGES)
    configured = next(
        o for o in options if (o.policy, o.stage) == (training.activation_checkpointing, training.zero.stage)
    )
    recommended = recommend(options, training.zero.stage)
    return RunPlan(
        situation=situation,
        request=request,
        data_images=images,
        params=count_params(situation.arch),
        macs=count_macs(situation.arch),
        options=options,
        configured=configured,
        recommended=recommended,
        duration=_duration(recommended, config, request, images),
        scaling=tuple(scaling_curve(situation, recommended)),
    )


def recommend(options: tuple[Option, ...], configured_stage: int) -> Option:
    """The fastest that fits; among those as good, the configured stage, then the lowest.

    Raises:
        PlanError: if none fits.
    """
    fitting = [option for option in options if option.fits]
    if not fitting:
        closest = min(options, key=lambda option: option.state.peak(option.activations.peak(1)))
        least = closest.state.peak(closest.activations.peak(1))
        raise PlanError(
            f"no way of running fits: even policy {closest.policy} at stage {closest.stage} needs"
            f" {least / 1e9:.1f} GB for one image; take a GPU with more memory, more GPUs, or a smaller image_size"
        )
    fastest = min(option.step_seconds for option in fitting)
    good = [option for option in fitting if option.step_seconds <= _CLOSE * fastest]
    return min(good, key=lambda o: (o.accumulation, o.stage != configured_stage, o.stage))


def scaling_curve(situation: Situation, recommended: Option) -> list[ScalePoint]:
    """The recommended way on 1 to 1,024 GPUs, the global batch unchanged."""
    points, base = list[ScalePoint](), None
    for gpus in SCALING:
        try:
            option = situation.option(recommended.policy, recommended.stage, gpus)
        except PlanError:
            points.append(ScalePoint(gpus, None, None, None, None, "the global batch cannot be divided"))
            continue
        if not option.fits:
            points.append(ScalePoint(gpus, None, None, None, None, "does not fit"))
            continue
        rate = situation.config.training.global_batch / option.step_seconds
        base = base or rate / gpus
        share = option.network_seconds / option.step_seconds
        points.append(ScalePoint(gpus, rate, rate / gpus / base, option.accumulation, share, None))
    return points


def find_data(config: RunConfig, images: int | None) -> tuple[int | None, int]:
    """Training images and width of the head: as told, else from the data, where they lie on this machine."""
    found, classes = images, config.model.num_classes
    if (found is None or classes is None) and Path(str(config.data.path), config.data.train_split).is_dir():
        from cait_dist.data.reader_webdataset import open_train_split  # noqa: PLC0415

        reader = open_train_split(config.data)
        found, classes = found or reader.num_samples, classes or reader.num_classes
    return found, classes or DEFAULT_CLASSES


def find_calibration(path: Path | None, gpu: Gpu) -> Calibration | None:
    """The file that was named; else the user's, if it is of such a GPU.

    Raises:
        PlanError: if the file that was named cannot be read.
    """
    if path is not None:
        return load_calibration(path)
    if not default_path().is_file():
        return None
    found = load_calibration(default_path())
    return found if found.suits(gpu) else None


def _architecture(config: RunConfig, classes: int) -> Architecture:
    try:
        return architecture(config.model.name, num_classes=classes, **config.model.overrides)
    except ValueError as error:
        raise PlanError(f"'model': {error}") from None


def _duration(option: Option, config: RunConfig, request: Request, images: int | None) -> Duration:
    training = config.training
    rate = training.global_batch / option.step_seconds
    if images is None:
        return Duration(rate, None, None, None, None)
    steps = max(1, math.ceil(training.epochs * images / training.global_batch))
    hours = steps * option.step_seconds / 3600
    return Duration(
        images_per_second=rate,
        steps=steps,
        hours=hours,
        gpu_hours=hours * option.gpus,
        cost=None if request.price is None else hours * option.gpus * request.price,
    )


def _check(request: Request) -> None:
    if request.gpus < 1:
        raise PlanError(f"--gpus must be at least 1, got {request.gpus}")
    if request.gpus_per_node < 1:
        raise PlanError(f"--gpus-per-node must be at least 1, got {request.gpus_per_node}")
    if request.images is not None and request.images < 1:
        raise PlanError(f"--images must be at least 1, got {request.images}")
    if not 0 <= request.reserve < 1:
        raise PlanError(f"--reserve must be a share from 0 to below 1, got {request.reserve:g}")
    if request.attention not in (None, *BACKENDS):
        raise PlanError(f"--attention {request.attention!r} is not known; there are {', '.join(BACKENDS)}")
    calibration = request.calibration
    if calibration is not None and not calibration.suits(request.gpu):
        raise PlanError(
            f"the calibration is of {calibration.hardware}, not of {request.gpu.title}: leave it out, or run"
            " `cait bench step` there"
        )
