"""`cait doctor`: every line it can say. SLURM's commands and the driver are stand-ins; packages and memory are real."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cait_dist.cli import app
from launch.check import Limits, doctor, installation
from launch.check.answer import Check
from launch.check.node import Gpu

T4 = Gpu(0, "GPU-a", "Tesla T4", "550.54", 15360, None)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is PATH, but for the system's own commands that scripts need."""
    (tmp_path / "sleep").symlink_to("/bin/sleep")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def write(script: Path, body: str = "") -> None:
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)


def test_the_command_answers_for_people_and_for_programs(tmp_path: Path) -> None:
    text = CliRunner().invoke(app, ["doctor"])
    assert text.exit_code == 0, text.output
    names = ["Python", "torch", "deepspeed", "webdataset", "mlflow", "submitit", "ffcv"]
    names += ["GPUs", "arithmetic", "CPUs", "run folder", "/dev/shm", "SLURM"]
    assert all(name in text.output for name in names)
    config = tmp_path / "run.yaml"
    config.write_text(f"name: x\ndata: {{path: {tmp_path / 'none'}}}\ntracking: {{uri: http://127.0.0.1:9}}\n")
    answer = CliRunner().invoke(app, ["doctor", str(config), f"runs_dir={tmp_path}/runs", "--json"])
    assert answer.exit_code == 1
    checks = {check["name"]: check for check in json.loads(answer.output)["checks"]}
    assert json.loads(answer.output)["fit"] is False
    assert [name for name, check in checks.items() if check["state"] == "refuse"] == ["run"]
    assert f"{tmp_path / 'none'}: no such folder" in checks["run"]["detail"]
    assert checks["MLflow"]["state"] == "warn"
    assert checks["run folder"]["detail"].startswith(f"{tmp_path}/runs: ")


def test_every_answer_but_ok_carries_a_remedy() -> None:
    assert all(bool(check.remedy) == (check.state != "ok") for check in doctor.examine())


@pytest.mark.parametrize(
    ("package", "version", "wanted", "state", "words"),
    [
        ("deepspeed", "0.19.8", "==0.19.8", "ok", "0.19.8"),
        ("deepspeed", "0.19.7", "==0.19.8", "refuse", "0.19.7, but ==0.19.8 is needed"),
        ("torch", "2.7.1+cu128", ">=2.7", "ok", "2.7.1+cu128"),
        ("torch", "2.8.0.dev20250601", ">=2.7", "ok", "2.8.0.dev"),
        ("mlflow", None, ">=3.13,<4", "refuse", "not installed"),
        ("ffcv", None, "==1.0.2", "ok", "not installed: only betons"),
        ("ffcv", "1.0.1", "==1.0.2", "refuse", "==1.0.2 is needed"),
        ("submitit", "1.5.3", None, "ok", "1.5.3"),
    ],
)
def test_versions_are_compared_with_those_that_were_asked_for(
    package: str, version: str | None, wanted: str | None, state: str, words: str
) -> None:
    check = installation.examine_package(package, version, wanted)
    assert (check.state, check.name) == (state, package)
    assert words in check.detail


def test_what_was_asked_for_is_read_from_the_installation() -> None:
    wanted = installation.wanted_versions()
    assert wanted["deepspeed"].startswith("==")
    assert wanted["ffcv"].startswith("==")
    assert "pytest" not in wanted  # tests are not needed to train
    assert installation._python((3, 9, 18)).state == "refuse"


def test_gpus_are_counted_by_kind_and_their_errors_told() -> None:
    a100 = Gpu(1, "GPU-b", "NVIDIA A100", "550.54", 40960, 2)
    checks = list(doctor.examine_gpus([T4, a100, T4], None))
    assert [check.detail for check in checks[:2]] == [
        "2 × Tesla T4 (15360 MiB, driver 550.54)",
        "1 × NVIDIA A100 (40960 MiB, driver 550.54)",
    ]
    assert [check.state for check in checks] == ["ok", "ok", "warn"]
    assert "number 1 has counted 2 memory errors" in checks[2].detail
    assert [check.state for check in doctor.examine_gpus([], "nvidia-smi gave no answer within 15 s")] == ["warn"]


def test_gpus_that_this_pytorch_cannot_use_refuse_unless_they_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    [check] = doctor._arithmetic(gpus=True)
    assert (check.state, check.name) == ("refuse", "arithmetic")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [check.state for check in doctor._arithmetic(gpus=True)] == ["ok"]


def test_wrong_arithmetic_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("launch.check.measure.multiply", lambda left, right: (left @ right) * 2)
    [check] = doctor._arithmetic(gpus=False)
    assert (check.state, check.detail) == ("refuse", "cpu computes wrong results")


def test_the_place_of_runs_must_be_large_and_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(**limits: float) -> Check:
        return doctor.examine_disk(tmp_path / "runs", tmp_path, Limits(**limits))

    monkeypatch.setattr(doctor, "file_system_of", lambda _: "nfs4")
    assert judged().state == "ok"
    assert judged(min_disk_gb=1e9).state == "refuse"
    monkeypatch.setattr(doctor, "file_system_of", lambda _: "tmpfs")
    assert judged().state == "warn"
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert judged().detail == f"{tmp_path} cannot be written"


@pytest.mark.parametrize(("free", "state"), [(None, "ok"), (0.06, "warn"), (8.0, "ok")])
def test_little_shared_memory_warns(free: float | None, state: str) -> None:
    assert doctor.examine_shm(free, Limits()).state == state


def slurm() -> Check:
    [check] = doctor.examine_slurm()
    return check


def test_without_slurm_nothing_is_wrong(commands: Path) -> None:
    assert (slurm().state, slurm().detail) == ("ok", "not here: `cait train` runs on this machine")


def test_slurm_that_answers_is_told_with_its_partitions(commands: Path) -> None:
    write(commands / "sinfo", "echo gpu; echo cpu; echo gpu")
    for name in ("sbatch", "squeue"):
        write(commands / name)
    assert (slurm().state, slurm().detail) == ("warn", "without scontrol")
    write(commands / "scontrol")
    assert (slurm().state, slurm().detail) == ("ok", "partitions gpu, cpu (sacct not there: not needed)")
    write(commands / "sacct")
    assert "sacct there" in slurm().detail


def test_slurm_that_refuses_or_hangs_is_told(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in doctor.SLURM_COMMANDS:
        write(commands / name)
    write(commands / "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert slurm().state == "warn"
    assert "squeue: slurm_load_jobs error: Unable to contact" in slurm().detail
    monkeypatch.setattr(doctor, "SLURM_SECONDS", 0.3)
    write(commands / "sinfo", "exec sleep 60")
    assert "took more than 0.3 s" in slurm().detail
