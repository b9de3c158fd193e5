"""Saving while training goes on.

A save has three parts, and training waits for the first alone:

=========  ==============  ==================================================================================
copy       every rank      what the rank holds, into memory of the host that is kept for it: touching fresh
                           memory takes longer than copying
write      every rank      its file, flushed and checksummed, in a thread
complete   rank 0          the description and the mark, the rename, and what is to be deleted, in a thread
=========  ==============  ==================================================================================

Nothing collective runs in a thread. Whether a rank still writes travels with the question that the ranks ask each
other at every step anyway (`busy`); when none does, they exchange what they wrote (`advance`). There is one save at a
time: the next waits for the one before it.

A save that fails (a full disk, a quota) loses nothing: what was written is removed, it is told, and training goes on to
the next. Where no next would come, or after three in a row, it is an error.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cait_dist.tracking.storage import flush

from ..ema import MovingAverage
from ..ranks.process_group import World
from ..zero_partition import ZeroPartition
from .checkpoint_files import PARTIAL, CheckpointError, complete_checkpoint, file_sha256, prune, remove_partial
from .host_copy import Arrays, HostCopy

MOST_FAILURES = 3
"""Failed saves in a row that end a run."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is complete.

    Attributes:
        step: of the checkpoint
        stalled: seconds that training waited for it on this rank
        seconds: from its begin until it was complete
        size: bytes on disk
    """

    step: int
    stalled: float
    seconds: float
    size: int

    @property
    def metrics(self) -> dict[str, float]:
        """Under the names that a run records them by."""
        return {
            "checkpoint/stalled_seconds": self.stalled,
            "checkpoint/seconds": self.seconds,
            "checkpoint/gigabytes": self.size / 1e9,
        }


class CheckpointSaver:
    """Saves checkpoints of a run, one at a time.

    Args:
        directory: ``checkpoints/`` of the run, on storage all ranks share
        world: the process group
        partition: what this rank holds
        ema: the moving average, if one is kept
        keep: newest complete checkpoints to leave; pruning starts only after a new one is complete
        is_milestone: whether the checkpoint of a step is kept for good
        fence: raises if this process may not write any more; asked once more before the rename
        say: tells the user something; on rank 0
    """

    def __init__(
        self,
        directory: Path,
        world: World,
        partition: ZeroPartition,
        ema: MovingAverage | None,
        keep: int,
        is_milestone: Callable[[int], bool] = lambda step: False,
        fence: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = print,
    ) -> None:
        self._directory, self._world, self._partition = directory, world, partition
        self._copy = HostCopy(partition, ema)
        self._keep, self._is_milestone, self._fence, self._say = keep, is_milestone, fence, say
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[tuple[str, dict[str, Any]]] | None = None
        self._completing: Future[None] | None = None
        self._progress: dict[str, Any] = {}
        self._began, self._stalled, self._failures, self._size = 0.0, 0.0, 0, 0

    @property
    def busy(self) -> bool:
        """Whether this rank still writes."""
        return self._writing is not None and not self._writing.done()

    def begin(self, progress: dict[str, Any]) -> Saved | None:
        """Copy, and start to write. Collective.

        Args:
            progress: JSON-able state of the loop; must hold ``step``

        Returns:
            on rank 0, the save before this one, if it became complete only now
        """
        began = time.perf_counter()
        before = self.wait()
        self._began = time.perf_counter()
        self._progress = {"optimizer_steps": self._partition.optimizer_steps, **progress}
        file = self._partial / f"rank-{self._world.rank:05d}.safetensors"
        self._writing = self._thread.submit(_write, file, self._copy.take())
        self._stalled = time.perf_counter() - began
        return before

    def advance(self, anyone_busy: bool) -> Saved | None:
        """Go on with a save. Collective where every rank has written.

        Args:
            anyone_busy: whether any rank is, by the same question on all of them

        Returns:
            on rank 0, what has become complete since the last call
        """
        if self._writing is not None and not anyone_busy:
            self._exchange()
        if self._completing is None or not self._completing.done():
            return None
        return self._end()

    def wait(self, *, last: bool = False) -> Saved | None:
        """Finish the save that has begun, if any. Collective.

        Args:
            last: none comes after it, so its failure is an error

        Returns:
            on rank 0, what has become complete

        Raises:
            CheckpointError: if it failed and was the last; on rank 0 also if it was one of too many
        """
        if self._writing is not None:
            self._exchange()
        if not last:
            return self._end() if self._completing is not None else None
        return self._end_for_good()

    @property
    def _final(self) -> Path:
        return self._directory / f"step-{self._progress['step']:08d}"

    @property
    def _partial(self) -> Path:
        return self._final.with_name(self._final.name + PARTIAL)

    def _exchange(self) -> None:
        """Bring together what the ranks wrote, or why they could not."""
        assert self._writing is not None
        mine: tuple[str, Any]
        try:
            mine = self._writing.result()
        except (OSError, SafetensorError) as error:
            mine = f"rank {self._world.rank}", f"{self._partial}: {getattr(error, 'strerror', None) or error}"
        self._writing = None
        entries: list[Any] = [None] * self._world.size
        dist.all_gather_object(entries, mine, group=self._world.control)
        if self._world.is_main:
            self._completing = self._thread.submit(self._complete, dict(entries))

    def _complete(self, entries: dict[str, Any]) -> None:
        if failures := [f"{who}: {why}" for who, why in entries.items() if isinstance(why, str)]:
            raise OSError(failures[0])
        self._size = sum(entry["bytes"] for entry in entries.values())
        state = {"shapes": self._partition.shapes, **self._progress, "files": entries}
        self._fence()
        complete_checkpoint(self._partial, self._final, state)
        prune(self._directory, self._keep, self._is_milestone)

    def _end(self, *, last: bool = False) -> Saved | None:
        assert self._completing is not None
        ending, self._completing = self._completing, None
        step = int(self._progress["step"])
        try:
            ending.result()
        except OSError as error:
            self._failed(step, error, last)
            return None
        self._failures = 0
        return Saved(step, self._stalled, time.perf_counter() - self._began, self._size)

    def _end_for_good(self) -> Saved | None:
        """As `_end`, and no rank leaves before rank 0 knows how it ended."""
        saved, problem = None, None
        if self._completing is not None:
            try:
                saved = self._end(last=True)
            except CheckpointError as error:
                problem = str(error)
        told = [problem]
        dist.broadcast_object_list(told, group=self._world.control)
        if told[0] is not None:
            raise CheckpointError(told[0])
        return saved

    def _failed(self, step: int, error: OSError, last: bool) -> None:
        remove_partial(self._partial)
        self._failures += 1
        what = f"the checkpoint of step {step} could not be written ({error})"
        if last or self._failures >= MOST_FAILURES:
            raise CheckpointError(f"{what}: make room there; the same command goes on from the last complete one")
        self._say(f"{what}: training goes on, and tries again with the next; make room there")


def _write(path: Path, arrays: Arrays) -> tuple[str, dict[str, Any]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path)
    flush(path)
    return path.name, {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
