"""MLflow shows what the run directory holds: read back with MLflow's own client, from a database and from a server."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_command import CAIT, losses, start, train, wait_for

from cait_dist.tracking.metrics import read_metrics
from cait_dist.tracking.run_directory import RunDirectory, read_json

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [
        "server",
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--default-artifact-root", str(tmp_path / "artifacts")],
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    try:
        wait_until_it_answers(f"{uri}/health")
        yield uri
    finally:
        process.terminate()
        process.wait(30)


def wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer")


def check(run: RunDirectory, uri: str, status: str = "FINISHED") -> None:
    """The run in MLflow equals the run directory: status, parameters, one value per step."""
    from mlflow import MlflowClient  # noqa: PLC0415

    client = MlflowClient(uri)
    identity = read_json(run.mirror)
    mirrored = client.get_run(identity["run_id"])
    assert mirrored.info.status == status
    assert mirrored.data.params["model.embed_dim"] == "24"
    assert mirrored.data.params["training.zero.stage"] == "2"
    assert mirrored.data.tags["variant"] == "cait_xxs24_224"
    assert mirrored.data.tags["world_size"] == "2"
    keys = {key for row in read_metrics(run) for key in row} - {"step", "time"}
    assert set(mirrored.data.metrics) == keys
    history = client.get_metric_history(identity["run_id"], "train/loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == losses(run)
    assert "report.md" in {artifact.path for artifact in client.list_artifacts(identity["run_id"])}


def test_the_database_beside_the_runs_holds_the_run(tiny_config: Path) -> None:
    run = train(tiny_config, "tracking.mlflow=true", "--processes", "2")
    check(run, f"sqlite:///{run.path.parent}/mlflow.db")


def test_a_killed_and_resumed_run_is_one_run_with_one_value_per_step(tiny_config: Path, server: str) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415

    arguments = ("tracking.mlflow=true", f"tracking.uri={server}", "training.epochs=1", "--processes", "2")
    first = start(tiny_config, *arguments)
    first.wait_for_checkpoint(10)
    first.wait_for_step(14)
    wait_for(first.run.mirror.exists, "the run in MLflow")
    first.rank(0).kill()
    first.finish()
    shown = subprocess.run([str(CAIT), "status", str(first.run.path)], capture_output=True, text=True, check=True)
    assert "lost" in shown.stdout
    assert "MLflow shows it as KILLED now" in shown.stderr
    again = subprocess.run([str(CAIT), "status", str(first.run.path)], capture_output=True, text=True, check=True)
    assert ("lost" in again.stdout, again.stderr) == (True, ""), "it is marked once"
    killed = MlflowClient(server).get_run(read_json(first.run.mirror)["run_id"])
    assert killed.info.status == "KILLED"
    run = train(tiny_config, *arguments)
    assert len(run.attempts()) == 2
    check(run, server)


def test_a_server_that_is_not_there_costs_a_warning_and_sync_fills_the_gap(tiny_config: Path, server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    training = start(tiny_config, "tracking.mlflow=true", f"tracking.uri={nobody}", "--processes", "2")
    status, out, err = training.finish()
    assert status == 0, err
    assert "cait track sync" in out
    for sent in (None, 0):
        command = [str(CAIT), "track", "sync", str(training.run.path), "--uri", server]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert sent is None or f" {sent} values sent" in done.stdout, "a second call sends nothing"
    check(training.run, server)
