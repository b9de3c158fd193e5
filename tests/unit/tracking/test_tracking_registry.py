"""Versions of a model, in a registry of MLflow's own; the weights are stand-ins, their export is tested elsewhere."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from cait_dist.config import config_to_yaml, load_config
from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.registry import Place, place_of, register, version_tags
from cait_dist.tracking.run_directory import RunDirectory, RunDirectoryError, write_json


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run whose accuracy was measured at steps 10 and 20, of the weights and of their average."""
    run = RunDirectory(tmp_path / "runs" / "one")
    run.attempt(1).mkdir(parents=True)
    rows: list[dict[str, Any]] = [{"resumed_from": 0}]
    for step, top1 in ((10, 50.0), (20, 61.23456)):
        rows += [{"step": step, "time": 1.0, "val/top1": top1}, {"step": step, "time": 1.0, "val_ema/top1": top1 + 1}]
    (run.attempt(1) / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(run.record, {"attempts": [{"number": 1, "code": {"commit": "abc123+changes"}}]})
    (tmp_path / "run.yaml").write_text(f"name: one\nruns_dir: {tmp_path}/runs\ndata: {{path: {tmp_path}}}\n")
    run.config.write_text(config_to_yaml(load_config(tmp_path / "run.yaml").config))
    return run


def mirrored(run: RunDirectory, uri: str, experiment: str) -> Place:
    client = bound_client(uri)
    created = client.create_experiment(experiment, str(run.path.parent / "artifacts"))
    write_json(run.mirror, {"uri": uri, "run_id": client.create_run(created).info.run_id})
    return place_of(run)


@pytest.mark.parametrize(
    ("step", "weights", "top1"), [(20, "raw", "61.235"), (20, "ema", "62.235"), (15, "raw", "50.000"), (5, "raw", None)]
)
def test_a_version_tells_what_it_is_and_how_good_it_was_at_that_step(
    run: RunDirectory, step: int, weights: str, top1: str | None
) -> None:
    tags = version_tags(run, step, weights)
    assert tags.pop("val/top1", None) == top1
    assert tags == {
        "step": str(step),
        "weights": weights,
        "variant": "cait_xxs24_224",
        "commit": "abc123+changes",
        "run_dir": str(run.path),
    }


def test_versions_are_found_by_alias_and_made_once(run: RunDirectory, uri: str, tmp_path: Path) -> None:
    place, client = mirrored(run, uri, "registry"), bound_client(uri)
    (tmp_path / "one-step-20.safetensors").write_bytes(b"weights of step 20")
    words = {"name": "digits", "weights": tmp_path / "one-step-20.safetensors", "tags": version_tags(run, 20, "raw")}
    said = register(run, place, aliases=("champion",), **words)
    assert said == f"digits version 1, champion: made from {run.path}"

    found = client.get_model_version_by_alias("digits", "champion")
    assert (str(found.version), found.run_id, found.tags["val/top1"]) == ("1", place.run_id, "61.235")
    source = client.get_model_version_download_uri("digits", str(found.version))
    back = Path(client.download_artifacts(place.run_id, source.partition(place.run_id + "/")[2], str(tmp_path)))
    assert [(file.name, file.read_bytes()) for file in back.iterdir()] == [
        ("one-step-20.safetensors", b"weights of step 20")
    ]

    assert "version 1, tested: was made before" in register(run, place, aliases=("tested",), **words)
    ema = {**words, "tags": version_tags(run, 20, "ema")}
    assert register(run, place, aliases=("champion",), **ema).startswith("digits version 2, champion: made from")
    assert str(client.get_model_version_by_alias("digits", "champion").version) == "2"
    assert str(client.get_model_version_by_alias("digits", "tested").version) == "1"


def test_a_name_that_mlflow_does_not_take_is_told_in_a_line(run: RunDirectory, uri: str, tmp_path: Path) -> None:
    place = mirrored(run, uri, "wrong names")
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(RunDirectoryError, match=r"does not take the model a/b \(.*\)$"):
        register(run, place, "a/b", tmp_path / "x.safetensors", version_tags(run, 20, "raw"))


def test_a_run_that_is_not_in_mlflow_is_told_how_to_get_there(run: RunDirectory) -> None:
    with pytest.raises(RunDirectoryError, match=rf"{run.path} is not in MLflow at sqlite:///.*`cait track sync"):
        place_of(run)
    write_json(run.mirror, {"uri": "sqlite:////x.db", "run_id": "1"})
    assert place_of(run) == Place("sqlite:////x.db", "1")
    with pytest.raises(RunDirectoryError, match="is not in MLflow at http://login01:5000"):
        place_of(run, "http://login01:5000")


def test_a_server_that_is_not_there_is_told_at_once(run: RunDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    write_json(run.mirror, {"uri": address, "run_id": "1"})
    with pytest.raises(RunDirectoryError, match=f"MLflow: {address} does not answer"):
        place_of(run)
