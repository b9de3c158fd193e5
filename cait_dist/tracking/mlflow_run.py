"""The MLflow run that mirrors one run directory.

Everything here may be done twice: after a crash, a lost answer or a second `cait track sync` MLflow holds each thing
once. It keeps one of two rows that are equal in name, step, time and value, so rows are sent with the time from their
line, and the cursor may be written down after they were sent.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .analysis_files import unsent_analyses
from .metrics import Row
from .metrics_tail import Batch, Cursor, MetricsTail
from .mlflow_client import bound_client, load_mlflow
from .mlflow_facts import Ending, RunFacts
from .mlflow_identity import Identity
from .mlflow_names import (
    MAX_PARAM,
    MAX_TAG,
    clean_text,
    finite_or_nan,
    numbers,
    packed,
    safe_name,
    safe_names,
)
from .run_directory import RunDirectory
from .sqlite_file import one_writer
from .system_metrics import send_system_metrics

BATCH = 500
LIVE_KEYS = ("train/loss", "train/lr", "perf/images_per_second")
"""Shown under live/… while no checkpoint holds them."""

Extra = Callable[[Any, str], None]
"""Called with (MlflowClient, run id) when the run is open in MLflow: to log what is no metric."""


class MlflowRun:
    """Created in MLflow on first use, found again through mlflow.json, or by its key where that was lost.

    Args:
        run: the directory
        uri: server or database
        experiment: the run belongs to
        extras: called in order when the run was opened, each until it worked once; an error of theirs costs a warning.
            The list is emptied on the way
        tell: shows a line to the user
        check: called before every request; it raises an error to end this
    """

    def __init__(
        self,
        run: RunDirectory,
        uri: str,
        experiment: str,
        extras: list[Extra] | None = None,
        tell: Callable[[str], None] = print,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._uri = run, uri
        self._extras = [] if extras is None else extras
        self._tell, self._check = tell, check
        self._identity = Identity(run, uri, experiment, check)
        self._client: Any = None
        self._tail = MetricsTail(run)
        self._complained = False

    @property
    def client(self) -> Any:
        """MLflow's client, bounded in time; None before ``open``."""
        return self._client

    @property
    def run_id(self) -> str:
        """MLflow's name for the run."""
        return self._identity.run_id

    def open(self, facts: RunFacts, running: bool = True) -> None:
        """Connect, create the experiment and the run where they do not exist, and log what is known at the start.

        Args:
            facts: of the run
            running: show it as such
        """
        self._check()
        load_mlflow()  # before others are made to wait
        with one_writer(self._uri):
            self._client = bound_client(self._uri)
            self._identity.find_or_create(self._client, facts, self._ask)
            present = self._ask(self._client.get_run, self.run_id).data
            if running:
                self._ask(self._client.update_run, self.run_id, status="RUNNING")
                if "error" in present.tags:
                    self._ask(self._client.delete_tag, self.run_id, "error")
            self._log_params(facts.params, present.params)
            self._set_tags({"run_key": facts.key, **facts.tags})
            self._call_extras()

    def reopen(self) -> bool:
        """Connect to the run that mlflow.json names, and change nothing of it; returns whether MLflow has it."""
        self._check()
        load_mlflow()
        with one_writer(self._uri):
            self._client = bound_client(self._uri)
            return self._identity.find(self._client, self._ask)

    def send(self, durable: float, progress: Callable[[int], None] = lambda _: None) -> int:
        """Send what MLflow lacks and no later attempt will do again.

        Args:
            durable: the step up to which that is so of the newest attempt
            progress: called after each batch with the share of the files that was read, in bytes

        Returns:
            how many values went out
        """
        sent = 0
        while batch := self._tail.read(self._identity.cursor, durable, BATCH):
            sent += self._send(batch.rows, prefix="")
            self._identity.remember(cursor=batch.cursor.facts())
            progress(self._tail.read_bytes(batch.cursor))
        return sent

    def send_system(self) -> None:
        """Send the nodes' samples that MLflow lacks; an error costs a warning, as metrics matter more."""
        try:
            with one_writer(self._uri):
                known = self._identity["system"] or {}
                cursor = self._ask(send_system_metrics, self._run, self._client, self.run_id, known)
            if cursor != known:
                self._identity.remember(system=cursor)
        except Exception as error:
            self._complain(error)

    def send_tail(self) -> int:
        """Send the steps beyond under ``live/…``; returns how many values went out."""
        cursor, sent = Cursor.of(self._identity["live"]), 0
        if cursor.attempt != self._tail.newest:
            cursor = Cursor(attempt=self._tail.newest)
        while batch := self._tail.read(cursor, math.inf, BATCH):
            sent += self._send(self._live_rows(batch), prefix="live/")
            cursor = batch.cursor
            self._identity.remember(live=cursor.facts())
        return sent

    def end(self, ending: Ending) -> None:
        """Set the final status."""
        with one_writer(self._uri):
            if ending.error is not None:
                self._set_tags({"error": ending.error})
            ended = None if ending.ended is None else int(ending.ended * 1000)
            self._ask(self._client.set_terminated, self.run_id, ending.status, end_time=ended)

    def show_files(self, files: Sequence[Path]) -> None:
        """Log files beside the metrics; those that do not exist are passed over."""
        with one_writer(self._uri):
            for file in files:
                if file.is_file():
                    self._ask(self._client.log_artifact, self.run_id, str(file))

    def send_analyses(self) -> int:
        """Log what `cait analyse` has written since it was last sent; returns how many files that is."""
        sent = dict(self._identity["analyses"] or {})
        new = list(unsent_analyses(self._run, sent))
        for found in new:
            with one_writer(self._uri):
                self._ask(self._client.log_artifact, self.run_id, str(found.file), found.folder)
            sent[found.name] = found.digest
            self._identity.remember(analyses=sent)
        return len(new)

    @property
    def total_bytes(self) -> int:
        """Size of all metrics files."""
        return self._tail.size()

    def _ask(self, request: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self._check()
        return request(*arguments, **named)

    def _log_params(self, params: dict[str, Any], present: dict[str, str]) -> None:
        from mlflow.entities import Param  # noqa: PLC0415

        # MLflow refuses to change a parameter, so only new ones are sent.
        texts = {safe_name(key): clean_text(value, MAX_PARAM) for key, value in params.items()}
        fresh = {key: text for key, text in texts.items() if key not in present}
        for portion in packed(fresh):
            self._ask(
                self._client.log_batch,
                self.run_id,
                params=[Param(key, text) for key, text in portion.items()],
                synchronous=True,
            )
        cut = [key for key, value in params.items() if len(str(value)) > MAX_PARAM and safe_name(key) in fresh]
        if cut:
            self._set_tags({"cut_params": ", ".join(cut)})
            self._tell(f"MLflow shows only the first {MAX_PARAM} characters of {', '.join(cut)}")

    def _set_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag  # noqa: PLC0415

        for portion in packed({safe_name(key): clean_text(text, MAX_TAG) for key, text in tags.items()}):
            pairs = [RunTag(key, text) for key, text in portion.items()]
            self._ask(self._client.log_batch, self.run_id, tags=pairs, synchronous=True)

    def _call_extras(self) -> None:
        for extra in list(self._extras):
            try:
                self._ask(extra, self._client, self.run_id)
            except Exception as error:
                self._complain(error)
            else:
                self._extras.remove(extra)

    def _complain(self, error: Exception) -> None:
        self._check()
        if not self._complained:
            self._tell(f"MLflow lacks a part of this run: {first_line(error)}")
        self._complained = True

    def _live_rows(self, batch: Batch) -> list[Row]:
        known = self._identity.cursor
        return [
            {key: value for key, value in row.items() if key in (*LIVE_KEYS, "step", "time")}
            for row in batch.rows
            if batch.cursor.attempt > known.attempt or row["step"] > known.step
        ]

    def _send(self, rows: list[Row], prefix: str) -> int:
        from mlflow.entities import Metric, RunTag  # noqa: PLC0415

        metrics, odd = [], None
        for row in rows:
            values = numbers(row)
            names = safe_names(values)
            for key, value in values.items():
                if not math.isfinite(value):
                    odd = odd or f"step {row['step']}: {key} was {value}"
                time = int(row["time"] * 1000)
                metrics.append(Metric(prefix + names[key], finite_or_nan(value), time, row["step"]))
        news = odd if odd and not self._identity["nonfinite"] else None
        if not metrics:
            return 0
        with one_writer(self._uri):
            tags = [RunTag("nonfinite", clean_text(news, MAX_TAG))] if news else []
            self._ask(self._client.log_batch, self.run_id, metrics=metrics, tags=tags, synchronous=True)
        if news:
            self._identity.remember(nonfinite=news)
        return len(metrics)


def first_line(error: BaseException) -> str:
    """What an error says, in a line that is not too long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
