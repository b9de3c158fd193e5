"""No secret reaches a run directory, MLflow, a log or a job's script: a real run with real secrets around it."""

import os
import subprocess
from pathlib import Path

import pytest
from training_command import CAIT

from cait_dist.config import ConfigError, load_config
from cait_dist.tracking.code_version import code_diff

pytestmark = pytest.mark.slow

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-9b1e7c",
    "AWS_SESSION_TOKEN": "planted-session-51fd0a",
    "HF_TOKEN": "planted-hf-7d22aa",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-c40b3f",
    "MLFLOW_TRACKING_TOKEN": "planted-token-88e1d2",
    "MLFLOW_TRACKING_URI": "http://somebody:planted-uri-3fa9e0@tracking.example:5000",
    "PGPASSWORD": "planted-pg-e6f0b7",
    "WANDB_API_KEY": "planted-wandb-1c9d44",
}
PLANTED = b"planted"


def cait(*words: str, cwd: Path) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [str(CAIT), *words], capture_output=True, env={**os.environ, **SECRETS}, cwd=cwd, timeout=240, check=False
    )


def holding_secrets(folder: Path) -> list[str]:
    """Files below a folder, databases and archives included, that hold one; and names that do."""
    found = folder.rglob("*")
    return [str(path) for path in found if "planted" in path.name or (path.is_file() and PLANTED in path.read_bytes())]


@pytest.fixture(scope="module")
def runs(shared_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that was mirrored to MLflow."""
    place = tmp_path_factory.mktemp("secrets")
    config = place / "tiny.yaml"
    config.write_text(shared_config.read_text().replace(str(shared_config.parent / "runs"), str(place / "runs")))
    done = cait("train", str(config), "--processes", "1", "training.epochs=0.05", "evaluation.sets=[]",
                "tracking.mlflow=true", "tracking.system_seconds=1", cwd=place)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert PLANTED not in done.stdout + done.stderr
    # What a run of a few steps could not yet send.
    done = cait("track", "sync", str(place / "runs" / "tiny"), cwd=place)
    assert done.returncode == 0, done.stderr.decode()
    assert PLANTED not in done.stdout + done.stderr
    return place / "runs"


def test_the_search_finds_a_secret_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.db").write_bytes(b"\0\1" + SECRETS["HF_TOKEN"].encode() + b"\0")
    assert len(holding_secrets(tmp_path)) == 1


def test_nothing_of_a_run_or_its_mirror_holds_a_secret(runs: Path) -> None:
    assert (runs / "mlflow.db").stat().st_size > 0
    assert (runs / "tiny" / "attempt-1" / "environment.json").is_file()
    assert list((runs / "mlflow-artifacts").rglob("environment.json"))
    assert len(list(runs.rglob("*"))) > 20
    assert holding_secrets(runs) == []


@pytest.mark.parametrize(
    "setting",
    [
        "tracking.uri=http://me:planted-a@host:5000",
        "tracking.uri=http://planted-b@host",
        "tracking.uri=http://me:planted/c@host",
        "tracking.uri=postgresql://me:planted-d@db/x",
        "tracking.uri=postgresql://me@db/x?password=planted-e",
        "tracking.uri=ftp://me:planted-f@host",
        "data.path=https://me:planted-g@host/data",
        "traking.uri=http://me:planted-h@host",
    ],
)
def test_a_uri_with_a_password_is_refused_and_not_repeated(setting: str, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("name: a\ndata: {path: b}\n")
    key, _, value = setting.partition("=")
    section, _, name = key.partition(".")
    (tmp_path / "bad.yaml").write_text(f"base: good.yaml\n{section}: {{{name}: '{value}'}}\n")
    for config, overrides in ((tmp_path / "good.yaml", [setting]), (tmp_path / "bad.yaml", [])):
        with pytest.raises(ConfigError) as refused:
            load_config(config, overrides)
        assert PLANTED.decode() not in str(refused.value)


def test_the_server_does_not_repeat_a_password_either(runs: Path) -> None:
    served = cait("track", "serve", str(runs), "--backend", "postgresql://me:planted-i@db/x", cwd=runs)
    assert served.returncode == 2
    assert PLANTED not in served.stdout + served.stderr


def test_the_script_of_a_job_holds_no_secret(runs: Path) -> None:
    profile = runs.parent / "cluster.yaml"
    profile.write_text("partition: gpu\nsetup: [module load cuda]\n")
    done = cait("launch", str(runs.parent / "tiny.yaml"), "name=job", "--cluster", str(profile), "--nodes", "1",
                "--dry-run", cwd=runs.parent)  # fmt: skip
    assert b"#SBATCH" in done.stdout, done.stderr
    assert PLANTED not in done.stdout + done.stderr
    assert holding_secrets(runs) == []


def test_the_difference_of_the_code_leaves_out_what_git_does_not_know(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text(".env\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    (tmp_path / "code.py").write_text("x = 2\n")
    for name in (".env", "token.txt"):
        (tmp_path / name).write_text(SECRETS["HF_TOKEN"])
    difference = code_diff(tmp_path)
    assert difference is not None
    assert "+x = 2" in difference
    assert PLANTED.decode() not in difference
