"""MLflow as a mirror of the run directory.

Rank 0 runs one background thread that reads the metrics file and sends it in batches. Nothing waits for it: a server
that is slow or gone costs a warning, and `cait track sync` fills the gap later. Steps are sent only once a checkpoint
holds them, because MLflow keeps every value it ever got: after a crash the steps beyond the checkpoint are done again,
and would show twice.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .metrics import read_metrics
from .mlflow_client import bound_client, experiment_id, one_writer
from .run_directory import RunDirectory, read_json, write_json

BATCH = 500
MAX_PARAM_LENGTH = 6000
RETRY_SECONDS = 30.0


def default_uri(runs_dir: Path) -> str:
    """The database beside the runs."""
    return f"sqlite:///{runs_dir.resolve() / 'mlflow.db'}"


def artifacts(run: RunDirectory) -> list[Path]:
    """Files that MLflow shows beside the metrics; those that do not exist are passed over when they are sent."""
    return [run.path / "report.md", run.path / "curves.svg", run.config, run.record]


Extra = Callable[[Any, str], None]
"""Called once with (MlflowClient, run id) when the run is open in MLflow: to log what is no metric."""


class MlflowRun:
    """The MLflow run that mirrors one run directory; created on first use, found again through mlflow.json.

    Args:
        run: the directory
        uri: server or database
        experiment: the run belongs to
        extras: called in order after the run was opened; an error of theirs costs a warning, never the mirror
        tell: shows a line to the user
    """

    def __init__(
        self,
        run: RunDirectory,
        uri: str,
        experiment: str,
        extras: Sequence[Extra] = (),
        tell: Callable[[str], None] = print,
    ) -> None:
        self._run, self._uri, self._experiment = run, uri, experiment
        self._extras, self._tell = list(extras), tell
        self._identity: dict[str, Any] = {}
        self._client: Any = None

    def open(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Connect, create the experiment and the run where they do not exist, and log what is known at the start."""
        with one_writer(self._uri):
            self._client = bound_client(self._uri)
            self._identity = self._find_or_create(tags)
            self._client.update_run(self.run_id, status="RUNNING")
            self._log_params(params)
            for name, value in tags.items():
                self._client.set_tag(self.run_id, name, value)
            self._call_extras()

    def _call_extras(self) -> None:
        while self._extras:
            extra = self._extras.pop(0)
            try:
                extra(self._client, self.run_id)
            except Exception as error:  # whatever it is, metrics matter more
                self._tell(f"MLflow lacks a part of this run: {_first_line(error)}")

    @property
    def client(self) -> Any:
        """MLflow's client, bounded in time; None before ``open``."""
        return self._client

    @property
    def run_id(self) -> str:
        """MLflow's name for the run."""
        return str(self._identity["run_id"])

    def send_up_to(self, step: int) -> int:
        """Send the lines after the last one sent, up to ``step``; returns how many values went out."""
        from mlflow.entities import Metric  # noqa: PLC0415

        rows = [row for row in read_metrics(self._run) if self._identity["sent_step"] < row["step"] <= step]
        metrics = [
            Metric(key, float(value), int(row["time"] * 1000), row["step"])
            for row in rows
            for key, value in row.items()
            if key not in ("step", "time")
        ]
        for start in range(0, len(metrics), BATCH):
            with one_writer(self._uri):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
        self._remember(sent_step=max(step, self._identity["sent_step"]))
        return len(metrics)

    def send_all(self) -> int:
        """Send everything, also beyond the last checkpoint, and the outcome; returns how many values went out."""
        rows = read_metrics(self._run)
        sent = self.send_up_to(rows[-1]["step"]) if rows else 0
        outcome = self._run.read_record()["attempts"][-1].get("outcome", "lost")
        self.end(MLFLOW_STATUS[outcome], artifacts(self._run))
        return sent

    def end(self, status: str, artifacts: list[Path]) -> None:
        """Log the files and set the final status: FINISHED, FAILED or KILLED."""
        with one_writer(self._uri):
            for artifact in artifacts:
                if artifact.is_file():
                    self._client.log_artifact(self.run_id, str(artifact))
            self._client.set_terminated(self.run_id, status)

    def _find_or_create(self, tags: dict[str, str]) -> dict[str, Any]:
        known = read_json(self._run.mirror)
        if known and known["uri"] == self._uri:
            return dict(known)
        experiment = experiment_id(self._client, self._experiment, self._uri)
        created = self._client.create_run(experiment, run_name=self._run.path.name, tags=tags)
        self._identity = {
            "uri": self._uri,
            "experiment": self._experiment,
            "run_id": created.info.run_id,
            "sent_step": -1,
        }
        self._remember()
        return self._identity

    def _log_params(self, params: dict[str, Any]) -> None:
        from mlflow.entities import Param  # noqa: PLC0415

        # MLflow refuses to change a parameter: what the run was begun with stays, a resumed attempt adds only new keys.
        present = self._client.get_run(self.run_id).data.params
        fresh = [Param(k, str(v)[:MAX_PARAM_LENGTH]) for k, v in params.items() if k not in present]
        for start in range(0, len(fresh), 100):
            self._client.log_batch(self.run_id, params=fresh[start : start + 100])

    def _remember(self, **facts: Any) -> None:
        self._identity |= facts
        write_json(self._run.mirror, self._identity)


class MlflowMirror:
    """The background thread. Every method returns at once, except ``close``, which is bounded."""

    def __init__(
        self, mlflow_run: MlflowRun, params: dict[str, Any], tags: dict[str, str], warn: Callable[[str], None]
    ) -> None:
        self._mlflow_run, self._params, self._tags, self._warn = mlflow_run, params, tags, warn
        self._durable_step = -1
        self._ending: tuple[str, list[Path]] | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def commit(self, step: int) -> None:
        """Tell that a checkpoint holds everything up to ``step``."""
        self._durable_step = step
        self._wake.set()

    def close(self, status: str, artifacts: list[Path], timeout: float = 30.0) -> bool:
        """Send the rest and the status; returns whether all of it arrived within ``timeout`` seconds."""
        self._ending = (status, artifacts)
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive() and self._complete

    _complete = False

    def _work(self) -> None:
        connected = False
        while True:
            ending = self._ending
            self._wake.clear()
            try:
                if not connected:
                    self._mlflow_run.open(self._params, self._tags)
                    connected = True
                self._mlflow_run.send_up_to(self._durable_step)
                if ending is not None:
                    self._mlflow_run.end(*ending)
                    self._complete = True
            except Exception as error:
                self._warn(
                    f"MLflow does not answer ({_first_line(error)}); metrics stay in {self._mlflow_run._run.path}"
                )
                self._wake.wait(0 if ending else RETRY_SECONDS)
                connected = False
            else:
                self._wake.wait(0 if ending else None)
            if ending is not None:
                return


MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "lost": "KILLED"}
"""Our outcomes in MLflow's words; an attempt without an outcome lost its process."""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
