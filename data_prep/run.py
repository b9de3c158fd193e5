"""Carry out a plan: build its shards with several processes, then write the manifests.

The preparation of a large data set is interrupted sooner or later. So whatever happens (Ctrl-C, a killed worker, a
node that goes down), finished shards stay, and running the same command again builds only what is missing; the result
is the same to the byte as that of a run without interruption.

For a job array, call `make_ready` once, `build_shard` anywhere in any order, and `finish` or `run` at the end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .errors import DataPrepError
from .files import write_whole
from .manifest import (
    MANIFEST_FILE,
    QUARANTINE_FILE,
    SAMPLES_FILE,
    SOURCES_FILE,
    Manifest,
    ManifestError,
    load_manifest,
    write_manifest,
)
from .plan import SCRATCH_FOLDER, Plan, ShardTask, claim_folder
from .pool import map_tasks
from .progress import ImageProgress
from .repair import recover_records
from .shard import build_task, record_path, require_record

Quarantine = list[tuple[str, str]]

# A worker takes a second or two to start, in which this process alone could encode about as many small images.
_IMAGES_WORTH_A_WORKER = 2000


@dataclass(frozen=True)
class Summary:
    """What a run has done.

    Attributes:
        images: stored per split.
        shards: in the data set.
        found_finished: shards that were there already.
        changed: images whose bytes are not the original's.
        quarantined: images that were put aside as broken.
        seconds: time taken.
        nothing_to_do: True if the data set was complete before.
    """

    images: dict[str, int]
    shards: int
    found_finished: int
    changed: int
    quarantined: int
    seconds: float
    nothing_to_do: bool = False

    def __str__(self) -> str:
        if self.nothing_to_do:
            return f"nothing to do: {self._content} are there"
        found = f" ({self.found_finished:,} of them found finished)" if self.found_finished else ""
        parts = [f"{self._content}{found} in {self.seconds:.1f} s"]
        parts += [f"{self.changed:,} images changed, see {MANIFEST_FILE}"] if self.changed else []
        parts += [f"{self.quarantined:,} broken images put aside, see {QUARANTINE_FILE}"] if self.quarantined else []
        return "; ".join(parts)

    @property
    def _content(self) -> str:
        images = " + ".join(f"{count:,} {split}" for split, count in self.images.items())
        return f"{images} images in {self.shards:,} shards"


def run(plan: Plan, workers: int | None = None, progress: bool = True) -> Summary:
    """Build what is missing of a plan's data set and finish it.

    Args:
        plan: from `make_plan`.
        workers: processes; with 1, this process does the work. By default, as many as there are cores for this
            process, but no more than the number of images is worth.
        progress: whether to report on standard error.

    Raises:
        DataPrepError: if the folder belongs to another plan or another process is at work in it, if too many images
            are broken, a file cannot be written, or a worker was killed. Finished shards are kept.
        KeyboardInterrupt: after Ctrl-C, once the workers have stopped.
    """
    started = time.monotonic()
    claim_folder(plan)
    with only_one(plan), ImageProgress("preparing", plan.num_images, shown=progress) as shown:
        if (ready := finished(plan)) is not None:
            return _summary(plan, ready, plan.num_shards, started, nothing_to_do=True)
        _sweep(plan)
        recover_records(plan)
        for remark in plan.source.remarks:
            shown.say(remark)
        found = 0
        broken: dict[str, Quarantine] = {split: [] for split in plan.splits}
        try:
            for task, built in map_tasks(
                build_task, [plan.task(i) for i in range(plan.num_shards)], workers or fitting_workers(plan)
            ):
                found += built.found_finished
                shown.add(len(task.names), found_finished=built.found_finished)
                broken[task.split] += built.record.quarantine
                _refuse_many_broken(plan, task.split, broken[task.split])
        except KeyboardInterrupt:
            shown.say(f"stopped; finished shards in {plan.out} are kept: run the same command again to go on")
            raise
        return _summary(plan, finish(plan), found, started)


def make_ready(plan: Plan) -> bool:
    """Claim the folder for builders on other machines; returns whether there is anything to build.

    Raises:
        DataPrepError: if the folder belongs to another plan or another process is at work in it.
    """
    claim_folder(plan)
    with only_one(plan):
        if finished(plan) is not None:
            return False
        _sweep(plan)
        recover_records(plan)
    return True


def fitting_workers(plan: Plan) -> int:
    """As many processes as there are cores for this one, but no more than the number of images is worth."""
    return max(1, min(len(os.sched_getaffinity(0)), plan.num_images // _IMAGES_WORTH_A_WORKER))


def finish(plan: Plan) -> dict[str, Manifest]:
    """Write the manifests of a plan whose shards are all built, and remove the records.

    Returns:
        The manifests by split.

    Raises:
        DataPrepError: if a shard is missing or too many images are broken.
    """
    manifests = {split: _finish_split(plan, split) for split in plan.splits}
    for number in range(plan.num_shards):
        record_path(plan.task(number).path).unlink(missing_ok=True)
    shutil.rmtree(plan.out / SCRATCH_FOLDER, ignore_errors=True)
    return manifests


def _finish_split(plan: Plan, split: str) -> Manifest:
    tasks = _tasks(plan, split)
    pairs = [(task, require_record(task)) for task in tasks]
    quarantine = [entry for _, record in pairs for entry in record.quarantine]
    _refuse_many_broken(plan, split, quarantine)
    # A shard all of whose images are broken is no shard.
    pairs = [(task, record) for task, record in pairs if record.rows]
    if not pairs:
        raise DataPrepError(
            f"{plan.out / split}: no image is left, all {len(quarantine)} are broken; check {plan.source.place}"
        )
    manifest = Manifest(
        split=split,
        source=f"{plan.source.kind}: {plan.source.place}",
        seed=plan.seed,
        class_names=plan.splits[split].images.class_names,
        shards=tuple(record.info(task) for task, record in pairs),
        samples=np.concatenate([record.samples(task, i) for i, (task, record) in enumerate(pairs)]),
        changes=tuple(change for _, record in pairs for change in record.changes),
        quarantined=len(quarantine),
    )
    _write_quarantine(plan, split, quarantine)
    write_manifest(plan.out / split, manifest, [task.names[row[0]] for task, record in pairs for row in record.rows])
    written = {shard.name for shard in manifest.shards}
    for task in tasks:
        if task.path.name not in written:
            task.path.unlink(missing_ok=True)
    return manifest


def _refuse_many_broken(plan: Plan, split: str, quarantine: Quarantine) -> None:
    total = len(plan.splits[split].images.names)
    if len(quarantine) > plan.max_broken * total:
        some = "; ".join(f"{name}: {reason}" for name, reason in quarantine[:3])
        raise DataPrepError(
            f"{len(quarantine)} of {total:,} images of {split} are broken, more than {plan.max_broken:.1%} ({some}; …)"
            "; repair or remove them, or allow a larger share"
        )


def _write_quarantine(plan: Plan, split: str, quarantine: Quarantine) -> None:
    path = plan.out / split / QUARANTINE_FILE
    path.unlink(missing_ok=True)
    if quarantine:
        lines = [json.dumps({"source": name, "reason": reason}) + "\n" for name, reason in quarantine]
        write_whole(path, "".join(lines).encode())


def _tasks(plan: Plan, split: str) -> list[ShardTask]:
    return [task for task in map(plan.task, range(plan.num_shards)) if task.split == split]


def finished(plan: Plan) -> dict[str, Manifest] | None:
    """The manifests, if all are there and their files have the right sizes."""
    files = (MANIFEST_FILE, SAMPLES_FILE, SOURCES_FILE)
    if not all((plan.out / split / name).exists() for split in plan.splits for name in files):
        return None
    try:
        return {split: load_manifest(plan.out / split) for split in plan.splits}
    except ManifestError:
        return None


def _sweep(plan: Plan) -> None:
    """Remove what killed processes have left half-written."""
    for split in plan.splits:
        for path in (plan.out / split).glob(".*.part"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def only_one(plan: Plan, lock: str = ".lock") -> Iterator[None]:
    """Refuse to run while another process prepares the same folder, that is, holds the lock of that name."""
    with (plan.out / lock).open("w") as file:
        try:
            # A POSIX lock, not flock: it dies with this process even if a worker lives a moment longer.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise DataPrepError(
                    f"another process is preparing {plan.out}; wait for it, or choose another folder"
                ) from None
            # A file system without locks: two at a time would still only do the work twice.
        yield


def _summary(
    plan: Plan, manifests: dict[str, Manifest], found: int, started: float, nothing_to_do: bool = False
) -> Summary:
    return Summary(
        images={split: len(manifest.samples) for split, manifest in manifests.items()},
        shards=sum(len(manifest.shards) for manifest in manifests.values()),
        found_finished=found,
        changed=sum(len(manifest.changes) for manifest in manifests.values()),
        quarantined=sum(manifest.quarantined for manifest in manifests.values()),
        seconds=time.monotonic() - started,
        nothing_to_do=nothing_to_do,
    )
