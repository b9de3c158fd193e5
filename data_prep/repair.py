"""Mend a finished data set of which some shards were lost: build those again, and only those.

The records that preparation keeps beside unfinished work are gone by then, but the manifest knows as much. So records
are written anew from it, and preparation goes on as after an interruption: a shard whose checksum fits is kept.
"""

from __future__ import annotations

from .manifest import Manifest, ManifestError, load_manifest, one_line, read_source_names
from .plan import Plan, ShardTask
from .shard import Record, read_record, write_record


def recover_records(plan: Plan) -> None:
    """Write the missing records of all shards that a manifest vouches for; a split without a sound one has none."""
    tasks = {(task.split, task.path.name): task for task in map(plan.task, range(plan.num_shards))}
    for split in plan.splits:
        folder = plan.out / split
        try:
            manifest = load_manifest(folder, check_shards=False)
            names = read_source_names(folder)
        except ManifestError:
            continue
        start = 0
        for number, shard in enumerate(manifest.shards):
            stored = names[start : start + shard.samples]
            task = tasks.get((split, shard.name))
            if task is not None and stored == [one_line(name) for name in task.names] and read_record(task) is None:
                write_record(task, _record(plan, task, manifest, number, start))
            start += shard.samples


def _record(plan: Plan, task: ShardTask, manifest: Manifest, number: int, start: int) -> Record:
    """The record of a shard that holds all images of its task, which lie from row ``start`` on in the manifest."""
    shard = manifest.shards[number]
    rows = manifest.samples[start : start + shard.samples].tolist()
    places = [(place, offset, size) for place, (_, offset, size, _) in enumerate(rows)]
    own = set(task.names)
    changes = [change for change in manifest.changes if change[0] in own]
    return Record(plan.digest, shard.bytes, shard.sha256, places, changes)
