"""The plan of a data set: which image goes into which shard, fixed before the first image is read.

One seeded shuffle over all images of a split, cut into shards of nearly equal size. Shuffling at writing is what makes
reading simple: every shard is a fair sample of all classes, so even a reader that walks shards in a row sees a mixed
stream. As the plan depends on the list of images and the seed only, shards may be built in any order, by any number of
processes on any number of machines, again and again: the bytes come out the same.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import DataPrepError
from .files import read_plain, write_whole
from .manifest import FORMAT_VERSION
from .split import NeedsScratch, Source, Split

PLAN_FILE = "plan.json"
_MAX_NOTE_BYTES = 2**20
SCRATCH_FOLDER = ".scratch"
# A tar of 1,000 ImageNet photographs has about 110 MB: long enough for sequential reads, short enough to build again.
LARGEST_DEFAULT_SHARD = 1000


@dataclass(frozen=True)
class ShardTask:
    """All that is needed to build one shard, and nothing more: this is what travels to a worker.

    Attributes:
        source: reads the images.
        path: the shard to write.
        first: number of its first sample within the split.
        names: source names, in the order in which they are stored.
        labels: ``(len(names),)``.
        plan_digest: identity of the plan.
        resize: longest that an image's shorter side may be, in pixels; None for any length.
    """

    source: Source
    path: Path
    first: int
    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    plan_digest: str
    resize: int | None = None

    @property
    def split(self) -> str:
        """Name of the split, which is its folder's."""
        return self.path.parent.name


@dataclass(frozen=True)
class PlannedSplit:
    """One split in the order in which it is written.

    Attributes:
        images: names and labels, shuffled.
        starts: ``(shards + 1,)``; shard k holds images ``starts[k]`` to ``starts[k + 1]``.
    """

    images: Split
    starts: npt.NDArray[np.int64]

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self.starts) - 1


