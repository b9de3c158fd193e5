"""How long a run is and which learning rate each of its steps has: pure functions of the step.

Nothing here has state, so nothing needs to be saved: a resumed run asks for the same step and gets the same answer.
"""

import math
from dataclasses import dataclass

from cait_dist.config.optimizer import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True)
class Calendar:
    """Steps and epochs of one run. An epoch is as many samples as the data set has; batches may span two epochs."""

    num_samples: int
    global_batch: int
    epochs: float

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return max(1, math.ceil(self.epochs * self.num_samples / self.global_batch))

    def epoch_of(self, step: int) -> float:
        """Epochs seen when ``step`` steps are done."""
        return step * self.global_batch / self.num_samples

    def steps_in(self, epochs: float) -> float:
        """Steps that many epochs take, as a fraction."""
        return epochs * self.num_samples / self.global_batch

    def is_due(self, step: int, every_epochs: float | None) -> bool:
        """Whether the step just done completes another ``every_epochs`` epochs."""
        if every_epochs is None:
            return False
        period = self.steps_in(every_epochs)
        return math.floor(step / period + 1e-9) > math.floor((step - 1) / period + 1e-9)


def peak_learning_rate(optimizer: OptimizerConfig, global_batch: int) -> float:
    """Learning rate after warm-up: ``lr``, scaled by ``global_batch / lr_reference_batch`` where that is set."""
    return optimizer.lr * (global_batch / optimizer.lr_reference_batch if optimizer.lr_reference_batch else 1)


def learning_rate(step: int, calendar: Calendar, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> float:
    """Learning rate of the step after ``step`` steps are done.

    Linear warm-up, then half a cosine over the whole run. As in the recipe of the paper the warm-up does not shift the
    cosine, and neither ``warmup_lr`` nor ``min_lr`` is scaled with the batch.
    """
    peak = peak_learning_rate(optimizer, calendar.global_batch)
    warmup = calendar.steps_in(schedule.warmup_epochs)
    if step < warmup:
        return schedule.warmup_lr + (peak - schedule.warmup_lr) * step / warmup
    if schedule.kind == "constant":
        return peak
    progress = min(1.0, step / calendar.total_steps)
    return schedule.min_lr + 0.5 * (peak - schedule.min_lr) * (1 + math.cos(math.pi * progress))
