"""Read a whole data set again and list everything that is wrong with it.

Preparation promises shards that fit their manifest; a disk, a copy or a colleague may have broken the promise since.
Nothing here raises for what it finds: the point is the whole list.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .beton import find_betons
from .clean import clean
from .errors import DataPrepError
from .files import file_sha256
from .manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestError,
    Samples,
    ShardInfo,
    count_classes,
    load_manifest,
    read_source_names,
)
from .pool import map_tasks
from .progress import ImageProgress
from .verify_ffcv import check_beton

_MOST_PER_SHARD = 10


@dataclass(frozen=True)
class SplitReport:
    """What was found in one split.

    Attributes:
        name: of the split.
        samples: that the manifest lists.
        shards: that it lists.
        classes: number of classes.
        entropy: of the labels of the whole split, in bits.
        lowest_entropy: of the labels of the shard that is mixed least, in bits; close to ``entropy`` for shards that
            hold many samples of each class, near 0 for shards sorted by class.
    """

    name: str
    samples: int
    shards: int
    classes: int
    entropy: float
    lowest_entropy: float


@dataclass(frozen=True)
class Report:
    """The outcome.

    Attributes:
        splits: what there is.
        betons: names of the betons that were checked.
        problems: what is wrong, each naming its file; empty if all is well.
    """

    splits: list[SplitReport] = field(default_factory=list)
    betons: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{split.name}: {split.samples:,} images in {split.shards:,} shards, {split.classes:,} classes; "
            f"label entropy {split.entropy:.2f} bits, {split.lowest_entropy:.2f} in the least mixed shard"
            for split in self.splits
        ]
        lines += [f"{name}: checked" for name in self.betons]
        lines += [f"problem: {problem}" for problem in self.problems]
        return "\n".join([*lines, f"{len(self.problems)} problems" if self.problems else "all is well"])

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class _ShardTask:
    path: Path
    info: ShardInfo
    rows: Samples


def verify(out_dir: Path | str, *, workers: int = 1, decode: bool = True, progress: bool = False) -> Report:
    """Check checksums, counts, labels and images of a data set.

    Args:
        out_dir: folder of a data set, or of one of its splits.
        workers: processes.
        decode: whether to decode every image, which is most of the work.
        progress: whether to report on standard error.

    Raises:
        DataPrepError: if there is no data set to check.
    """
    report = Report()
    manifests: dict[Path, Manifest] = {}
    folders = _split_folders(Path(out_dir))
    for folder in folders:
        if find_betons(folder) and not _has_tars(folder):
            continue
        try:
            manifests[folder] = load_manifest(folder, check_shards=False)
        except ManifestError as error:
            report.problems.append(str(error))
            continue
        report.splits.append(_describe(manifests[folder]))
        report.problems.extend(_check_folder(folder, manifests[folder]))
    tasks = [task for folder, manifest in manifests.items() for task in _tasks(folder, manifest)]
    work = _check_decoding if decode else _check_only_bytes
    with ImageProgress("verifying", sum(task.info.samples for task in tasks), shown=progress) as shown:
        found = {}
        for task, problems in map_tasks(work, tasks, workers):
            found[task.path] = problems
            shown.add(task.info.samples)
    report.problems.extend(problem for task in tasks for problem in found[task.path])
    for beton in (beton for folder in folders for beton in find_betons(folder)):
        report.betons.append(beton.name)
        manifest = manifests.get(beton.parent)
        report.problems.extend(check_beton(beton, manifest, workers=workers, decode=decode, shown=progress))
    return report


def _split_folders(out_dir: Path) -> list[Path]:
    if not out_dir.is_dir():
        raise DataPrepError(f"{out_dir}: no such folder; give the folder that `cait prep --out` has written")
    if (out_dir / MANIFEST_FILE).exists() or find_betons(out_dir):
        return [out_dir]
    folders = sorted(entry for entry in out_dir.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    # A split's folder without a manifest is a finding; a folder without splits is a wrong folder.
    folders = [folder for folder in folders if _has_tars(folder) or find_betons(folder)]
    if not folders:
        raise DataPrepError(f"{out_dir} holds no prepared split; give the folder that `cait prep --out` has written")
    return folders


def _has_tars(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).exists() or any(folder.glob("*.tar"))


def _describe(manifest: Manifest) -> SplitReport:
    per_shard = [np.asarray([count for _, count in shard.class_counts]) for shard in manifest.shards]
    whole = np.bincount(manifest.samples["label"])
    return SplitReport(
        name=manifest.split,
        samples=len(manifest.samples),
        shards=len(manifest.shards),
        classes=len(manifest.class_names),
        entropy=_entropy(whole),
        lowest_entropy=min(map(_entropy, per_shard)),
    )


def _entropy(counts: npt.NDArray[np.integer]) -> float:
    """Entropy in bits of a distribution given by counts."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def _check_folder(folder: Path, manifest: Manifest) -> Iterator[str]:
    try:
        names = read_source_names(folder)
    except ManifestError as error:
        yield str(error)
    else:
        if len(names) != len(manifest.samples):
            yield f"{folder}: {len(names):,} source names for {len(manifest.samples):,} samples"
    listed = {shard.name for shard in manifest.shards}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed:
            yield f"{path}: not in the manifest; remove it, or prepare the data again"


