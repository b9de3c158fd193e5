"""Which checkpoints a run has: a directory that is complete, or ignored. Nothing here loads torch.

What is in one, and how it is written, is told in ``checkpoint``.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
COMPLETE, STATE = "COMPLETE", "state.json"


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
        for name, entry in sorted(self.state["files"].items())[share]:
            file = self.path / name
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != entry["bytes"] or file_sha256(file) != entry["sha256"]:
                return f"{file} does not have the recorded checksum"
        return None


def list_checkpoints(directory: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, oldest first; anything unfinished or unreadable is passed over."""
    found = (open_checkpoint(path) for path in sorted(directory.glob("step-*")) if path.is_dir())
    return [checkpoint for checkpoint in found if checkpoint is not None]


def open_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at ``path`` if it is complete and its description is intact, else None."""
    try:
        described = (path / STATE).read_bytes()
        digest = hashlib.sha256(described).hexdigest()
        if (path / COMPLETE).read_text().strip() != digest:
            return None
        state = json.loads(described)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return Checkpoint(path, state, digest) if isinstance(state, dict) and state.get("format") == FORMAT else None


def remove_unfinished(directory: Path) -> None:
    """Delete what a crash left half-written or half-deleted."""
    for path in directory.glob("step-*"):
        if path.suffix == ".partial" or not (path / COMPLETE).exists():
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
    """
    described = json.dumps({"format": FORMAT, **state}, indent=1).encode()
    for name, content in ((STATE, described), (COMPLETE, hashlib.sha256(described).hexdigest().encode())):
        (partial / name).write_bytes(content)
        flush(partial / name)
    flush(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    flush(final.parent)


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


def flush(path: Path) -> None:
    """Have a file or folder on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
