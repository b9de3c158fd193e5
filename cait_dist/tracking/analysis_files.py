"""What `cait analyse` left in a run directory, and which of it MLflow does not have yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .run_directory import RunDirectory


@dataclass(frozen=True)
class AnalysisFile:
    """A file to send.

    Attributes:
        file: where it lies
        folder: of the run's files in MLflow, ``analysis/step-00001234-raw``
        digest: SHA-256 of its content
    """

    file: Path
    folder: str
    digest: str

    @property
    def name(self) -> str:
        """In MLflow, and in the run directory."""
        return f"{self.folder}/{self.file.name}"


def unsent_analyses(run: RunDirectory, sent: Mapping[str, str]) -> Iterator[AnalysisFile]:
    """The files under ``analysis/`` that are new or have changed, in order of their names.

    Args:
        run: the directory
        sent: digests of what MLflow has, by name
    """
    for file in sorted(run.analysis.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(run.analysis).parts):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            found = AnalysisFile(file, file.parent.relative_to(run.path).as_posix(), digest)
            if sent.get(found.name) != digest:
                yield found
