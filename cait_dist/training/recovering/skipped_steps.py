"""Steps whose gradient is not finite: no rank applies them, and what is to blame is written down.

One image, one unlucky mixture, a bit that flipped: a gradient with a NaN in it would make every weight NaN at once. The
update is left out on all ranks, which agree because the norm that tells is that of all ranks' gradients, and training
goes on with the next step. ``attempt-K/skipped.jsonl`` has a line for each rank and step: the loss there, and the
samples of those micro-batches whose loss was not finite. Where every loss was, the backward pass overflowed, and all of
the rank's samples are named.

Many in a row are no accident: training goes back, see ``rollback``, or the run ends with status 2. The weights of its
last checkpoint are finite.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..ranks.process_group import World
from ..step import StepResult
from .trouble import TroubleError

SKIPPED_FILE = "skipped.jsonl"
SHOWN_SAMPLES = 5


class NonFiniteLossError(TroubleError):
    """The loss or its gradient became NaN or infinite and stays so; the message says what usually helps."""


class SkippedSteps:
    """Counts the steps that were left out.

    Args:
        folder: of the attempt
        world: the process group
        most_in_a_row: of them before it is an error
        say: tells the user something; on rank 0
    """

    def __init__(self, folder: Path, world: World, most_in_a_row: int, say: Callable[[str], None]) -> None:
        self._file, self._world, self._most, self._say = folder / SKIPPED_FILE, world, most_in_a_row, say
        self._losses: dict[int, list[str]] = {}
        self.in_a_row = 0
        """up to the last step; to be set where training goes on from a checkpoint"""
        self.total = 0
        """of this attempt"""

    def note(self, step: int, result: StepResult) -> None:
        """Look at a step. Collective where it was left out.

        Raises:
            NonFiniteLossError: if too many in a row were
        """
        if not result.left_out:
            self.in_a_row, self._losses = 0, {}
            return
        if not self.in_a_row:
            self._losses = {}
        self.in_a_row += 1
        self.total += 1
        found: list[Any] = [None] * self._world.size
        mine = {"step": step, "rank": self._world.rank, **_blame(result)}
        dist.all_gather_object(found, mine, group=self._world.control)
        self._losses[step] = [loss for entry in found for loss in entry["losses"]]
        told = f"step {step} left out, as its gradient is not finite: {_in_words(found)}"
        if self._world.is_main:
            self._write(found)
            self._say(told)
        if self.in_a_row >= self._most:
            began, losses = step - self.in_a_row + 1, self._losses
            what = f"{told}. That is {self.in_a_row} in a row, and {self._file} names the samples"
            self._losses = {}
            raise NonFiniteLossError(what, began, step, began - 1, losses)

    def _write(self, found: list[dict[str, Any]]) -> None:
        with self._file.open("a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in found)


def _blame(result: StepResult) -> dict[str, Any]:
    losses = [float(loss) for loss in result.losses]
    wrong = [ids for ids, loss in zip(result.ids, losses, strict=True) if not math.isfinite(loss)]
    samples = [int(number) for ids in wrong or result.ids for number in ids]
    return {"losses": [str(loss) for loss in losses], "finite_losses": not wrong, "samples": samples}


def _in_words(found: list[dict[str, Any]]) -> str:
    ranks = [entry for entry in found if not entry["finite_losses"]]
    if not ranks:
        return "every loss is finite, the backward pass overflowed"
    first = ranks[0]
    loss = next(loss for loss in first["losses"] if not math.isfinite(float(loss)))
    shown = ", ".join(map(str, first["samples"][:SHOWN_SAMPLES]))
    more = ", …" if len(first["samples"]) > SHOWN_SAMPLES else ""
    others = " and others" if len(ranks) > 1 else ""
    return f"the loss of rank {first['rank']}{others} is {loss} (samples {shown}{more})"
