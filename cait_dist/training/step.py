"""One optimizer step: accumulate the gradients of a few micro-batches, then update.

Everything random about a sample — its augmentation, the branches that stochastic depth drops — is looked up
from (seed, position in the training stream). So the step computes the same loss on one rank or on many, whatever is
recomputed, and after a resume.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cait_dist.augment.pipeline import BatchAugmentation, Purpose
from cait_dist.config import RunConfig
from cait_dist.data.corrupt import CorruptSample
from cait_dist.data.loader import MicroBatch
from cait_dist.data.randomness import Stream, key64, uniform

from .batch_copies import BatchCopies
from .distilling.lesson import Guide, Lesson, distil
from .ema import MovingAverage
from .ranks.process_group import World
from .watching.activity import BACKWARD, DATA, FORWARD, OPTIMIZER, enter
from .watching.forward_clock import ForwardClock
from .zero_partition import update_left_out


@dataclass(frozen=True)
class StepResult:
    """What a step leaves behind, still on the device; reading a value waits for the GPU."""

    loss: torch.Tensor
    """mean over this rank's part of the global batch"""
    losses: list[torch.Tensor]
    """of each micro-batch"""
    ids: list[np.ndarray]
    """samples of each micro-batch"""
    left_out: bool
    """whether no rank updated its weights, as the gradient was not finite"""
    data_wait: float
    """seconds the step waited for its images"""
    forward: ForwardClock
    """time of the forward passes"""
    corrupt: tuple[CorruptSample, ...] = ()
    """samples that others stood in for"""
    taught: torch.Tensor | None = None
    """with a teacher, (2,): mean of its term of the loss, and share of the images about which the student agrees"""


class TrainingStep:
    """Runs steps on an engine.

    Args:
        engine: from ``parallelize``
        config: of the run
        num_classes: width of the head
        accumulation: micro-batches per step
        world: the process group
        ema: updated after every step, if there is one
        guide: what is learnt from besides the labels, if anything
    """

    def __init__(
        self,
        engine: Any,
        config: RunConfig,
        num_classes: int,
        accumulation: int,
        world: World,
        ema: MovingAverage | None,
        guide: Guide | None = None,
    ) -> None:
        self._engine, self._config, self._ema, self._world = engine, config, ema, world
        self._guide = guide
        self._accumulation = accumulation
        self._copies = BatchCopies(world.device)
        self._augment = BatchAugmentation(config.augment, num_classes, self._look_up, world.device)
        self._has_dropout = config.model.drop_rate > 0 or config.model.attn_drop_rate > 0

    def run(self, batches: "Iterator[tuple[MicroBatch, float]]") -> StepResult:
        """Take ``accumulation`` micro-batches (with the seconds each was waited for) and update the weights once."""
        lessons, ids, waited, forward = list[Lesson](), list[np.ndarray](), 0.0, ForwardClock(self._world.device)
        corrupt: tuple[CorruptSample, ...] = ()
        for _ in range(self._accumulation):
            enter(DATA)
            batch, seconds = next(batches)
            waited += seconds
            enter(FORWARD)
            with forward.running():
                lesson = self._lesson(batch)
            enter(BACKWARD)
            self._engine.backward(lesson.loss)
            enter(OPTIMIZER)
            self._engine.step()
            lessons.append(replace(lesson, loss=lesson.loss.detach()))
            ids.append(batch.ids)
            corrupt += batch.corrupt
        left_out = update_left_out(self._engine)
        if self._ema is not None and not left_out:
            self._ema.update()
        losses = [lesson.loss for lesson in lessons]
        taught = [lesson.parts for lesson in lessons if lesson.parts is not None]
        return StepResult(
            torch.stack(losses).mean(),
            losses,
            ids,
            left_out,
            waited,
            forward,
            corrupt,
            torch.stack(taught).mean(0) if taught else None,
        )

    def _lesson(self, batch: MicroBatch) -> Lesson:
        """Soft-target cross-entropy of one micro-batch, in fp32, and the teacher's term if there is one."""
        images, labels = self._copies.bring((batch.images, batch.labels))
        plan = self._augment.plan(batch.positions, images.shape[-2], images.shape[-1])
        images, targets = self._augment.carry_out(plan, images, labels)
        keep = self.kept_branches(batch.positions)
        if self._has_dropout:
            # Dropout needs a generator; seeded per micro-batch, it too needs no state in a checkpoint.
            torch.manual_seed(key64(self._config.seed, Stream.DROPOUT, int(batch.positions[0])) >> 1)
        logits = self._engine(images, keep)
        if self._guide is None:
            return Lesson(F.cross_entropy(logits.float(), targets))
        teacher = self._guide.targets(images, batch.ids, plan.mixing)
        return distil(logits, targets, teacher, self._config.distillation)

    def _look_up(self, purpose: Purpose, positions: np.ndarray, draws: int) -> np.ndarray:
        return uniform(self._config.seed, Stream[purpose], positions, draws)

    def kept_branches(self, positions: np.ndarray) -> torch.Tensor | None:
        """Stochastic depth: which branches of which samples run, bool (b, depth, 2) on the host; None at rate 0."""
        rate = self._config.model.drop_path_rate
        if rate == 0:
            return None
        depth = len(self._engine.module.blocks)
        draws = uniform(self._config.seed, Stream.DROP_PATH, positions, 2 * depth)
        return torch.from_numpy(draws >= rate).view(len(positions), depth, 2)