@dataclass(frozen=True)
class Plan:
    """What to write where. Made by `make_plan`; picklable.

    Attributes:
        source: where images come from.
        out: folder of the data set.
        seed: of the shuffle.
        splits: by name.
        max_broken: share of a split that may be broken before preparation is given up.
        resize: longest that an image's shorter side may be, in pixels; None for any length.
    """

    source: Source
    out: Path
    seed: int
    splits: Mapping[str, PlannedSplit]
    max_broken: float
    resize: int | None = None

    @property
    def num_shards(self) -> int:
        """Shards of all splits; `task` takes numbers below it."""
        return sum(split.num_shards for split in self.splits.values())

    @property
    def num_images(self) -> int:
        """Images of all splits."""
        return sum(len(split.images.names) for split in self.splits.values())

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """What decides the bytes of the shards, in words; equal identities give equal data sets."""
        facts = {"format": str(FORMAT_VERSION), "source": self.source.kind, "seed": str(self.seed)}
        if self.resize:
            facts["shorter side"] = f"at most {self.resize} pixels"
        for name, split in self.splits.items():
            facts[f"images of {name}"] = f"{len(split.images.names)}, list {_list_digest(split.images)}"
            facts[f"shards of {name}"] = str(split.num_shards)
        return facts

    @cached_property
    def digest(self) -> str:
        """The identity in short."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def task(self, number: int) -> ShardTask:
        """The work of one shard; shards are numbered through all splits.

        Raises:
            IndexError: if there is no such shard.
        """
        rest = number
        for name, split in self.splits.items():
            if 0 <= rest < split.num_shards:
                first, end = int(split.starts[rest]), int(split.starts[rest + 1])
                path = self.out / name / f"{name}-{rest:06d}.tar"
                names, labels = split.images.names[first:end], split.images.labels[first:end]
                return ShardTask(self.source.only(names), path, first, names, labels, self.digest, self.resize)
            rest -= split.num_shards
        raise IndexError(f"the plan has {self.num_shards} shards, there is no number {number}")


def make_plan(
    source: Source,
    out: Path | str,
    *,
    seed: int = 0,
    shard_size: int | None = None,
    max_broken: float = 0.01,
    resize: int | None = None,
) -> Plan:
    """Decide what goes where. Nothing is written yet.

    Args:
        source: where images come from.
        out: folder of the data set; need not exist.
        seed: of the shuffle.
        shard_size: most samples of a shard; by default a sixteenth of the split, within 64 and 1,000.
        max_broken: share of a split's images that may be broken before preparation is given up.
        resize: make images smaller whose shorter side has more pixels than this.

    Raises:
        DataPrepError: if the output folder lies in the source or the other way round, or a number makes no sense.
    """
    out = Path(out)
    if shard_size is not None and shard_size < 1:
        raise DataPrepError(f"a shard holds at least 1 sample, got a shard size of {shard_size}")
    if not 0 <= max_broken <= 1:
        raise DataPrepError(
            f"the share of broken images that is put up with must lie between 0 and 1, got {max_broken}"
        )
    if resize is not None and resize < 1:
        raise DataPrepError(f"images can be resized to a shorter side of at least 1 pixel, got {resize}")
    if not 0 <= seed < 2**32:
        raise DataPrepError(f"the seed must lie between 0 and {2**32 - 1}, got {seed}")
    _refuse_overlap(source, out)
    if isinstance(source, NeedsScratch):
        source = source.keeping_in(out / SCRATCH_FOLDER)
    splits = {name: _plan_split(name, split, seed, shard_size) for name, split in source.splits.items()}
    return Plan(source, out, seed, splits, max_broken, resize)


def claim_folder(plan: Plan) -> None:
    """Create the output folder and write the plan's identity into it, or check that it was made by this very plan.

    Raises:
        DataPrepError: if the folder holds something else; nothing is touched then.
    """
    note = plan.out / PLAN_FILE
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        if note.exists():
            _compare(plan, json.loads(read_plain(note, _MAX_NOTE_BYTES)))
        elif foreign := sorted(entry.name for entry in plan.out.iterdir() if not entry.name.startswith(".")):
            raise DataPrepError(
                f"{plan.out} holds files that are not ours ({', '.join(foreign[:3])}, …); choose a new or empty folder"
            )
        else:
            content = {"place": plan.source.place, "identity": dict(plan.identity)}
            write_whole(note, json.dumps(content, indent=1).encode())
        for name in plan.splits:
            (plan.out / name).mkdir(exist_ok=True)
    except DataPrepError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataPrepError(f"{plan.out}: cannot be used as output ({reason}); choose another folder") from None


def _compare(plan: Plan, note: object) -> None:
    old = note.get("identity") if isinstance(note, dict) else None
    if not isinstance(old, dict):
        raise DataPrepError(
            f"{plan.out / PLAN_FILE} is damaged; choose a new folder, or delete {plan.out} and start again"
        )
    keys = [*plan.identity, *(key for key in old if key not in plan.identity)]
    changed = [key for key in keys if old.get(key) != plan.identity.get(key)]
    if changed:
        what = "; ".join(
            f"{key}: {old.get(key, 'none')} there, {plan.identity.get(key, 'none')} now" for key in changed
        )
        raise DataPrepError(
            f"{plan.out} was made by another plan ({what}); choose a new folder, or delete that one to start again"
        )


def _refuse_overlap(source: Source, out: Path) -> None:
    root = getattr(source, "root", None)
    if root is None:
        return
    inner, outer = out.resolve(), Path(root).resolve()
    if inner.is_relative_to(outer):
        raise DataPrepError(f"the output {out} lies inside the source {root}; choose a folder outside of it")
    if outer.is_relative_to(inner):
        raise DataPrepError(f"the source {root} lies inside the output {out}; choose a folder beside it")


def _plan_split(name: str, images: Split, seed: int, shard_size: int | None) -> PlannedSplit:
    count = len(images.names)
    size = shard_size or min(max(-(-count // 16), 64), LARGEST_DEFAULT_SHARD)
    num_shards = -(-count // size)
    # RandomState, not default_rng: NumPy promises that its stream never changes between versions.
    shuffled = np.random.RandomState([seed, zlib.crc32(name.encode())]).permutation(count)
    starts = np.arange(num_shards + 1) * count // num_shards
    return PlannedSplit(images.subset(shuffled), starts)


def _list_digest(images: Split) -> str:
    state = hashlib.sha256()
    for group in (images.class_names, images.names):
        state.update(json.dumps(group).encode())
    state.update(images.labels.astype("<i8").tobytes())
    return state.hexdigest()[:16]
