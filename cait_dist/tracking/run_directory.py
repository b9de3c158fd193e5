"""The run directory: everything that is needed to resume a run, to report it, and to fill an empty MLflow.

::

    runs/NAME/
      config.yaml            as resolved when the run was begun; never written again
      run.json               identity, one entry per attempt, outcome
      attempt-1/
        config.yaml          what this attempt was started with; the ranks read this file
        metrics.jsonl        one JSON object per line, appended by rank 0
        facts.json           what was planned: sizes of model, data and batches, the device
        code.diff            what the code has beyond its commit, if anything
        rank-1.log …         output of the other ranks
      checkpoints/step-00001234/
      predictions/val-raw.npz  what the last evaluation said about each image
      analysis/step-…/       what `cait analyse` found in the weights: pictures and values
      mlflow.json            which MLflow run mirrors this directory, and up to which step
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from .storage import replace_file


class RunDirectoryError(ValueError):
    """A run directory cannot be used; the message names it and the remedy."""


class RunDirectory:
    """Paths and small records of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.record = path / "run.json"
        self.checkpoints = path / "checkpoints"
        self.analysis = path / "analysis"
        self.mirror = path / "mlflow.json"

    @classmethod
    def existing(cls, path: Path) -> "RunDirectory":
        """The directory of a run that was started before.

        Raises:
            RunDirectoryError: when there is none at ``path``
        """
        directory = cls(path)
        if not directory.record.is_file():
            raise RunDirectoryError(
                f"{path} is not a run directory (it has no run.json): pass runs/NAME of a training run"
            )
        return directory

    def predictions(self, name: str, weights: str) -> Path:
        """File of what the model said about each image of a set."""
        return self.path / "predictions" / f"{name}-{weights}.npz"

    def attempt(self, number: int) -> Path:
        """Directory of the attempt with that number, counted from 1."""
        return self.path / f"attempt-{number}"

    def attempts(self) -> list[Path]:
        """Directories of all attempts, in order."""
        numbered = (path for path in self.path.glob("attempt-*") if path.name.removeprefix("attempt-").isdigit())
        return sorted(numbered, key=lambda path: int(path.name.removeprefix("attempt-")))

    def read_record(self) -> dict[str, Any]:
        """Content of run.json; empty for a directory that was never used."""
        return read_json(self.record) or {"attempts": []}

    def update_attempt(self, number: int, **facts: Any) -> None:
        """Add facts to the entry of one attempt in run.json."""
        record = self.read_record()
        entry = next((a for a in record["attempts"] if a["number"] == number), None)
        if entry is None:
            record["attempts"].append(entry := {"number": number})
        entry |= facts
        write_json(self.record, record)

    def update_record(self, **facts: Any) -> None:
        """Add facts about the whole run to run.json."""
        write_json(self.record, self.read_record() | facts)

    def is_latest(self, number: int) -> bool:
        """Whether no later attempt has begun.

        A scheduler gives a job new nodes when it has lost sight of the old ones, where the attempt before may still be
        at work: it must not write what the run goes on from.
        """
        return not self.attempt(number + 1).exists()

    def lock(self, take_over: bool = False) -> int:
        """Claim the directory for this process and those that inherit the returned file descriptor.

        Args:
            take_over: claim it even if another process holds it: one that is known to be out of the game, such as the
                rest of a job on a node that the scheduler has lost

        Raises:
            RunDirectoryError: when another live process holds it
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if take_over:
                os.close(descriptor)
                # The old file stays locked, under no name.
                (self.path / ".lock").unlink(missing_ok=True)
                return self.lock()
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise RunDirectoryError(
                f"{self.path} is in use by {holder}: wait for it, stop it, or give this run another name=…"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return descriptor

    def is_live(self) -> bool:
        """Whether some process holds the directory now."""
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def timestamp() -> str:
    """Now, to the second, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_json(path: Path) -> Any:
    """Content of a JSON file, None where there is none.

    Raises:
        RunDirectoryError: when it is no JSON, or no plain file: run directories are handed around
    """
    if path.exists() and not path.is_file():
        raise RunDirectoryError(f"{path} is no file: restore it, or give a new run another name=…")
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        raise RunDirectoryError(f"{path} is damaged (no JSON): restore it, or give a new run another name=…") from None


def parse_row(path: Path, line: str | bytes) -> dict[str, Any]:
    """Content of one of the lines of a file of JSON objects.

    Raises:
        RunDirectoryError: when it is none
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise RunDirectoryError(f"{path} is damaged: it has a line that is no JSON object; remove that line")
    return row


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file, see `replace_file`."""
    replace_file(path, json.dumps(content, indent=1).encode())
