"""What `cait analyse` writes into a run, MLflow shows: each file once, again when it has changed, and at no price."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mirrored_runs import begin, finish, make_run, open_mirror, shown, train, write_steps
from typer.testing import CliRunner

from cait_dist.cli import app
from cait_dist.config import load_config
from cait_dist.models import create_model
from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.run_directory import RunDirectory, read_json
from cait_dist.tracking.sync import sync_analyses, sync_to_mlflow

STEP = "analysis/step-00000020-raw"
SIZES = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "runs", experiment=tmp_path.name)


def analyse_by_hand(run: RunDirectory, text: str = "{}", name: str = f"{STEP}/layer-scale.json") -> None:
    (run.path / name).parent.mkdir(parents=True, exist_ok=True)
    (run.path / name).write_text(text)


def files_in_mlflow(run: RunDirectory, uri: str, folder: str = "analysis") -> dict[str, str]:
    """Content by name."""
    client, run_id, found = bound_client(uri), read_json(run.mirror)["run_id"], {}
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            found |= files_in_mlflow(run, uri, entry.path)
        else:
            found[entry.path] = Path(client.download_artifacts(run_id, entry.path)).read_text()
    return found


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files of analyses that MLflow's client was asked to send."""
    from mlflow import MlflowClient  # noqa: PLC0415

    sent, real = [], MlflowClient.log_artifact

    def log_artifact(self: Any, run_id: str, file: str, folder: str | None = None) -> None:
        if folder and folder.startswith("analysis"):
            sent.append(f"{folder}/{Path(file).name}")
        real(self, run_id, file, folder)

    monkeypatch.setattr(MlflowClient, "log_artifact", log_artifact)
    return sent


def test_the_mirror_sends_them_at_the_end_and_a_sync_only_what_is_new(
    run: RunDirectory, uri: str, uploads: list[str]
) -> None:
    writer = begin(run)
    mirror = open_mirror(run, uri, print)
    write_steps(writer, range(1, 21))
    writer.close()
    analyse_by_hand(run, "while it trained")
    assert finish(run, mirror, "finished", 20)
    assert files_in_mlflow(run, uri) == {f"{STEP}/layer-scale.json": "while it trained"}

    sync_to_mlflow(run.path, uri)
    assert uploads == [f"{STEP}/layer-scale.json"], "unchanged files are not sent again"

    analyse_by_hand(run, "of same length..")
    analyse_by_hand(run, "<svg/>", f"{STEP}/layer-scale.svg")
    analyse_by_hand(run, "half", f"{STEP}/.layer-scale.svg.part")
    sync_to_mlflow(run.path, uri)
    assert uploads[1:] == [f"{STEP}/layer-scale.json", f"{STEP}/layer-scale.svg"]
    assert files_in_mlflow(run, uri) == {
        f"{STEP}/layer-scale.json": "of same length..",
        f"{STEP}/layer-scale.svg": "<svg/>",
    }


def test_another_mlflow_gets_all_of_them(run: RunDirectory, uri: str, tmp_path: Path) -> None:
    train(run, uri, 10)
    analyse_by_hand(run)
    assert sync_analyses(run.path) == f"sent to MLflow at {uri}, under analysis/: 1 new"
    other = f"sqlite:///{tmp_path}/other.db"
    sync_to_mlflow(run.path, other)
    assert list(files_in_mlflow(run, other)) == [f"{STEP}/layer-scale.json"]


def test_sending_an_analysis_changes_nothing_else_of_the_run(run: RunDirectory, uri: str) -> None:
    train(run, uri, 10)
    before, facts = shown(run, uri), read_json(run.mirror)
    analyse_by_hand(run)
    sync_analyses(run.path)
    after = shown(run, uri)
    assert after.info.status == "FINISHED"
    assert dict(after.info) == dict(before.info)
    assert (after.data.tags, after.data.metrics) == (before.data.tags, before.data.metrics)
    assert {key: value for key, value in read_json(run.mirror).items() if key != "analyses"} == facts


@pytest.fixture
def analysable(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDirectory]:
    """A run of which weights are known, without the checkpoint that holds them."""
    settings = [f"model.{key}={value}" for key, value in SIZES.items()]
    config = load_config(run.config, settings).config
    weights = create_model("cait_xxs24_224", num_classes=5, **SIZES).state_dict()
    monkeypatch.setattr(
        "cait_dist.training.saving.saved_weights.open_weights",
        lambda place, step, kind: (run.path, config, weights, 20, kind, "digest"),
    )
    return run


def analyse(run: RunDirectory, *more: str) -> Any:
    done = CliRunner().invoke(app, ["analyse", "layer-scale", str(run.path), *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert [line.split("/")[-1] for line in done.stdout.splitlines()] == ["layer-scale.json", "layer-scale.svg"]
    return done.stderr


def test_the_command_sends_what_it_wrote(
    analysable: RunDirectory, uri: str, uploads: list[str], tmp_path: Path
) -> None:
    run = analysable
    assert analyse(run) == "", "a run that is not in MLflow is none of its business"
    train(run, uri, 10)
    uploads.clear()
    assert analyse(run) == f"MLflow at {uri} has these files already\n", "the mirror was there first"
    assert analyse(run, "--weights", "ema") == f"sent to MLflow at {uri}, under analysis/: 2 new\n"
    assert uploads == ["analysis/step-00000020-ema/layer-scale.json", "analysis/step-00000020-ema/layer-scale.svg"]
    assert analyse(run, "--out", str(tmp_path / "elsewhere")) == "", "what lies elsewhere is no part of the run"


def test_where_mlflow_cannot_take_them_a_line_says_so_and_the_analysis_is_done(
    analysable: RunDirectory, uri: str, tmp_path: Path
) -> None:
    run = analysable
    train(run, uri, 10)
    later = f"`cait track sync {run.path}` sends them later\n"
    with (run.path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert analyse(run) == f"{run.path} is at work: it sends these files to MLflow at its end\n"
    facts = run.mirror.read_text()

    run.mirror.write_text(facts.replace(read_json(run.mirror)["run_id"], "0" * 32))
    assert analyse(run) == f"MLflow at {uri} does not have this run any more: {later}"

    gone = tmp_path / "gone.db"
    run.mirror.write_text(facts.replace(uri, f"sqlite:///{gone}"))
    assert analyse(run).endswith(f"does not have this run any more: {later}")
    assert not gone.exists(), "no database is made to be told that it is empty"

    gone.write_bytes(os.urandom(4096))
    assert analyse(run).startswith("MLflow does not have these files (")

    with socket.create_server(("127.0.0.1", 0)) as closed:
        silent = f"http://127.0.0.1:{closed.getsockname()[1]}"
    run.mirror.write_text(facts.replace(uri, silent))
    assert re.search(rf"^MLflow does not have these files: .*{silent}.*; {re.escape(later)}$", analyse(run))
