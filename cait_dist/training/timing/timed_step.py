"""A few real training steps of a configuration, on images made up: how long one takes, and how much memory.

Everything is that of a run — engine, precision, recomputation, augmentation, moving average — but nothing is read. The
planner is held against this, and its times of a step without tokens come from here. A teacher is left out.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cait_dist.config import RunConfig
from cait_dist.data.batches import MicroBatch
from cait_dist.planning.counting.batch_plan import BatchPlan
from cait_dist.planning.rates.calibration import Phases

from ..ema import MovingAverage
from ..parallel import parallelize
from ..ranks.process_group import World
from ..starting.initial_model import build_model
from ..starting.plan import image_size_of
from ..step import TrainingStep
from ..zero_partition import ZeroPartition


@dataclass(frozen=True)
class TimedSteps:
    """What was measured on this rank.

    Attributes:
        seconds: of each step after the first.
        phases: of each, likewise, if they were asked for.
        peak_bytes: most that was in use at once in these steps, over what was before the model; of a CPU the resident
            memory of the process, where Linux tells it, else None.
    """

    seconds: tuple[float, ...]
    phases: tuple[Phases, ...]
    peak_bytes: int | None


def take_steps(
    config: RunConfig,
    world: World,
    batches: BatchPlan,
    num_classes: int,
    steps: int,
    clock: Callable[[], float] = time.perf_counter,
    *,
    apart: bool = False,
) -> TimedSteps:
    """Train for a step, and then for ``steps`` more with a stop-watch.

    Args:
        config: of the run; its data are not looked at.
        world: the process group.
        batches: micro-batch and accumulation steps.
        num_classes: width of the head.
        steps: to be measured.
        clock: whose seconds.
        apart: whether to time the phases of a step by themselves, for which a GPU is waited for between them.
    """
    memory = _Memory(world.device)
    torch.manual_seed(config.seed)
    engine = parallelize(build_model(config.model, num_classes), config.training, config.optimizer, batches, world)
    decay = config.training.ema_decay
    average = MovingAverage(ZeroPartition(engine, world.rank, world.size), decay) if decay is not None else None
    marks = _Marks(engine, clock, world.device)
    stepper = TrainingStep(marks if apart else engine, config, num_classes, batches.accumulation, world, average)
    stream = _made_up_batches(image_size_of(config.model), batches, num_classes, world.rank)
    stepper.run(stream).loss.item()  # the first makes the optimizer's state
    memory.forget_peak()
    spans = [_timed(stepper, stream, clock) for _ in range(steps)]
    peak = memory.growth()
    phases = tuple(marks.phases(*span) for span in spans) if apart else ()
    engine.destroy()
    return TimedSteps(tuple(end - began for began, end in spans), phases, peak)


def _timed(
    stepper: TrainingStep, stream: "Iterator[tuple[MicroBatch, float]]", clock: Callable[[], float]
) -> tuple[float, float]:
    began = clock()
    stepper.run(stream).loss.item()
    return began, clock()


class _Marks:
    """An engine that notes when a backward pass and an update begin, and waits for the GPU at both."""

    def __init__(self, engine: Any, clock: Callable[[], float], device: torch.device) -> None:
        self._engine, self._clock, self._device = engine, clock, device
        self._backward, self._update = list[float](), list[float]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, *inputs: Any) -> Any:
        return self._engine(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        self._note(self._backward)
        self._engine.backward(loss)

    def step(self) -> None:
        self._note(self._update)
        self._engine.step()

    def phases(self, began: float, end: float) -> Phases:
        """Of the step in that span."""
        backward = next(seconds for seconds in self._backward if began <= seconds <= end)
        update = next(seconds for seconds in self._update if began <= seconds <= end)
        return Phases(backward - began, update - backward, end - update)

    def _note(self, times: list[float]) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        times.append(self._clock())


def _made_up_batches(
    size: int, batches: BatchPlan, num_classes: int, rank: int
) -> "Iterator[tuple[MicroBatch, float]]":
    generator = torch.Generator().manual_seed(rank)
    count = batches.micro_batch
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    number = 0
    while True:
        first = (number * batches.world_size + rank) * count
        positions = np.arange(first, first + count)
        step, micro = divmod(number, batches.accumulation)
        yield MicroBatch(step, micro, positions, positions, images, labels), 0.0
        number += 1


class _Memory:
    """Memory of this process from now on: of the GPU as torch counts it, else resident."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        gc.collect()
        self._before = torch.cuda.memory_allocated() if self._on_gpu else _of_process("VmRSS")

    def forget_peak(self) -> None:
        """Begin to look for the peak."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        elif self._before is not None:
            Path("/proc/self/clear_refs").write_text("5")  # see proc(5)

    def growth(self) -> int | None:
        """The peak, over what was in use before."""
        peak = torch.cuda.max_memory_allocated() if self._on_gpu else _of_process("VmHWM")
        return None if peak is None or self._before is None else peak - self._before


def _of_process(entry: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(entry)), None)
