"""One run of the trainer whose steps alternate with bare ones of the same engine; see ``trainer_overhead.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cait_dist.training.trainer as trainer_module
from cait_dist.config import load_config
from cait_dist.data.loader import MicroBatch
from cait_dist.training import worker
from cait_dist.training.preempt import StopRequest
from cait_dist.training.recovering.replicas import _checksum
from cait_dist.training.starting.attempt import begin_attempt
from cait_dist.training.starting.preflight import preflight
from cait_dist.training.stream import TrainStream
from cait_dist.training.trainer import Trainer

PASSES = ("forward", "backward", "step")
TIMES = 5
"""A part by itself is measured so often."""
_measured: list[_MeasuredTrainer] = []


def train_and_measure(config_file: str, *overrides: str) -> dict[str, Any]:
    """Do the whole run, as a rank of it does; returns ``steps`` and ``parts``."""
    config = load_config(Path(config_file), overrides).config
    attempt = begin_attempt(config, preflight(config, 1), "never")
    assert attempt is not None
    trainer_module.Trainer = _MeasuredTrainer  # type: ignore[misc, assignment]
    worker._train(attempt.run, attempt.number, StopRequest(), None)
    return {"steps": _measured[0].alternating.steps, "parts": _measured[0].parts}


class _MeasuredTrainer(Trainer):
    """The trainer, with a stream of data that makes a bare step before each of its own."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parts: dict[str, float] = {}
        self.alternating = _Alternating(self, self._stream)
        self._stream: Any = self.alternating
        _measured.append(self)

    def run(self) -> str:
        outcome = super().run()
        self.parts = {name: _cost(part) for name, part in self._separate_parts().items()}
        return outcome

    def kind_of(self, step: int) -> str:
        """Of the step that brings the run to that number."""
        training = self._config.training
        if training.health_every is not None and step % training.health_every == 0:
            return "health"
        return "logged" if step % training.log_every == 0 else "plain"

    def bare_step(self, batches: Iterator[tuple[MicroBatch, float]]) -> tuple[float, float]:
        """Processor and wall seconds of forward, backward and update, of data that are there already."""
        batch, _ = next(batches)
        images, targets, keep = self._prepare(batch)
        cpu, wall = time.process_time(), time.perf_counter()
        loss = F.cross_entropy(self._engine(images, keep).float(), targets)
        self._engine.backward(loss)
        self._engine.step()
        return time.process_time() - cpu, time.perf_counter() - wall

    def second_stream(self) -> TrainStream:
        """The same data in the same order."""
        return TrainStream(self._config, self._plan, self._world)

    def time_passes(self, note: Callable[[float], None]) -> None:
        """Have forward, backward and update tell how long they took."""
        for name in PASSES:
            setattr(self._engine, name, _timed(getattr(self._engine, name), note))

    def _prepare(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        stepper = self._stepper
        plan = stepper._augment.plan(batch.positions, batch.images.shape[-2], batch.images.shape[-1])
        images, targets = stepper._augment.carry_out(plan, batch.images, batch.labels)
        return images, targets, stepper.kept_branches(batch.positions)

    def _separate_parts(self) -> dict[str, Callable[[], object]]:
        """What the time outside goes to, each by itself."""
        stream = self.second_stream()
        stream.go_to(0)
        batch, _ = next(stream.batches)
        found: dict[str, Callable[[], object]] = {
            "reading a batch": lambda: next(stream.batches),
            "augmenting it": lambda: self._prepare(batch),
            "checksum of the replicas": lambda: _checksum(self._engine.module),
            "loss of the fixed batch": self._probe.loss,
        }
        if self._ema is not None:
            found["moving average"] = self._ema.update
        if self._config.training.health_every is not None:
            found["look at the weights"] = self._look
        return found

    def _look(self) -> None:
        self._health.begin()
        self._health.end()


class _Alternating:
    """Stands in for the trainer's stream: where the trainer asks for its next data, the step before is over."""

    def __init__(self, trainer: _MeasuredTrainer, stream: TrainStream) -> None:
        self._trainer, self._stream, self._bare = trainer, stream, trainer.second_stream()
        self.steps: list[dict[str, Any]] = []
        self._began = (0.0, 0.0)
        self._inside = 0.0
        trainer.time_passes(self._note_inside)

    @property
    def batches(self) -> Iterator[tuple[MicroBatch, float]]:
        return self._stream.batches

    def go_to(self, place: int) -> None:
        self._end_step()
        self._bare.go_to(place)
        cpu, wall = self._trainer.bare_step(self._bare.batches)
        self.steps.append({"kind": self._trainer.kind_of(place + 1), "bare_cpu": cpu, "bare_wall": wall})
        self._inside, self._began = 0.0, (time.process_time(), time.perf_counter())
        self._stream.go_to(place)

    def close(self) -> None:
        self._stream.close()
        self._bare.close()

    def _end_step(self) -> None:
        if self.steps:
            cpu, wall = time.process_time() - self._began[0], time.perf_counter() - self._began[1]
            self.steps[-1] |= {"cpu": cpu, "wall": wall, "inside": self._inside}

    def _note_inside(self, seconds: float) -> None:
        self._inside += seconds


def _timed(function: Callable[..., Any], note: Callable[[float], None]) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        result = function(*arguments, **named)
        note(time.process_time() - began)
        return result

    return timed


def _cost(part: Callable[[], object]) -> float:
    """Seconds of a processor, the median of a few times."""
    found = []
    for _ in range(TIMES):
        began = time.process_time()
        with torch.no_grad():
            part()
        found.append(time.process_time() - began)
    return sorted(found)[TIMES // 2]
