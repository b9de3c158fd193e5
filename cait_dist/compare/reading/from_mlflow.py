"""A run, from MLflow: where its directory is on another machine, or gone.

MLflow keeps text for settings and knows nothing of attempts; what it does not tell stays unknown. Where the run's
directory can be read from here, that is read instead: it is the truth that MLflow mirrors.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.run_directory import RunDirectory

from ..errors import CompareError
from ..run_data import AttemptData, Curve, RunData, RunFacts, Total
from .from_directory import run_from_directory

NOT_COMPARED = ("system/", "live/")
_OUTCOMES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped", "RUNNING": "running"}
_PAGE = 25000


class MlflowReader:
    """Reads runs of one MLflow.

    Args:
        uri: server or database
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client = bound_client(uri)

    def run(self, run_id: str) -> RunData:
        """One run by its id.

        Raises:
            CompareError: if there is no such run, or MLflow does not answer
        """
        found = self._ask(f"run {run_id}", lambda: self._client.get_run(run_id))
        directory = Path(found.data.tags.get("run_dir", "/nowhere"))
        if RunDirectory(directory).record.is_file():
            return run_from_directory(directory)
        keys = [key for key in found.data.metrics if not key.startswith(NOT_COMPARED)]
        curves = {key: self._ask(key, lambda key=key: self._curve(run_id, key)) for key in keys}
        return _assemble(found, curves)

    def experiment(self, name: str) -> list[str]:
        """Ids of all runs of an experiment, oldest first; those of sweeps themselves are left out.

        Raises:
            CompareError: if there is no such experiment, or MLflow does not answer
        """
        experiment = self._ask(f"experiment {name}", lambda: self._client.get_experiment_by_name(name))
        if experiment is None:
            there = [each.name for each in self._ask("experiments", self._client.search_experiments)]
            raise CompareError(f"MLflow at {self._uri} has no experiment {name!r} (there are: {', '.join(there)})")
        return self._search(experiment.experiment_id, "")

    def children(self, run_id: str) -> list[str]:
        """Ids of the members of a sweep by the id of its own run.

        Raises:
            CompareError: if there is no such run, or it has no members
        """
        parent = self._ask(f"run {run_id}", lambda: self._client.get_run(run_id))
        found = self._search(parent.info.experiment_id, f"tags.mlflow.parentRunId = '{run_id}'")
        if not found:
            raise CompareError(f"MLflow run {run_id} has no members: it is no sweep")
        return found

    def _search(self, experiment_id: str, condition: str) -> list[str]:
        def all_pages() -> Iterable[Any]:
            token = None
            while True:
                page = self._client.search_runs(
                    [experiment_id], condition, max_results=_PAGE, order_by=["attributes.start_time"], page_token=token
                )
                yield from page
                token = page.token
                if not token:
                    return

        runs = self._ask("runs", lambda: list(all_pages()))
        return [run.info.run_id for run in runs if run.data.tags.get("sweep") != "parent"]

    def _curve(self, run_id: str, key: str) -> Curve:
        points = {m.step: (m.step, m.timestamp / 1000, m.value) for m in self._client.get_metric_history(run_id, key)}
        table = np.array([points[step] for step in sorted(points)], dtype=np.float64).reshape(-1, 3)
        return Curve(steps=table[:, 0], times=table[:, 1], values=table[:, 2])

    def _ask(self, what: str, question: Any) -> Any:
        try:
            return question()
        except Exception as error:  # MLflow, its database and the network raise many kinds
            reason = str(error).strip().partition("\n")[0][:200]
            raise CompareError(f"{what} cannot be read from MLflow at {self._uri}: {reason}") from None


def _assemble(found: Any, curves: dict[str, Curve]) -> RunData:
    tags, info = found.data.tags, found.info
    last_step = max((int(curve.steps[-1]) for curve in curves.values() if len(curve.steps)), default=0)
    last_time = max((float(curve.times[-1]) for curve in curves.values() if len(curve.times)), default=0.0)
    config = {key: _value_of(text) for key, text in found.data.params.items()}
    attempt = AttemptData(
        number=int(tags.get("attempts", 1)),
        began=info.start_time / 1000,
        ended=info.end_time / 1000 if info.end_time else max(last_time, info.start_time / 1000),
        first_step=0,
        last_step=last_step,
        processes=int(tags.get("world_size", 1)),
        outcome=_OUTCOMES.get(info.status, "running"),
        redone_steps=int(tags.get("redone_steps", 0)),
        lost_seconds=float(tags.get("lost_seconds", 0)),
    )
    batch = config.get("training.global_batch")
    return RunData(
        name=info.run_name or info.run_id[:8],
        source=f"mlflow:{info.run_id}",
        config=config,
        facts=RunFacts(
            global_batch=batch if isinstance(batch, int) else None,
            train_images=_train_images(curves, batch),
            code={"commit": tags["commit"]} if "commit" in tags else {},
        ),
        attempts=(attempt,),
        curves=curves,
        totals={key: _total_of(curve.values) for key, curve in curves.items()},
    )


def _train_images(curves: dict[str, Curve], batch: Any) -> int | None:
    """From the epoch that each step tells: MLflow has no place for the size of a data set."""
    epochs = curves.get("train/epoch")
    if epochs is None or not isinstance(batch, int) or not epochs.last > 0:
        return None
    return round(float(epochs.steps[-1]) * batch / epochs.last)


def _total_of(values: np.ndarray) -> Total:
    finite = values[np.isfinite(values)]
    if not len(finite):
        nothing = float("nan")
        return Total(len(values), nothing, nothing, nothing, nothing, len(values))
    return Total(
        count=len(values),
        mean=float(finite.mean()),
        typical=float(np.median(finite)),
        low=float(finite.min()),
        high=float(finite.max()),
        not_finite=len(values) - len(finite),
    )


def _value_of(text: str) -> Any:
    """A setting as `flatten` gives it: numbers, None and booleans; lists stay text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (int, float, type(None))) else text
