"""`cait track serve` as a user starts it: one real server for most cases, and one on a private PostgreSQL."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from training_command import CAIT, train, wait_for

from cait_dist.tracking.metrics import read_metrics, series
from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.probe import API, local_experiments, probe
from cait_dist.tracking.serve import _only_server_of
from cait_dist.tracking.system_metrics import node_name, read_samples
from cait_dist.training.saving.export import export_weights
from launch.check.tracking_server import unreachable

pytestmark = pytest.mark.slow

NAME = "tracker.example"
PASSWORD = "hunter2-of-the-test"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Serving:
    """A running `cait track serve`."""

    process: subprocess.Popen[str]
    folder: Path
    port: int
    said: str = ""

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def family(self) -> list[psutil.Process]:
        """All of its processes, `cait` first."""
        head = psutil.Process(self.process.pid)
        return [head, *head.children(recursive=True)]

    def wait_until_announced(self) -> None:
        """Wait for the line by which users know that it answers."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if "accepts" in line or ("train with" in line and NAME not in line):
                return
        raise AssertionError(f"{self.said}\n{(self.folder / 'mlflow-server.log').read_text()[-3000:]}")


def start(folder: Path, *arguments: str, **environment: str) -> Serving:
    port = free_port()
    process = subprocess.Popen(
        [str(CAIT), "track", "serve", str(folder), "--port", str(port), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    return Serving(process, folder, port)


def end(serving: Serving, how: signal.Signals) -> None:
    """Send the signal and see that nothing of the server is left."""
    family = serving.family()
    assert len(family) >= 4, "cait, MLflow, and its workers"
    began = time.monotonic()
    serving.process.send_signal(how)
    assert serving.process.wait(30) == 0
    assert time.monotonic() - began < 15
    assert [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    serving = start(
        tmp_path_factory.mktemp("server") / "runs", "--host", "0.0.0.0", "--allowed-hosts", NAME,
        MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_SERVER_ALLOWED_HOSTS="other.example",
    )  # fmt: skip
    try:
        serving.wait_until_announced()
        yield serving
    finally:
        serving.process.terminate()
        serving.process.wait(30)


def in_parallel(count: int, work: Any) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_eight_clients_that_come_at_once_find_a_fresh_database_whole(serving: Serving) -> None:
    # First in this file: whether the database is fresh is what it is about.
    assert f"tracking.uri=http://{NAME}:{serving.port}" in serving.said
    assert "add others with --allowed-hosts" in serving.said

    def client(number: int) -> str:
        mlflow = bound_client(serving.uri)
        experiment = mlflow.create_experiment(f"client-{number}")
        run = mlflow.create_run(experiment, run_name=f"run-{number}")
        mlflow.log_metric(run.info.run_id, "train/loss", float(number), step=1)
        mlflow.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    runs = in_parallel(8, client)
    mlflow = bound_client(serving.uri)
    assert [mlflow.get_run(run).data.metrics["train/loss"] for run in runs] == [float(n) for n in range(8)]
    with sqlite3.connect(serving.folder / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_sixteen_writers_lose_nothing(serving: Serving) -> None:
    from mlflow.entities import Metric  # noqa: PLC0415

    experiment = bound_client(serving.uri).create_experiment("sixteen")

    def writer(number: int) -> tuple[str, list[float]]:
        mlflow = bound_client(serving.uri)
        run = str(mlflow.create_run(experiment).info.run_id)
        values = [number + step / 100 for step in range(60)]
        for begin in range(0, 60, 20):
            batch = [Metric("loss", values[step], 1000 + step, step) for step in range(begin, begin + 20)]
            mlflow.log_batch(run, metrics=batch)
        return run, values

    written = in_parallel(16, writer)
    mlflow = bound_client(serving.uri)
    for run, values in written:
        assert [metric.value for metric in mlflow.get_metric_history(run, "loss")] == values


def test_a_name_that_it_was_not_told_is_noticed_though_it_is_healthy(serving: Serving) -> None:
    for name in (NAME, "localhost", "127.0.0.1"):
        assert probe(serving.uri, f"{name}:{serving.port}").state == "ok"
    assert probe(serving.uri, f"{NAME}:8080").state == "ok", "a tunnel has another port"
    foreign = probe(serving.uri, f"login99:{serving.port}")
    assert foreign.state == "foreign name"
    assert "--allowed-hosts login99" in foreign.text
    healthy = urllib.request.Request(f"{serving.uri}/health", headers={"Host": "login99"})
    assert urllib.request.urlopen(healthy, timeout=5).status == 200
    assert unreachable(serving.uri) is None


def test_its_page_may_send_and_foreign_pages_may_not(serving: Serving) -> None:
    def status(origin: str) -> int:
        place = f"{serving.uri}/ajax-api/2.0/mlflow/experiments/search"
        headers = {"Host": f"{NAME}:{serving.port}", "Origin": origin, "Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(place, b'{"max_results": 1}', headers)) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status(f"http://{NAME}:{serving.port}") == 200
    assert status("http://evil.example") == 403


def test_files_go_through_the_server(serving: Serving, tmp_path: Path) -> None:
    mlflow = bound_client(serving.uri)
    run = mlflow.create_run("0")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/"), "a client needs no folder in common"
    (tmp_path / "weights.bin").write_bytes(os.urandom(300_000))
    mlflow.log_artifact(run.info.run_id, str(tmp_path / "weights.bin"))
    back_dir = tmp_path / "back"
    back_dir.mkdir()
    back = mlflow.download_artifacts(run.info.run_id, "weights.bin", str(back_dir))
    assert Path(back).read_bytes() == (tmp_path / "weights.bin").read_bytes()
    assert len(list((serving.folder / "mlflow-artifacts").rglob("weights.bin"))) == 1
    assert local_experiments(serving.uri) == []
    mlflow.create_experiment("beside the runs", str(tmp_path / "folder"))
    assert local_experiments(serving.uri) == ["beside the runs"]


def test_a_trained_run_is_found_in_the_registry_by_its_alias(
    serving: Serving, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tiny_config, "tracking.mlflow=true", f"tracking.uri={serving.uri}", "tracking.system_seconds=0.5")
    done = run_cait("track", "register", str(run.path), "digits", "--alias", "champion", "--weights", "ema")
    assert done.stdout == f"digits version 1, champion: made from {run.path}\n", done.stderr

    mlflow = bound_client(serving.uri)
    found = mlflow.get_model_version_by_alias("digits", "champion")
    last = [value for _, value in series(read_metrics(run), "val_ema/top1")][-1]
    assert found.tags["val/top1"] == f"{last:.3f}"
    assert found.tags["run_dir"] == str(run.path)
    assert found.tags["commit"] == run.read_record()["attempts"][0]["code"].get("commit", "unknown")
    export_weights(run.path, tmp_path / "exported.safetensors", "ema")
    assert fetch("models:/digits@champion", serving.uri, tmp_path / "fetched", monkeypatch) == {
        f"tiny-step-{36:08}-ema.safetensors": (tmp_path / "exported.safetensors").read_bytes()
    }
    files = fetch(f"runs:/{found.run_id}/", serving.uri, tmp_path / "files", monkeypatch)
    assert json.loads(files["environment.json"])["python"] == platform.python_version()
    assert files["config.yaml"] == run.config.read_bytes()
    assert json.loads(files["plan-versus-actual.json"])["actual"]["steps"] == 36
    shown = {entry.dataset.name: entry.dataset for entry in mlflow.get_run(found.run_id).inputs.dataset_inputs}
    assert set(shown) == {"digits/train", "digits/val"}
    assert shown["digits/train"].digest == run.read_record()["data_digest"][:36]

    samples = read_samples(run)[node_name()]
    assert samples, "the run took seconds, and is sampled twice in each"
    history = mlflow.get_metric_history(found.run_id, f"system/{node_name()}/cpu_utilization_percentage")
    assert [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)] == [
        (row["second"], row["cpu_utilization_percentage"]) for row in samples[: len(history)]
    ]
    assert history, "all but what was sampled while the mirror was closed"
    none = run_cait("track", "register", str(run.path), "digits", "--uri", "http://127.0.0.1:9")
    assert (none.returncode, "cait track sync" in none.stderr) == (2, True)


def fetch(what: str, uri: str, to: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What a user gets who has set MLFLOW_TRACKING_URI: the files by name."""
    from mlflow.artifacts import download_artifacts  # noqa: PLC0415

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    to.mkdir()
    got = Path(download_artifacts(what, dst_path=str(to))).iterdir()
    return {file.name: file.read_bytes() for file in got if file.is_file()}


def test_a_second_server_of_the_same_file_is_refused_whatever_its_port(serving: Serving) -> None:
    for folder, words in (
        ([str(serving.folder)], []),
        ([str(serving.folder.parent)], ["--backend", f"sqlite:///{serving.folder}/mlflow.db"]),
    ):
        second = run_cait("track", "serve", *folder, "--port", str(free_port()), *words)
        assert second.returncode == 2
        assert f"mlflow.db is served already by process {serving.process.pid} on " in second.stderr
        assert len(second.stderr.splitlines()) == 1
    same_port = run_cait("track", "serve", str(serving.folder.parent / "other"), "--port", str(serving.port))
    assert "is in use by another program: choose another --port" in same_port.stderr
    assert same_port.returncode == 2


def test_it_runs_no_more_than_it_must_and_tells_nobody(serving: Serving) -> None:
    family = serving.family()
    assert not [member for member in family if "huey" in " ".join(member.cmdline())]
    assert all(member.environ()["MLFLOW_DISABLE_TELEMETRY"] == "true" for member in family[1:])


def test_it_is_gone_with_the_process_that_started_it(tmp_path: Path) -> None:
    killed = start(tmp_path / "runs")
    child = wait_for(lambda: killed.family()[1:], "its first process")[0]
    wait_for((tmp_path / "runs" / "mlflow.db").exists, "its database, made after it follows its parent")
    killed.process.kill()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end", 15)


def test_ctrl_c_ends_all_of_it_and_frees_the_database(serving: Serving) -> None:
    # Last in this file but for PostgreSQL: nothing answers afterwards.
    end(serving, signal.SIGINT)
    assert "does not answer" in (unreachable(serving.uri) or "")
    with _only_server_of(f"sqlite:///{serving.folder}/mlflow.db"):
        pass


def run_cait(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CAIT), *words], capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )


def postgres_programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).resolve()] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


def as_postgres(command: Sequence[str]) -> None:
    """PostgreSQL does not run as root."""
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run([*user, *command], check=True, capture_output=True, timeout=120, cwd="/")


@pytest.fixture
def postgres() -> Iterator[str]:
    """A private PostgreSQL with one user, who has a password; its URI."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (initdb): scripts/setup.sh dev installs it where it may")
    if importlib.util.find_spec("psycopg2") is None and importlib.util.find_spec("psycopg") is None:
        pytest.skip("no driver for PostgreSQL is installed: pip install 'cait-dist[postgres]'")
    place, port = Path(tempfile.mkdtemp(prefix="cait-postgres-")), free_port()
    (place / "password").write_text(PASSWORD)
    if os.geteuid() == 0:
        for path in (place, place / "password"):
            shutil.chown(path, "postgres")
    data, control = str(place / "data"), str(programs / "pg_ctl")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {place}"
    try:
        as_postgres([str(programs / "initdb"), "-D", data, "-A", "scram-sha-256", "-U", "mike", "--pwfile",
                     str(place / "password")])  # fmt: skip
        as_postgres([control, "-D", data, "-w", "-l", str(place / "log"), "-o", options, "start"])
        yield f"postgresql://mike@127.0.0.1:{port}/postgres"
    finally:
        if Path(data, "postmaster.pid").exists():
            as_postgres([control, "-D", data, "-m", "immediate", "stop"])
        shutil.rmtree(place)


def test_postgresql_is_served_and_its_password_stays_secret(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = run_cait(
        "track", "serve", str(tmp_path / "without"), "--backend", postgres, "--port", str(free_port()), PGPASSFILE="/x"
    )
    assert without.returncode == 2
    assert "set PGPASSWORD, or write it into ~/.pgpass" in without.stderr

    serving = start(tmp_path / "runs", "--backend", postgres, "--workers", "2", PGPASSWORD=PASSWORD)
    try:
        serving.wait_until_announced()
        mlflow = bound_client(serving.uri)
        run = mlflow.create_run("0", run_name="first")
        mlflow.log_metric(run.info.run_id, "loss", 0.5, step=3)
        with urllib.request.urlopen(serving.uri + API) as response:
            assert json.load(response)["experiment"]["name"] == "Default"
        assert mlflow.get_run(run.info.run_id).data.metrics == {"loss": 0.5}
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        assert bound_client(postgres).get_run(run.info.run_id).data.metrics == {"loss": 0.5}, "as a run may do itself"
        assert not any(PASSWORD in " ".join(member.cmdline()) for member in serving.family())
        end(serving, signal.SIGTERM)
    finally:
        serving.process.kill()
        serving.process.wait()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert serving.folder / "mlflow-server.log" in files
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
