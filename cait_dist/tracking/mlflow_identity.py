"""Which MLflow run mirrors a run directory, and how far it got: mlflow.json, and how to do without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .metrics_tail import Cursor
from .mlflow_client import experiment_id
from .mlflow_facts import RunFacts
from .run_directory import RunDirectory, read_json, write_json

Ask = Callable[..., Any]
"""Makes one request: ``ask(method, *arguments, **named)``."""


class Identity:
    """The MLflow run of a directory.

    Args:
        run: the directory
        uri: server or database
        experiment: the run belongs to
        check: called before mlflow.json is written; it raises an error where that is somebody else's by now
    """

    def __init__(self, run: RunDirectory, uri: str, experiment: str, check: Callable[[], None]) -> None:
        self._run, self._uri, self._experiment, self._check = run, uri, experiment, check
        self._facts: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """A fact, None where it is not known."""
        return self._facts.get(name)

    @property
    def run_id(self) -> str:
        """MLflow's name for the run."""
        return str(self._facts["run_id"])

    @property
    def cursor(self) -> Cursor:
        """Behind what was sent."""
        return Cursor.of(self["cursor"])

    def remember(self, **facts: Any) -> None:
        """Write facts into mlflow.json."""
        self._check()
        self._facts |= facts
        write_json(self._run.mirror, self._facts)

    def find_or_create(self, client: Any, facts: RunFacts, ask: Ask) -> None:
        """Find the run in MLflow; create it where there is none, be it that it was deleted or the database is new."""
        if self.find(client, ask):
            return
        experiment = ask(experiment_id, client, self._experiment, self._uri, self._run.path.parent)
        # An answer may have been lost on its way: then the run is there, and nobody wrote it down.
        found = ask(client.search_runs, [experiment], f"tags.run_key = '{facts.key}'", max_results=1)
        mirror = found[0] if found else self._create(client, experiment, facts, ask)
        self._facts = {"uri": self._uri, "experiment": self._experiment, "run_id": mirror.info.run_id}
        self.remember()

    def find(self, client: Any, ask: Ask) -> bool:
        """Take the run that mlflow.json names, if MLflow has it; returns whether it does."""
        known = read_json(self._run.mirror)
        if not known or known["uri"] != self._uri or not _is_there(client, known["run_id"], ask):
            return False
        self._facts = dict(known)
        return True

    def _create(self, client: Any, experiment: str, facts: RunFacts, ask: Ask) -> Any:
        # The parent must be told now for MLflow to show the run under it.
        tags = {key: value for key, value in facts.tags.items() if key.startswith("mlflow.")}
        return ask(
            client.create_run,
            experiment,
            start_time=None if facts.started is None else int(facts.started * 1000),
            run_name=self._run.path.name,
            tags={"run_key": facts.key, **tags},
        )


def _is_there(client: Any, run_id: str, ask: Ask) -> bool:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        run = ask(client.get_run, run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return str(run.info.lifecycle_stage) == "active"
