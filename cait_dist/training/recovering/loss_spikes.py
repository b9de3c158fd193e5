"""Spikes of the loss: what counts as one, and how every rank comes to know of it without waiting.

The rule. A step's loss is the mean over all ranks. It is *high* when it exceeds

    median + ``training.rollback.spike`` × spread

of the last ``spike_window`` losses that were not high, where spread is the distance of their quartiles, and at least a
hundredth of the median. So many finite losses must have been seen before any is high. ``spike_steps`` high ones in a
row are a spike. Losses that are not finite are for ``skipped_steps`` and count neither way here.

How it is known. A loss is on the device when its step ends, and reading it would wait for the update. So it is copied
without waiting, read a step later, when the next step's gradient norm has waited for the device anyway, and added up
over the ranks by the question that they ask each other at every step (`LossWatch.due`, `LossWatch.learn`). All of
them know it ``LAG`` steps late. Where a checkpoint is saved nothing is outstanding (`LossWatch.settle`), so that a run
that goes on from it decides as one that was never interrupted.
"""

import math
import statistics
from collections import deque
from typing import Any

import torch

from cait_dist.config.training import RollbackConfig

from ..ranks.process_group import World
from .trouble import TroubleError

LAG = 2
"""Steps until all ranks know a loss."""
LEAST_SPREAD = 0.01
"""Of the median: a loss that hardly varies is not ill for a little more."""


class LossSpikeError(TroubleError):
    """The loss has risen far above what it was and stays there."""


class LossSpikes:
    """The rule: a pure function of the losses in the order of steps.

    Args:
        spike: spreads above the median from which a loss is high
        window: losses that it is held against
        steps: high ones in a row that are a spike
    """

    def __init__(self, spike: float, window: int, steps: int) -> None:
        self._spike, self._steps = spike, steps
        self._usual: deque[float] = deque(maxlen=window)
        self._high: dict[int, float] = {}

    @property
    def suspicious(self) -> bool:
        """Whether the last loss was high."""
        return bool(self._high)

    def see(self, step: int, loss: float) -> None:
        """Take in the loss of the next step.

        Raises:
            LossSpikeError: if it completes a spike
        """
        if not math.isfinite(loss):
            return
        bound = self._bound()
        if loss <= bound:
            self._usual.append(loss)
            self._high = {}
            return
        self._high[step] = loss
        if len(self._high) >= self._steps:
            began = min(self._high)
            what = f"the loss of step {step} is {loss:.4g} and was usually below {bound:.4g} before step {began}"
            # The weights that gave the first high loss are those of the step before.
            raise LossSpikeError(what, began, step + LAG, began - 2, dict(self._high))

    def state(self) -> dict[str, Any]:
        """All that it remembers, as plain JSON."""
        return {"usual": list(self._usual), "high": list(self._high.items())}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from a state; from the beginning for None."""
        state = state or {"usual": [], "high": []}
        self._usual = deque(state["usual"], self._usual.maxlen)
        self._high = dict(state["high"])

    def _bound(self) -> float:
        if len(self._usual) < (self._usual.maxlen or 0):
            return math.inf
        low, middle, high = statistics.quantiles(self._usual, n=4, method="inclusive")
        return middle + self._spike * max(high - low, LEAST_SPREAD * abs(middle))


class LossWatch:
    """Brings the ranks' losses together and holds them against the rule; does nothing where none is asked for.

    Args:
        config: ``training.rollback``
        world: the process group
    """

    def __init__(self, config: RollbackConfig, world: World) -> None:
        self._world = world
        self._rule = (
            LossSpikes(config.spike, config.spike_window, config.spike_steps) if config.spike is not None else None
        )
        self._mine: deque[tuple[int, torch.Tensor, Any]] = deque()
        self._asked: int | None = None

    @property
    def suspicious(self) -> bool:
        """Whether a spike may have begun."""
        return self._rule is not None and self._rule.suspicious

    def put(self, step: int, loss: torch.Tensor) -> None:
        """This rank's loss of a step, wherever it is; does not wait for it."""
        if self._rule is None:
            return
        copied = None
        value = loss.detach().to("cpu", torch.float64, non_blocking=True)
        if loss.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        self._mine.append((step, value, copied))

    def due(self) -> float:
        """This rank's part of the question: the loss of the step before the last; 0 when there is none to tell."""
        if len(self._mine) < LAG:
            return 0.0
        self._asked, loss = self._next()
        return loss

    def learn(self, total: float) -> None:
        """The answer: what all ranks' ``due`` add up to.

        Raises:
            LossSpikeError: on all ranks, if there is a spike
        """
        step, self._asked = self._asked, None
        if step is not None and self._rule is not None:
            self._rule.see(step, total / self._world.size)

    def settle(self) -> None:
        """Bring together what is outstanding. Collective.

        Raises:
            LossSpikeError: on all ranks, if there is a spike
        """
        if self._rule is None or not self._mine:
            return
        mine = [self._next() for _ in range(len(self._mine))]
        total = self._world.sum(torch.tensor([loss for _, loss in mine], dtype=torch.float64)).tolist()
        for (step, _), loss in zip(mine, total, strict=True):
            self._rule.see(step, loss / self._world.size)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint has to hold."""
        return self._rule.state() if self._rule is not None else None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on as from a checkpoint that held this."""
        self._mine.clear()
        if self._rule is not None:
            self._rule.restore(state)

    def _next(self) -> tuple[int, float]:
        step, value, copied = self._mine.popleft()
        if copied is not None:
            copied.synchronize()
        return step, float(value)
