"""Which checkpoints a run has: a directory that is complete, or ignored. Nothing here loads torch.

What is in one, and how it is written, is told in ``checkpoint``.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cait_dist.tracking.storage import flush

FORMAT = 1
COMPLETE, STATE, PARTIAL = "COMPLETE", "state.json", ".partial"
SEEN_WITHIN_SECONDS, LOOK_EVERY_SECONDS = 30.0, 0.2
"""A rename may take so long to be seen: half a minute is what NFS keeps an old look at a folder for."""
MAX_STATE_BYTES = 64 * 2**20
"""Of the description: a thousand ranks and a thousand parameters need a hundredth of it."""
START_OVER = "restore one of them, or move them away to start from the beginning"
_FILE = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
"""A name that a file system can have; it is repeated in messages."""


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or does not fit; the message names it and what can be done."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    state: dict[str, Any]
    digest: str
    """of the description, which holds the digests of all files"""

    @property
    def step(self) -> int:
        """Optimizer steps done when it was saved."""
        return int(self.state["step"])

    def damage(self, share: slice = slice(None)) -> str | None:
        """What is wrong with the files' content, or None. Reads every byte of the given share of the files."""
        # Hidden files are not ours: network file systems keep what was removed while somebody read it.
        try:
            there = {entry.name: entry for entry in os.scandir(self.path) if not entry.name.startswith(".")}
        except OSError as error:
            return f"{self.path} cannot be read ({error.strerror or error})"
        if unknown := sorted(there.keys() - {*self.state["files"], STATE, COMPLETE}):
            return f"{self.path} holds {unknown[0]!r}, which is none of its files"
        for name, entry in sorted(self.state["files"].items())[share]:
            file = self.path / name
            if name not in there:
                return f"{file} is missing"
            # A link may lead anywhere, and what it leads to may change.
            if not there[name].is_file(follow_symlinks=False):
                return f"{file} is no plain file"
            if file.stat().st_size != entry["bytes"] or file_sha256(file) != entry["sha256"]:
                return f"{file} does not have the recorded checksum"
        return None


