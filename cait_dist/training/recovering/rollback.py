"""Going back: to the last good checkpoint, in the same processes, and past the data that did harm.

Where training goes wrong (`TroubleError`), all ranks load the newest checkpoint that is intact and lies before the
trouble. Batches from there up to the present are not seen again: the steps are done with the data that come after them.
So the data of step s begin at position ``(s + shift) * global_batch``, where the shift grows with every time that a run
goes back; schedule and evaluations go on following the step.

What has to survive a kill is in the run's record, ``run.json``, under ``rollbacks``: from which step which shift holds.
The order of what is done makes a kill at any moment harmless:

1. checkpoints later than the one that is returned to are set aside. A run killed here meets the same trouble again;
2. ``attempt-K/rollbacks.jsonl`` gets a line, for people;
3. the record is replaced. From here on the data are skipped, by whoever goes on.

A run goes back at most so often, over all attempts: then it ends with status 2, and the report says why.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from cait_dist.config.training import RollbackConfig
from cait_dist.tracking.run_directory import RunDirectory

from ..ranks.process_group import World
from ..saving.checkpoint import agree_on_checkpoint
from ..saving.checkpoint_files import Checkpoint, CheckpointError, list_checkpoints, set_aside
from .trouble import TroubleError

ROLLBACKS_FILE = "rollbacks.jsonl"


class GivenUpError(ValueError):
    """Training went wrong and cannot go back, or not again; the message names the report and what usually helps."""


class Rollbacks:
    """How often a run has gone back, and what it has skipped.

    Args:
        run: the run directory
        attempt: number of this attempt
        world: the process group
        config: ``training.rollback``
        global_batch: samples per step
    """

    def __init__(
        self, run: RunDirectory, attempt: int, world: World, config: RollbackConfig, global_batch: int
    ) -> None:
        self._run, self._attempt, self._world, self._config = run, attempt, world, config
        self._global_batch = global_batch
        # From one rank: a network file system may show another an older record.
        found: list[Any] = [run.read_record().get("rollbacks", []) if world.is_main else None]
        dist.broadcast_object_list(found, group=world.control)
        self._done: list[dict[str, Any]] = found[0]

    @property
    def total(self) -> int:
        """Times that the run has gone back, over all attempts."""
        return len(self._done)

    def shift(self, step: int) -> int:
        """Steps of data that are skipped before the data of the step that follows ``step`` done ones."""
        return next((done["shift"] for done in reversed(self._done) if done["to"] <= step), 0)

    def check(self, checkpoint: Checkpoint) -> None:
        """Refuse to use data again that a checkpoint says were skipped.

        Raises:
            CheckpointError: if the run's record knows less than the checkpoint
        """
        if checkpoint.state.get("data_shift", 0) > self.shift(checkpoint.step):
            raise CheckpointError(
                f"{checkpoint.path} skipped data that {self._run.record} does not tell of: restore that file"
            )

    def go_back(self, trouble: TroubleError, warn: Callable[[str], None]) -> Checkpoint:
        """Choose the checkpoint, and write down what is skipped. Collective; no save may be under way.

        Args:
            trouble: on every rank the same
            warn: tells the user something; on rank 0

        Raises:
            GivenUpError: if there is no way back, or it was gone too often
        """
        if self.total >= self._config.at_most:
            self._give_up(trouble, f"training has gone back {self.total} times, as often as it may")
        checkpoint = self._choose(trouble, warn)
        if checkpoint is None:
            self._give_up(trouble, "there is no intact checkpoint from before that to go back to")
        entry = {
            "attempt": self._attempt,
            "from": trouble.until,
            "to": checkpoint.step,
            "shift": self.shift(trouble.until - 1) + trouble.until - checkpoint.step,
        }
        skipped = self._skipped(entry)
        if self._world.is_main:
            for later in list_checkpoints(self._run.checkpoints):
                if later.step > checkpoint.step:
                    set_aside(later)
            self._report(trouble, entry | {"skipped": skipped})
            self._run.update_record(rollbacks=[*self._done, entry])
        self._world.barrier()
        self._done.append(entry)
        warn(f"{trouble.what}: back to step {checkpoint.step}, and past the data of {skipped['steps']} steps")
        return checkpoint

    def _choose(self, trouble: TroubleError, warn: Callable[[str], None]) -> Checkpoint | None:
        self._world.barrier()
        found = [c for c in list_checkpoints(self._run.checkpoints) if c.step <= trouble.sound]
        # Where not one step went well, the checkpoint itself may be ill: an older one, if there is any.
        last = self._done[-1]["to"] if self._done else None
        if last is not None and last + 1 == trouble.began:
            found = [c for c in found if c.step < last] or found
        return agree_on_checkpoint(found, self._world, warn)

    def _skipped(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The data that are skipped: positions of the training stream, which the sample order makes samples of."""
        end = entry["to"] + entry["shift"]
        begin = entry["to"] + self.shift(entry["to"])
        return {"steps": end - begin, "positions": [begin * self._global_batch, end * self._global_batch]}

    def _report(self, trouble: TroubleError, entry: dict[str, Any]) -> None:
        facts = {**entry, "why": trouble.what, "began": trouble.began, "losses": trouble.losses}
        with self._file.open("a") as file:
            file.write(json.dumps(facts) + "\n")

    def _give_up(self, trouble: TroubleError, reason: str) -> NoReturn:
        if self._world.is_main:
            self._report(trouble, {"attempt": self._attempt, "from": trouble.until, "to": None, "reason": reason})
        raise GivenUpError(
            f"{trouble.what}; {reason}: begin again under another name with a lower optimizer.lr, a longer"
            f" schedule.warmup_epochs or optimizer.clip_grad, or go on with a higher training.rollback.at_most."
            f" {self._file} tells what was tried, and the last checkpoint is finite"
        ) from trouble

    @property
    def _file(self) -> Path:
        return self._run.attempt(self._attempt) / ROLLBACKS_FILE