def _tasks(folder: Path, manifest: Manifest) -> Iterator[_ShardTask]:
    start = 0
    for shard in manifest.shards:
        yield _ShardTask(folder / shard.name, shard, manifest.samples[start : start + shard.samples])
        start += shard.samples


def _check_decoding(task: _ShardTask, stopped: Callable[[], bool]) -> list[str]:
    return _check_shard(task, stopped, decode=True)


def _check_only_bytes(task: _ShardTask, stopped: Callable[[], bool]) -> list[str]:
    return _check_shard(task, stopped, decode=False)


def _check_shard(task: _ShardTask, stopped: Callable[[], bool], *, decode: bool) -> list[str]:
    try:
        size = task.path.stat().st_size
        if size != task.info.bytes:
            return [f"{task.path}: {size:,} bytes, the manifest states {task.info.bytes:,}; {_REMEDY}"]
        problems = [f"{task.path}: {problem}" for problem in _check_rows(task, stopped, decode)]
        if task.info.sha256 and file_sha256(task.path, stopped) != task.info.sha256:
            problems.insert(0, f"{task.path}: the checksum is not that of the manifest; {_REMEDY}")
    except (OSError, tarfile.TarError) as error:
        return [f"{task.path}: cannot be read ({getattr(error, 'strerror', None) or error}); {_REMEDY}"]
    if len(problems) > _MOST_PER_SHARD:
        problems[_MOST_PER_SHARD:] = [f"{task.path}: and {len(problems) - _MOST_PER_SHARD} more problems"]
    return problems


_REMEDY = "fetch the shard again, or delete it and run the same `cait prep` again"


def _check_rows(task: _ShardTask, stopped: Callable[[], bool], decode: bool) -> Iterator[str]:
    if task.info.class_counts != count_classes(task.rows["label"]):
        yield "the class counts in the manifest are not those of its samples"
    with task.path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        places = {}
        labels = {}
        for member in tar:
            key, _, extension = member.name.partition(".")
            if extension in ("jpg", "png"):
                places[member.offset_data, member.size] = key
            elif extension == "cls" and member.size < 20:
                labels[key] = os.pread(file.fileno(), member.size, member.offset_data)
        if len(places) != task.info.samples:
            yield f"the tar holds {len(places):,} images, the manifest states {task.info.samples:,}"
        for row, (_, offset, size, label) in enumerate(task.rows.tolist()):
            if stopped():
                return
            yield from _check_sample(row, places.get((offset, size)), labels, label)
            if decode and (broken := clean(os.pread(file.fileno(), size, offset)).broken):
                yield f"sample {row} of the shard (offset {offset}) cannot be decoded: {broken}"


def _check_sample(row: int, key: str | None, labels: dict[str, bytes], label: int) -> Iterator[str]:
    if key is None:
        yield f"sample {row} of the shard lies elsewhere than the manifest states"
    elif labels.get(key) != str(label).encode():
        yield f"sample {row} of the shard ({key}) has label {labels.get(key)!r} in the tar, {label} in the manifest"