def list_checkpoints(directory: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, oldest first; anything unfinished or unreadable is passed over."""
    found = (open_checkpoint(path) for path in _folders(directory))
    return [checkpoint for checkpoint in found if checkpoint is not None]


def _folders(directory: Path) -> list[Path]:
    """Those that ought to be complete: what is under its first name may be half of one, or one that is there twice."""
    return [path for path in sorted(directory.glob("step-*")) if path.suffix != PARTIAL and path.is_dir()]


def open_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at ``path`` if it is complete and its description is intact, else None."""
    try:
        described = _read_plain(path / STATE)
        digest = hashlib.sha256(described).hexdigest()
        if _read_plain(path / COMPLETE).strip() != digest.encode():
            return None
        state = json.loads(described)
    except (OSError, ValueError, RecursionError):
        return None
    return Checkpoint(path, state, digest) if _is_description(state) else None


def unreadable_checkpoints(directory: Path) -> list[Path]:
    """What claims to be complete and is not: its description or its mark was damaged; oldest first."""
    return [path for path in _folders(directory) if open_checkpoint(path) is None]


def _read_plain(path: Path) -> bytes:
    """A small file's content; OSError for a link, a pipe, which would never end, and for what is too large."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no plain file")
        if status.st_size > MAX_STATE_BYTES:
            raise OSError(errno.EFBIG, f"has more than {MAX_STATE_BYTES:,} bytes")
        return file.read(status.st_size)


def _is_description(state: object) -> bool:
    """Whether what a run's loader relies on is there: a checkpoint may come from anywhere."""
    if not isinstance(state, dict) or state.get("format") != FORMAT or not _is_count(state.get("step")):
        return False
    files, shapes = state.get("files"), state.get("shapes")
    if not isinstance(files, dict) or not isinstance(shapes, dict):
        return False
    return all(
        _FILE.fullmatch(name) and isinstance(entry, dict) and _is_count(entry.get("bytes")) and "sha256" in entry
        for name, entry in files.items()
    ) and all(isinstance(shape, list) and all(map(_is_count, shape)) for shape in shapes.values())


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def set_aside(checkpoint: Checkpoint) -> None:
    """Have nothing go on from a checkpoint any more, without deleting it."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    names = itertools.chain((stamp,), (f"{stamp}-{number}" for number in itertools.count(2)))
    places = (checkpoint.path.with_name(f"abandoned-{checkpoint.path.name}-{name}") for name in names)
    checkpoint.path.rename(next(place for place in places if not place.exists()))


def remove_unfinished(directory: Path) -> None:
    """Delete what a crash left half-written or half-deleted."""
    newest = max((checkpoint.path.name for checkpoint in list_checkpoints(directory)), default="")
    for path in directory.glob("step-*"):
        # Only old ones are ever deleted: a new one without its mark has been damaged, which its owner has to know.
        if path.suffix == PARTIAL:
            remove_partial(path)
        elif path.name < newest and not (path / COMPLETE).exists():
            shutil.rmtree(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def complete_checkpoint(partial: Path, final: Path, state: dict[str, Any]) -> None:
    """Make a checkpoint of a folder that holds all its files: describe it, mark it, flush it and rename it.

    Args:
        partial: the folder
        final: its name when it is complete
        state: the description, without the format

    Raises:
        OSError: if it is not complete under its final name, for whatever reason
    """
    described = json.dumps({"format": FORMAT, **state}, indent=1).encode()
    for name, content in ((STATE, described), (COMPLETE, hashlib.sha256(described).hexdigest().encode())):
        (partial / name).write_bytes(content)
        flush(partial / name)
    flush(partial)
    if not _are_one(partial, final):
        shutil.rmtree(final, ignore_errors=True)
    _rename_for_good(partial, final, hashlib.sha256(described).hexdigest())


def _rename_for_good(partial: Path, final: Path, digest: str) -> None:
    """Rename, and see it: a network file system may forget it, show it late, or deny what it has done.

    Raises:
        OSError: if the checkpoint is not there, complete and flushed, under its final name
    """
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while True:
        if not final.exists():
            # Done, and its answer lost: the question is asked again, and the old name is not there any more.
            with contextlib.suppress(FileNotFoundError):
                partial.rename(final)
        flush(final.parent)
        if _is_there(final, digest):
            return
        if time.monotonic() > deadline:
            raise OSError(
                errno.EIO, f"not complete under its name {SEEN_WITHIN_SECONDS:g} s after it was renamed", str(final)
            )
        time.sleep(LOOK_EVERY_SECONDS)


def _is_there(final: Path, digest: str) -> bool:
    found = open_checkpoint(final)
    if found is None or found.digest != digest:
        return False
    try:
        return all((final / name).stat().st_size == entry["bytes"] for name, entry in found.state["files"].items())
    except OSError:
        return False


def remove_partial(partial: Path) -> None:
    """Delete what was written of a checkpoint, but not a complete one that is still shown under its old name, too."""
    if not _are_one(partial, partial.with_name(partial.name.removesuffix(PARTIAL))):
        shutil.rmtree(partial, ignore_errors=True)


def _are_one(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def prune(directory: Path, keep: int, is_milestone: Callable[[int], bool] = lambda step: False) -> None:
    """Delete the oldest complete checkpoints.

    Args:
        directory: ``checkpoints/`` of a run
        keep: how many of the newest to leave
        is_milestone: whether the checkpoint of a step stays whatever its age
    """
    for checkpoint in list_checkpoints(directory)[:-keep]:
        if not is_milestone(checkpoint.step):
            # Without its mark a half-deleted directory is not complete, whenever the deletion is cut short.
            (checkpoint.path / COMPLETE).unlink()
            shutil.rmtree(checkpoint.path)
