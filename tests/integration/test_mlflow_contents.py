"""What MLflow shows is what the run directory holds: odd names and values, missing packages, and `cait track sync`."""

import fcntl
import math
import os
from dataclasses import replace
from pathlib import Path

import mirrored_runs as runs
import numpy as np
import pytest
from mlflow_servers import Server, programs
from test_track_serve import PASSWORD
from test_track_serve import postgres as private_postgres

from cait_dist.tracking.database import database_uri, prepare_database
from cait_dist.tracking.metrics import attempt_metrics
from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.mlflow_facts import read_facts
from cait_dist.tracking.mlflow_run import MlflowRun
from cait_dist.tracking.run_directory import RunDirectory, RunDirectoryError, read_json, write_json
from cait_dist.tracking.sync import sync_runs, sync_to_mlflow

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_times")]


def test_odd_names_and_values_are_shown_as_far_as_mlflow_can(run: RunDirectory, server: Server) -> None:
    torch = pytest.importorskip("torch")
    writer = runs.begin(run)
    plain = {
        "a": True,
        "b": 7,
        "c": np.float32(0.5),
        "d": torch.tensor(0.25),
        "acc@1": 1.0,
        "acc(1": 2.0,
        "größe/x": 3.0,
    }
    writer.append(1, 1000.0, plain)
    writer.append(2, 1001.0, {"train/loss": math.inf, "up": -math.inf})
    writer.append(3, 1002.0, {"train/loss": math.nan})
    writer.close()
    params = {f"p{number}": number for number in range(300)}
    params |= {"long": "x" * 7000, "empty": "", "none": None, "odd key@": "ü€ \0 \udcff", "list": "[1, 2]"}
    params |= {f"wide{number}": "€" * 6000 for number in range(40)}
    said: list[str] = []
    mlflow_run = MlflowRun(run, server.uri, "mirror", tell=said.append)
    mlflow_run.open(replace(read_facts(run), params=params))
    mlflow_run.send(math.inf)
    found = runs.shown(run, server.uri).data
    assert {key: found.metrics[key] for key in "abcd"} == {"a": 1.0, "b": 7.0, "c": 0.5, "d": 0.25}
    odd = {key: value for key, value in found.metrics.items() if key.startswith("acc")}
    assert sorted(odd.values()) == [1.0, 2.0]
    assert found.metrics["größe/x"] == 3.0
    assert [math.isnan(value) for _, value in runs.history(run, server.uri)] == [True, True]
    assert found.tags["nonfinite"] == "step 2: train/loss was inf"
    assert len(found.params) == len(params)
    assert (len(found.params["long"]), found.params["long"][-2:]) == (6000, "x…")
    assert (found.params["empty"], found.params["none"], found.params["p299"]) == ("", "None", "299")
    assert found.params["odd key_"] == "ü€ � ?"
    assert found.tags["cut_params"] == "long"
    assert len(said) == 1
    assert "long" in said[0]
    mlflow_run.open(replace(read_facts(run), params={**params, "p1": "changed"}))
    assert len(said) == 1, "told once"


def test_without_mlflow_and_psutil_there_is_one_warning_and_the_run_directory_is_complete(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    for package in ("mlflow", "psutil"):
        (broken / package).mkdir(parents=True)
        (broken / package / "__init__.py").write_text("raise AttributeError('half installed')")
    run = runs.make_run(tmp_path)
    job = {"run": str(run.path), "uri": "http://127.0.0.1:9", "steps": 50}
    [result] = programs([job], tmp_path, PYTHONPATH=str(broken))
    assert result["status"] == 0
    assert result["seconds"] < 5
    assert len(result["said"]) == 1
    assert "MLflow cannot be loaded (AttributeError: half installed)" in result["said"][0]
    assert "cait track sync" in result["said"][0]
    assert [row["step"] for row in attempt_metrics(run.attempt(1)) if "train/loss" in row] == list(range(1, 51))
    assert (run.path / "report.md").is_file()


def test_telemetry_is_off(server: Server) -> None:
    bound_client(server.uri)
    from mlflow.telemetry.client import get_telemetry_client  # noqa: PLC0415

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert get_telemetry_client() is None


def test_sync_fills_a_run_that_was_deleted_an_emptied_server_and_what_it_has_in_part(
    run: RunDirectory, server: Server
) -> None:
    assert runs.train(run, server.uri, 200)
    first = read_json(run.mirror)["run_id"]
    run.mirror.unlink()
    told: list[tuple[int, int]] = []
    sent = sync_to_mlflow(run.path, server.uri, lambda done, total: told.append((done, total)))
    assert "620 values" in sent, "nobody knows any more what it has"
    size = (run.attempt(1) / "metrics.jsonl").stat().st_size
    assert (len(told), told[-1], told == sorted(told)) == (2, (size, size), True)
    assert read_json(run.mirror)["run_id"] == first, "the run is found by its key"
    runs.same_as_recorded(run, server.uri)
    assert " 0 values" in sync_to_mlflow(run.path, server.uri)
    bound_client(server.uri).delete_run(first)
    assert "620 values" in sync_to_mlflow(run.path, server.uri)
    second = read_json(run.mirror)["run_id"]
    assert second != first
    runs.same_as_recorded(run, server.uri)
    bound_client(server.uri).delete_run(second)
    write_json(run.mirror, {**read_json(run.mirror), "run_id": "0" * 32})  # as after the database was made anew
    assert "620 values" in sync_to_mlflow(run.path, server.uri)
    runs.same_as_recorded(run, server.uri)


def test_sync_of_several_runs_goes_on_after_a_bad_one(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    good, live = runs.make_run(tmp_path, "good"), runs.make_run(tmp_path, "live")
    for made in (good, live):
        writer = runs.begin(made)
        runs.write_steps(writer, range(1, 11))
        writer.close()
        made.update_attempt(1, outcome="finished", step=10)
    lock = live.lock()
    assert sync_runs([tmp_path / "nothing", live.path, good.path], server.uri) == 2
    os.close(lock)
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.out.splitlines()] == [str(good.path)]
    assert ["is not a run directory" in line for line in shown.err.splitlines()] == [True, False]
    assert "is being trained now" in shown.err
    runs.same_as_recorded(good, server.uri)
    with (good.path / ".sync.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunDirectoryError, match="by another process"):
            sync_to_mlflow(good.path, server.uri)


def test_a_place_for_files_that_cannot_be_written_costs_a_line(run: RunDirectory) -> None:
    uri = f"sqlite:///{run.path.parent}/mlflow.db"
    (run.path.parent / "mlflow-artifacts").write_text("in the way")
    said: list[str] = []
    assert not runs.train(run, uri, 20, said.append)
    assert len(said) == 2
    assert "MLflow lacks a part of this run" in said[0]
    assert "MLflow has the metrics and not the files" in said[1]
    runs.same_as_recorded(run, uri)
    assert runs.shown(run, uri).info.status == "FINISHED"


postgres = private_postgres


def test_postgresql_without_a_server(run: RunDirectory, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    prepare_database(database_uri(postgres))
    uri = database_uri(postgres)
    assert runs.train(run, uri, 300)
    runs.same_as_recorded(run, uri)
    assert " 0 values" in sync_to_mlflow(run.path, uri)
    assert list((run.path.parent / "mlflow-artifacts").rglob("report.md")), "not where one happens to be"
