"""Build one shard of a plan, or find that it is built already.

Beside a finished shard lies a *record*, ``train-000000.tar.json``: the checksum and all that the manifest will need.
The record is written after the shard, so a shard with a record whose checksum fits is finished, and everything else is
not. When the manifest is written the records have done their work and are removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .clean import clean
from .errors import DataPrepError
from .files import Stopped, file_sha256, write_whole
from .manifest import SAMPLE_DTYPE, Samples, ShardInfo, count_classes
from .plan import Plan, ShardTask
from .write_webdataset import write_shard


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard.

    Attributes:
        plan: digest of the plan.
        size: bytes of the tar.
        sha256: its checksum.
        rows: per stored sample: place in the task's lists, offset and size of the JPEG.
        changes: pairs (source name, what was done).
        quarantine: pairs (source name, reason).
    """

    plan: str
    size: int
    sha256: str
    rows: list[tuple[int, int, int]]
    changes: list[tuple[str, str]] = field(default_factory=list)
    quarantine: list[tuple[str, str]] = field(default_factory=list)

    def info(self, task: ShardTask) -> ShardInfo:
        """The shard's entry in the manifest."""
        labels = task.labels[[row[0] for row in self.rows]]
        return ShardInfo(task.path.name, len(self.rows), self.size, self.sha256, count_classes(labels))

    def samples(self, task: ShardTask, shard: int) -> Samples:
        """The shard's rows in the manifest's table."""
        table = np.zeros(len(self.rows), SAMPLE_DTYPE)
        rows = np.asarray(self.rows, dtype=np.int64).reshape(-1, 3)
        table["shard"], table["offset"], table["size"] = shard, rows[:, 1], rows[:, 2]
        table["label"] = task.labels[rows[:, 0]]
        return table


class Built(NamedTuple):
    """A record, and whether it was there already."""

    record: Record
    found_finished: bool


def record_path(shard: Path) -> Path:
    """Where the record of a shard lies."""
    return shard.with_name(shard.name + ".json")


def build_shard(plan: Plan, number: int) -> Built:
    """Build one shard of a plan whose folder was claimed, unless it is finished already.

    Args:
        plan: the plan.
        number: which shard, below ``plan.num_shards``.

    Raises:
        DataPrepError: if the shard cannot be written.
    """
    return build_task(plan.task(number))


def build_task(task: ShardTask, stopped: Callable[[], bool] = lambda: False) -> Built:
    """`build_shard` for a task that has travelled alone; ``stopped`` is asked before every image.

    Raises:
        DataPrepError: if the shard cannot be written.
        Stopped: if ``stopped`` says so; nothing is left behind.
    """
    # A shard from which images were put aside is built again: they may have been repaired since.
    if (old := read_record(task)) is not None and not old.quarantine and _has_checksum(task.path, old, stopped):
        return Built(old, found_finished=True)
    kept: list[int] = []
    changes: list[tuple[str, str]] = []
    quarantine: list[tuple[str, str]] = []

    def images() -> Iterator[tuple[int, bytes, int]]:
        for place, name in enumerate(task.names):
            if stopped():
                raise Stopped
            try:
                outcome = clean(task.source.read(name), task.resize)
            except OSError as error:
                quarantine.append((name, f"cannot be read: {error.strerror or error}"))
                continue
            if outcome.broken:
                quarantine.append((name, outcome.broken))
                continue
            if outcome.change:
                changes.append((name, outcome.change))
            kept.append(place)
            yield task.first + place, outcome.jpeg, int(task.labels[place])

    stored = write_shard(task.path, images())
    rows = [(place, offset, size) for place, (offset, size) in zip(kept, stored.places, strict=True)]
    record = Record(task.plan_digest, stored.size, stored.sha256, rows, changes, quarantine)
    write_record(task, record)
    return Built(record, found_finished=False)


def write_record(task: ShardTask, record: Record) -> None:
    """Note that a shard is finished."""
    write_whole(record_path(task.path), json.dumps(asdict(record)).encode())


def read_record(task: ShardTask) -> Record | None:
    """The record of a shard if there is one of this plan; whether the shard fits it is not looked at."""
    try:
        content = json.loads(record_path(task.path).read_bytes())
        rows = [(int(place), int(offset), int(size)) for place, offset, size in content["rows"]]
        pairs = {key: [(str(name), str(text)) for name, text in content[key]] for key in ("changes", "quarantine")}
        record = Record(content["plan"], content["size"], content["sha256"], rows, **pairs)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # half a record, from a disk that was full, say: the shard is simply built again
    return record if record.plan == task.plan_digest else None


def _has_checksum(path: Path, record: Record, stopped: Callable[[], bool]) -> bool:
    try:
        return path.stat().st_size == record.size and file_sha256(path, stopped) == record.sha256
    except OSError:
        return False


def require_record(task: ShardTask) -> Record:
    """The record of a shard that must be finished by now.

    Raises:
        DataPrepError: if it is not.
    """
    record = read_record(task)
    if record is None:
        raise DataPrepError(f"{task.path} is not built yet; run the preparation again to build what is missing")
    return record
