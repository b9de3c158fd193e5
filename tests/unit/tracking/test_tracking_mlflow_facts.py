"""What MLflow is told about a run follows from its directory: the first error, the restarts, what is durable."""

from pathlib import Path
from typing import Any

import mirrored_runs as runs
import pytest

from cait_dist.tracking.mlflow_facts import durable_step, first_error, read_ending, read_facts
from cait_dist.tracking.run_directory import RunDirectory, write_json


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return runs.make_run(tmp_path)


def report(run: RunDirectory, rank: int, time: float, message: str, **facts: Any) -> None:
    text = f"Traceback (most recent call last):\n  File x\npackage.OddError: {message}\n"
    entry = {"rank": rank, "time": time, "explained": False, "message": message, "traceback": text, **facts}
    write_json(run.attempt(1) / f"rank-{rank}.error.json", entry)


def test_the_first_report_is_the_error_in_one_line(run: RunDirectory) -> None:
    runs.begin(run).close()
    assert first_error(run.attempt(1), {}) is None
    report(run, 0, 20.0, "lost a peer")
    report(run, 3, 10.0, "disk\nfull\n  of logs")
    assert first_error(run.attempt(1), {}) == "rank 3: package.OddError: disk"
    report(run, 1, 5.0, "lower the rate\nor so", explained=True)
    assert first_error(run.attempt(1), {}) == "rank 1: lower the rate"


def test_the_launchers_verdict_counts_more_than_the_order_of_reports(run: RunDirectory) -> None:
    runs.begin(run).close()
    report(run, 0, 20.0, "lost a peer")
    killed = {"rank": 2, "message": "rank 2 was ended by SIGKILL — often memory; its output: x"}
    assert first_error(run.attempt(1), {"failure": killed}) == killed["message"]
    report(run, 2, 30.0, "why")
    assert first_error(run.attempt(1), {"failure": killed}) == "rank 2: package.OddError: why"


def test_an_ending_knows_its_status_its_time_and_last_words(run: RunDirectory) -> None:
    writer = runs.begin(run)
    writer.append(7, 1234.5, {"train/loss": 1.0})
    writer.close()
    lost = read_ending(run)
    assert (lost.status, lost.error, lost.ended, lost.tail) == ("KILLED", None, 1234.5, True)
    run.update_attempt(1, outcome="failed", ended="1970-01-01T00:01:00Z")
    failed = read_ending(run, last_words=KeyError("x"))
    assert (failed.status, failed.error, failed.ended) == ("FAILED", "rank 0: KeyError: 'x'", 60.0)
    run.update_attempt(1, outcome="finished")
    assert (read_ending(run).status, read_ending(run).tail) == ("FINISHED", False)
    run.update_attempt(1, outcome="stopped")
    assert (read_ending(run).status, read_ending(run).tail) == ("KILLED", False)


def test_restarts_are_counted_over_all_jobs_of_a_run(run: RunDirectory) -> None:
    for job, restarts in (("7", 0), ("7", 1), ("7", 3), ("9", 0), ("9", 1)):
        runs.begin(run, job=job, restarts=restarts, nodes=["a", "b"]).close()
    tags = read_facts(run).tags
    assert (tags["requeued"], tags["slurm_job"], tags["nodes"], tags["attempts"]) == ("4", "9", "a b", "5")


def test_only_changed_settings_of_later_attempts_are_tags(run: RunDirectory) -> None:
    runs.begin(run).close()
    runs.begin(run).close()
    text = run.config.read_text().replace("  prefetch: 4", "  prefetch: 9")
    (run.attempt(2) / "config.yaml").write_text(text)
    facts = read_facts(run)
    assert {key: value for key, value in facts.tags.items() if "override" in key} == {"override.2.data.prefetch": "9"}
    assert facts.params["data.prefetch"] == 4


def test_the_key_of_a_run_stays_and_is_its_own(tmp_path: Path) -> None:
    first, second = runs.make_run(tmp_path, "a"), runs.make_run(tmp_path, "b")
    for made in (first, second):
        runs.begin(made).close()
    key = read_facts(first).key
    runs.begin(first, 10).close()
    assert read_facts(first).key == key
    assert read_facts(second).key != key


def test_what_is_durable_follows_from_the_outcome_and_the_checkpoints(run: RunDirectory) -> None:
    runs.begin(run, None).close()
    assert durable_step(run) == -1
    for step in (10, 20):
        runs.save_checkpoint(run, step)
    (run.checkpoints / "step-00000030").mkdir()
    (run.checkpoints / "step-00000040.partial").mkdir()
    (run.checkpoints / "step-00000040.partial" / "COMPLETE").write_text("")
    assert durable_step(run) == 20
    run.update_attempt(1, outcome="stopped", step=25)
    assert durable_step(run) == 25
    run.update_attempt(1, outcome="finished", step=36)
    assert durable_step(run) == float("inf")
