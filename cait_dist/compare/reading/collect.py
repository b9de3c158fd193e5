"""Which runs are meant: directories, sweeps and MLflow's ids, in any mixture."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from cait_dist.config.suggest import did_you_mean, nearest_values
from cait_dist.tracking.run_directory import RunDirectory, read_json

from ..errors import CompareError
from ..run_data import RunData
from .from_directory import run_from_directory

if TYPE_CHECKING:
    from .from_mlflow import MlflowReader

SWEEP_FILE = "sweep.json"
_RUN_ID = re.compile(r"[0-9a-f]{32}")

Progress = Callable[[Sequence[str]], Iterable[str]]
"""Passes the sources on, and shows how many are done."""


def collect(
    names: Sequence[str],
    *,
    experiment: str | None = None,
    sweeps: Sequence[str] = (),
    uri: str | None = None,
    progress: Progress = iter,
) -> list[RunData]:
    """Read runs; each once, however often it is named.

    Args:
        names: run directories, folders of a sweep, MLflow run ids
        experiment: of MLflow, all of whose runs are taken
        sweeps: folders of sweeps, or MLflow run ids of theirs
        uri: of MLflow, if it is asked at all
        progress: see `Progress`

    Returns:
        runs with different names, in the order in which they were named

    Raises:
        CompareError: if something named is no run
        RunDirectoryError: if a directory cannot be read
        ConfigError: if a run's configuration cannot be read
    """
    reader = _LazyReader(uri)
    sources: list[str] = []
    for name in (*names, *sweeps):
        sources += _sources_of(name, reader, is_sweep=name in sweeps)
    if experiment is not None:
        sources += reader.get().experiment(experiment)
    runs = [_read(source, reader) for source in progress(sources)]
    once = {run.source: run for run in runs}
    return _with_different_names(list(once.values()))


def tracking_uri(uri: str | None) -> str:
    """MLflow's place: as given, as in the environment, or the database in ``runs``."""
    from cait_dist.tracking.mlflow_mirror import default_uri  # noqa: PLC0415

    known = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if known:
        return known
    if not Path("runs/mlflow.db").is_file():
        raise CompareError("MLflow is asked, but where is it? Pass --uri http://… or sqlite:///…")
    return default_uri(Path("runs"))


class _LazyReader:
    """MLflow is loaded, which takes seconds, only if it is asked."""

    def __init__(self, uri: str | None) -> None:
        self._uri = uri
        self._reader: MlflowReader | None = None

    def get(self) -> MlflowReader:
        """The reader, made on first use."""
        if self._reader is None:
            from .from_mlflow import MlflowReader  # noqa: PLC0415

            self._reader = MlflowReader(tracking_uri(self._uri))
        return self._reader


def _sources_of(name: str, reader: _LazyReader, *, is_sweep: bool) -> list[str]:
    """Directories and ids that a word stands for."""
    path = Path(name)
    if (path / SWEEP_FILE).is_file():
        return _members(path)
    if RunDirectory(path).record.is_file() and not is_sweep:
        return [str(path)]
    if _RUN_ID.fullmatch(name):
        return reader.get().children(name) if is_sweep else [name]
    raise CompareError(_not_there(path, is_sweep))


def _members(folder: Path) -> list[str]:
    """Runs of a sweep that have begun."""
    names = read_json(folder / SWEEP_FILE)["members"]
    begun = [str(folder / name) for name in names if RunDirectory(folder / name).record.is_file()]
    if not begun:
        raise CompareError(f"no member of the sweep {folder} has begun")
    return begun


def _not_there(path: Path, is_sweep: bool) -> str:
    wanted = f"a sweep (it has no {SWEEP_FILE})" if is_sweep else "a run directory (it has no run.json)"
    parent = path.parent
    there = [each.name for each in parent.iterdir() if (each / "run.json").is_file()] if parent.is_dir() else []
    near = did_you_mean([f"{parent / str(found)}" for found in nearest_values(path.name, there)])
    return f"{path} is neither {wanted} nor an MLflow run id{near}"


def _read(source: str, reader: _LazyReader) -> RunData:
    if _RUN_ID.fullmatch(source) and not Path(source).exists():
        return reader.get().run(source)
    return run_from_directory(Path(source))


def _with_different_names(runs: list[RunData]) -> list[RunData]:
    """Names that are shared get as much of their folder as tells them apart."""
    depth = 1
    names = [run.name for run in runs]
    while len(set(names)) < len(names) and depth < 20:
        depth += 1
        shared = {name for name in names if names.count(name) > 1}
        names = [_tail(run, depth) if name in shared else name for run, name in zip(runs, names, strict=True)]
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _tail(run: RunData, depth: int) -> str:
    if run.source.startswith("mlflow:"):
        return f"{run.name} ({run.source.removeprefix('mlflow:')[:8]})"
    return "/".join(PurePath(run.source).parts[-depth:])
