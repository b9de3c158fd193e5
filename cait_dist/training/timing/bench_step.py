"""`cait bench step`: rates of a device at the shapes of a configuration, held against its real step."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cait_dist.config import RunConfig
from cait_dist.models import Architecture, architecture
from cait_dist.planning.counting.batch_plan import BatchPlan
from cait_dist.planning.counting.numerics import numerics
from cait_dist.planning.errors import PlanError
from cait_dist.planning.options import likely_backend
from cait_dist.planning.rates.calibration import Calibration
from cait_dist.planning.rates.step_bench import StepBench
from cait_dist.planning.rates.step_time import StepTime, Work, predict_step
from cait_dist.planning.run_plan import find_data
from cait_dist.tracking.code_version import describe_code

from ..ranks.process_group import World, join
from .bare_step import bare_steps
from .timed_step import take_steps

_TIMEOUT = 600.0
_FROM_BATCH = 64


@dataclass(frozen=True)
class StepCheck:
    """A real step and its prediction.

    Attributes:
        calibration: with the check written into it.
        measured: seconds of a step, the median.
        predicted: where they should go.
        images: micro-batch.
    """

    calibration: Calibration
    measured: float
    predicted: StepTime
    images: int

    @property
    def ratio(self) -> float:
        """Of the prediction over what was measured."""
        return self.predicted.total / self.measured


def bench_step(
    config: RunConfig, images: int | None, seconds: float, steps: int, say: Callable[[str], None] = lambda _: None
) -> StepCheck:
    """Measure on this process's device.

    Args:
        config: of the run; its data need not be there. What plans do not model is switched off.
        images: micro-batch; None takes the configured limit, or at most 64.
        seconds: to spend on each part.
        steps: of real training.
        say: is told what is measured now.

    Raises:
        PlanError: if the configuration cannot be measured.
    """
    config = as_planned(config)
    arch = _architecture(config)
    images = images or config.training.micro_batch_limit or min(_FROM_BATCH, config.training.global_batch)
    if config.augment.mixes and images % 2:
        raise PlanError(f"--micro-batch must be even, as mixup and cutmix blend neighbours; got {images}")
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
    world = join(_TIMEOUT)
    try:
        backend = likely_backend(arch, str(world.device)) if arch.talking_heads else "plain"
        bench = StepBench(world.device, seconds)
        bare = tuple(bare_steps(config, arch, world, steps, bench.clock, say))
        say("layers and attention")
        calibration = bench.measure(config, arch, images, [backend], bare, describe_code().get("commit"))
        say("real steps")
        return check_step(config, arch, calibration, world, images, steps)
    finally:
        world.leave()


def check_step(
    config: RunConfig, arch: Architecture, calibration: Calibration, world: World, images: int, steps: int
) -> StepCheck:
    """Take real steps, and predict them from a calibration."""
    clock = time.process_time if calibration.clock == "processor" else time.perf_counter
    batches = BatchPlan(images, 1, images, 1)
    found = take_steps(config, world, batches, arch.num_classes, steps, clock)
    measured, predicted = statistics.median(found.seconds), predict_alone(config, arch, calibration, images)
    check = {
        "model": config.model.name,
        "image_size": arch.image_size,
        "depth": arch.depth,
        "precision": config.training.precision,
        "stage": config.training.zero.stage,
        "policy": config.training.activation_checkpointing,
        "micro_batch": images,
        "measured": measured,
        "predicted": predicted.total,
    }
    checked = replace(calibration, checks=(*calibration.checks, check))
    return StepCheck(checked, measured, predicted, images)


def predict_alone(config: RunConfig, arch: Architecture, calibration: Calibration, images: int) -> StepTime:
    """The step of a single process."""
    training = config.training
    width = numerics(training.precision, training.zero.stage)
    work = Work(
        images=images,
        accumulation=1,
        policy=training.activation_checkpointing,
        backend=likely_backend(arch, calibration.device) if arch.talking_heads else "plain",
        stage=training.zero.stage,
    )
    return predict_step(arch, width, calibration, work)


def as_planned(config: RunConfig) -> RunConfig:
    """The configuration without what a plan does not model: compiled branches, and products of 8 bits."""
    training = config.training.model_copy(update={"compile": False, "float8": False})
    return config.model_copy(update={"training": training})


def _architecture(config: RunConfig) -> Architecture:
    try:
        return architecture(config.model.name, num_classes=find_data(config, 0)[1], **config.model.overrides)
    except ValueError as error:
        raise PlanError(f"'model': {error}") from None
