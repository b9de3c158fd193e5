"""Jobs that would break MLflow's SQLite file are refused in one line, before SLURM is asked or anything is written."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cait_dist.cli import app
from cait_dist.config import load_config
from cait_dist.tracking.file_system import network_file_system
from launch import tracking_writers
from launch.tracking_writers import (
    TrackingWritersError,
    check_many_writers,
    check_one_writer,
    warn_if_unreachable,
)

NFS = "21 1 0:20 / / rw - nfs4 filer:/ rw"
DISK = "21 1 0:20 / / rw - ext4 /dev/sda1 rw"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Configuration and profile; SLURM's commands are nowhere, so whoever asks for them fails otherwise."""
    (tmp_path / "run.yaml").write_text(f"name: grid\nruns_dir: {tmp_path}/runs\ndata: {{path: {tmp_path}/data}}\n")
    (tmp_path / "mine.yaml").write_text("nodes: 1\ngpus_per_node: 0\ntasks_per_node: 1\nmemory_gb: 1\ntime: 1:00:00\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    return [str(tmp_path / "run.yaml"), "--cluster", str(tmp_path / "mine.yaml")]


def refused(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    # The entry point turns errors for users into a line and status 2; here they are seen as they are raised.
    assert isinstance(done.exception, TrackingWritersError), (done.output, done.exception)
    text = str(done.exception)
    assert "\n" not in text
    assert "cait track serve" in text
    assert "tracking.uri=http://" in text
    assert "tracking.mlflow=false" in text
    assert "cait track sync" in text
    return text


@pytest.mark.parametrize("command", [["sweep", "seed=0..2"], ["launch", "--array", "0-2"]])
@pytest.mark.parametrize("place", [[], ["tracking.uri=sqlite:////shared/mlflow.db"]])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_many_jobs_on_one_sqlite_file_are_refused(
    files: list[str], tmp_path: Path, command: list[str], place: list[str], dry: list[str]
) -> None:
    text = refused(command[0], files[0], *command[1:], *place, *files[1:], *dry)
    assert ("/shared/mlflow.db" if place else f"{tmp_path}/runs/mlflow.db") in text
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "settings", [["tracking.mlflow=false"], ["tracking.uri=http://login01:5000"], ["tracking.uri=postgresql://db/x"]]
)
def test_many_jobs_are_let_through_where_somebody_else_minds_the_database(
    files: list[str], settings: list[str]
) -> None:
    check_many_writers([load_config(Path(files[0]), settings).config])
    check_one_writer(load_config(Path(files[0]), settings).config, NFS)


def test_one_job_is_refused_where_its_sqlite_file_would_lie_on_a_network_file_system(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(Path(files[0]), []).config
    check_one_writer(config, DISK)
    with pytest.raises(TrackingWritersError, match=rf"{tmp_path}/runs/mlflow.db would lie on .*nfs4"):
        check_one_writer(config, NFS)
    monkeypatch.setattr(tracking_writers, "network_file_system", lambda path, _: network_file_system(path, NFS))
    assert "nfs4" in refused("launch", *files)
    assert "nfs4" in refused("launch", *files, "--dry-run")
    assert "nfs4" in refused("sweep", files[0], "seed=0..1"), "also here, one after another"
    assert not (tmp_path / "runs").exists()


def test_a_server_that_cannot_be_reached_is_told_and_refuses_nothing(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    warn_if_unreachable(load_config(Path(files[0]), ["tracking.uri=http://127.0.0.1:9"]).config)
    said = capsys.readouterr().err
    assert said.startswith("warning: MLflow: http://127.0.0.1:9 does not answer (")
    assert said.endswith("the run does without, `cait track sync` sends it later\n")
    warn_if_unreachable(load_config(Path(files[0]), []).config)
    warn_if_unreachable(
        load_config(Path(files[0]), ["tracking.mlflow=false", "tracking.uri=http://127.0.0.1:9"]).config
    )
    assert capsys.readouterr().err == ""
