"""Corrupt samples that training met and left out (``data.on_corrupt: skip``; see `cait_dist.data.corrupt`).

``attempt-K/quarantine.jsonl`` has a line for each, written by rank 0 once the ranks have told each other: whether any
of them has news travels with the question they ask each other at every step anyway. So all of them count the same, and
end together when it is too many. Checkpoints hold who is known, so the share is counted over the run, however often it
is interrupted.
"""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cait_dist.config.data import DataConfig
from cait_dist.data.corrupt import CorruptSample
from cait_dist.data.reader_webdataset import open_train_split

from ..ranks.process_group import World

QUARANTINE_FILE = "quarantine.jsonl"
SHOWN_SAMPLES = 3


class TooManyCorruptError(ValueError):
    """More corrupt samples than may be left out; the message names the report and the remedy."""


class Quarantine:
    """Counts the samples that were left out in this run, each once.

    Args:
        folder: of the attempt
        world: the process group
        data: what is read, and how much of it may be corrupt
        num_samples: of the split
        say: tells the user something; on rank 0
    """

    def __init__(
        self, folder: Path, world: World, data: DataConfig, num_samples: int, say: Callable[[str], None]
    ) -> None:
        self._file, self._world, self._data, self._say = folder / QUARANTINE_FILE, world, data, say
        self._most = max(1, int(data.most_corrupt_share * num_samples))
        self._num_samples = num_samples
        self._met = set[int]()
        self._news: list[dict[str, Any]] = []

    @property
    def total(self) -> int:
        """Samples of this run that all ranks know of."""
        return len(self._met)

    def state(self) -> list[int]:
        """What a checkpoint has to hold: who are known."""
        return sorted(self._met)

    def restore(self, state: list[int] | None) -> None:
        """Go on counting from a checkpoint that held this; what was met since, before going back to it, stays met."""
        self._met |= set(state or ())

    def note(self, step: int, corrupt: tuple[CorruptSample, ...]) -> None:
        """Remember what this rank met in a step."""
        for found in corrupt:
            if found.sample not in self._met:
                where = {"rank": self._world.rank, "host": platform.node()}
                facts = {"sample": found.sample, "reason": found.reason, "step": step, "position": found.position}
                self._news.append({**facts, **where})

    def due(self) -> float:
        """How much all ranks have to be told."""
        return float(len(self._news))

    def learn(self, anyone_due: float) -> None:
        """Tell each other, where any rank has something to tell; see `settle`."""
        if anyone_due:
            self.settle()

    def settle(self) -> None:
        """Tell each other everything. Collective.

        Raises:
            TooManyCorruptError: on all ranks, if it is too much
        """
        if self._data.on_corrupt == "stop":
            return
        told: list[Any] = [None] * self._world.size
        dist.all_gather_object(told, self._news, group=self._world.control)
        self._news = []
        new = {entry["sample"]: entry for entries in reversed(told) for entry in reversed(entries)}
        fresh = [new[sample] for sample in sorted(new.keys() - self._met)]
        self._met |= new.keys()
        if fresh and self._world.is_main:
            self._tell(fresh)
        if len(self._met) > self._most:
            raise TooManyCorruptError(
                f"{len(self._met)} of the {self._num_samples:,} samples of {self._place} are corrupt, and"
                f" data.most_corrupt_share={self._data.most_corrupt_share:g} lets {self._most} be left out"
                f" (the last: {fresh[-1]['reason'] if fresh else 'see there'}): {self._file} names them; mend them as"
                f" `cait verify {self._data.path}` says, and the same command goes on from the last checkpoint"
            )

    @property
    def _place(self) -> str:
        return f"{self._data.path}/{self._data.train_split}"

    def _tell(self, fresh: list[dict[str, Any]]) -> None:
        names = self._names()
        for entry in fresh:
            entry["name"] = names[entry["sample"]] if names else None
        shown = "; ".join(f"{entry['name'] or 'no name'}: {entry['reason']}" for entry in fresh[:SHOWN_SAMPLES])
        more = f"; and {len(fresh) - SHOWN_SAMPLES} more" if len(fresh) > SHOWN_SAMPLES else ""
        self._say(f"corrupt, others stand in: {shown}{more}. `cait verify {self._data.path}` says how to mend it")
        try:
            with self._file.open("a") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in fresh)
        except OSError as error:
            self._say(f"{self._file} cannot be written ({error.strerror or error})")

    def _names(self) -> list[str]:
        try:
            return open_train_split(self._data).source_names()
        except (ValueError, OSError):
            return []  # shards by others need not have names
