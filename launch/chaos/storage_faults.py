"""Faults of what is stored: a full disk, damaged checkpoints, damaged images."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from .fault import Fault, Mend, nothing_to_mend
from .subject import Subject

ALL_RANKS_GONE_SECONDS = 1.5
LEFT_BYTES = 20_000
"""On the full disk: for lines of metrics, not for a checkpoint."""


def _fill_disk(subject: Subject, random: Random) -> Mend | None:
    filler = subject.run.path.parent / "filler"
    free = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - LEFT_BYTES))
    return lambda: filler.unlink(missing_ok=True)


def _tear_checkpoint(subject: Subject, random: Random) -> Mend | None:
    """Kill a rank, and damage the newest checkpoint in one of three ways before the next attempt looks at it."""
    # With a single one there would be none before it to go back to.
    if len(subject.checkpoints()) < 2 or not subject.signal_rank(random, signal.SIGKILL):
        return None
    # A save that goes on meanwhile ends, or never will.
    time.sleep(ALL_RANKS_GONE_SECONDS)
    files = sorted(path for path in subject.checkpoints()[-1].path.iterdir() if path.is_file())
    random.choice((_flip_byte, _truncate, _remove))(random.choice(files), random)
    return nothing_to_mend


def _flip_byte(path: Path, random: Random) -> None:
    with path.open("r+b") as file:
        at = random.randrange(path.stat().st_size)
        file.seek(at)
        value = file.read(1)[0]
        file.seek(at)
        file.write(bytes([value ^ 1 << random.randrange(8)]))


def _truncate(path: Path, random: Random) -> None:
    os.truncate(path, random.randrange(path.stat().st_size))


def _remove(path: Path, random: Random) -> None:
    path.unlink()


def _spoil_shard(subject: Subject, random: Random) -> Mend | None:
    shards = sorted((_data_of(subject) / "train").glob("*.tar"))
    shard = random.choice(shards)
    aside = shard.with_name(f"{shard.name}.whole")
    shutil.copyfile(shard, aside)
    random.choice(SPOILING)(shard, random)
    return lambda: aside.replace(shard)


def _zero_a_stretch(shard: Path, random: Random) -> None:
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.seek(random.randrange(size // 2))
        file.write(bytes(size // 4))


SPOILING: tuple[Callable[[Path, Random], None], ...] = (_zero_a_stretch, _truncate)


def _data_of(subject: Subject) -> Path:
    from cait_dist.config import load_config  # noqa: PLC0415 - pydantic is not needed for the list of faults

    return Path(load_config(subject.run.config).config.data.path)


STORAGE_FAULTS = (
    Fault(
        "disk-full", "the disk of the run is full for some seconds, while it saves", _fill_disk, (4, 9), 3,
        needs_mini=True, small_disk=True, profile={"checks": {"min_disk_gb": 0}},
    ),
    Fault(
        "checkpoint-torn", "the newest checkpoint has a byte flipped, is cut or lacks a file, when it is needed",
        _tear_checkpoint, interrupts=True,
    ),
    Fault(
        "shard-corrupt", "a shard of images is cut or partly zeros, until somebody restores it",
        _spoil_shard, (10, 20), interrupts=True,
    ),
)  # fmt: skip
