"""What MLflow is told of a run besides numbers, from run directories as training leaves them, old ones included."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cait_dist.config import config_to_yaml, load_config
from cait_dist.tracking.inputs import datasets, send_inputs, write_environment
from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.plan_versus_actual import plan_versus_actual, write_plan_versus_actual
from cait_dist.tracking.run_directory import RunDirectory, write_json

FACTS = {
    "parameters": 1000, "macs": 2000, "image_size": 16, "train_images": 320, "train_digest": "a" * 64,
    "global_batch": 16, "micro_batch": 8, "accumulation": 1, "total_steps": 40, "device": "cpu", "peak_flops": None,
    "sets": {"val": {"digest": "b" * 64, "images": 50}, "v2": {"digest": "c" * 64, "images": 60}},
}  # fmt: skip
ATTEMPTS: list[dict[str, Any]] = [
    {"number": 1, "started": "2026-01-01T00:00:00Z", "processes": 4, "resumed_from": 0, "outcome": "lost"},
    {"number": 2, "started": "2026-01-01T00:10:00Z", "ended": "2026-01-01T00:20:00Z", "processes": 2,
     "resumed_from": 20, "outcome": "finished", "redone_steps": 5, "lost_seconds": 330.0},
]  # fmt: skip


def make_run(folder: Path, facts: dict[str, Any] | None = None) -> RunDirectory:
    """A run of two attempts; the first is lost after 25 steps in five minutes, the second goes on from step 20."""
    run = RunDirectory(folder / "runs" / "two")
    for number, (first, last, start) in enumerate([(1, 25, 1767225600), (21, 40, 1767226200)], 1):
        run.attempt(number).mkdir(parents=True)
        rows = [{"resumed_from": first - 1}] + [
            {"step": step, "time": start + 12 * (step - first + 1), "train/epoch": step / 20,
             "perf/images_per_second": 100 * number + step, "perf/peak_memory_gb": 1.5 * number}
            for step in range(first, last + 1)
        ]  # fmt: skip
        (run.attempt(number) / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if facts is not None:
            write_json(run.attempt(number) / "facts.json", facts)
    write_json(run.record, {"attempts": ATTEMPTS, "data_digest": "d" * 64, "total_steps": 40, "global_batch": 16})
    source = folder / "run.yaml"
    source.write_text(
        f"name: two\nruns_dir: {folder}/runs\ndata: {{path: /data/imagenet}}\ntraining: {{epochs: 2}}\n"
        "schedule: {warmup_epochs: 0}\n"
        "evaluation: {sets: [{name: val}, {name: v2, split: test, path: /data/imagenet-v2/}]}\n"
    )
    run.config.write_text(config_to_yaml(load_config(source).config))
    return run


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """MLflow's own, on a database of its own."""
    return bound_client(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


def test_each_data_set_has_a_name_a_digest_a_source_and_a_size(tmp_path: Path) -> None:
    found = {entry["name"]: entry for entry in datasets(make_run(tmp_path, FACTS))}
    assert list(found) == ["imagenet/train", "imagenet/val", "imagenet-v2/test"]
    assert found["imagenet/train"] == {
        "name": "imagenet/train",
        "digest": "a" * 64,
        "source": "/data/imagenet",
        "images": 320,
        "context": "training",
    }
    assert (found["imagenet/val"]["digest"], found["imagenet/val"]["images"]) == ("b" * 64, 50)
    assert found["imagenet-v2/test"]["source"] == "/data/imagenet-v2"
    assert found["imagenet-v2/test"]["context"] == "evaluation as v2"


def test_of_a_run_of_an_earlier_version_what_is_known_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert [(entry["name"], entry["digest"]) for entry in datasets(run)] == [("imagenet/train", "d" * 64)]
    planned = plan_versus_actual(run)["planned"]
    assert (planned["steps"], planned["global_batch"], planned["parameters"]) == (40, 16, None)


def test_mlflow_holds_all_of_it_once_however_often_it_is_sent(tmp_path: Path, client: Any) -> None:
    run = make_run(tmp_path, FACTS)
    for number in (1, 2):
        write_environment(run.attempt(number), [f"GPU of attempt {number}"])
    (run.attempt(1) / "code.diff").write_text("")
    (run.attempt(2) / "code.diff").write_text("+depth = 36\n")
    run_id = client.create_run(client.create_experiment("inputs", str(tmp_path / "artifacts"))).info.run_id
    for _ in range(2):
        send_inputs(run, client, run_id)

    shown = client.get_run(run_id).inputs.dataset_inputs
    assert sorted(entry.dataset.name for entry in shown) == ["imagenet-v2/test", "imagenet/train", "imagenet/val"]
    train = next(entry for entry in shown if entry.dataset.name == "imagenet/train")
    assert train.dataset.digest == "a" * 36
    assert json.loads(train.dataset.source) == {"uri": "/data/imagenet"}
    assert json.loads(train.dataset.profile) == {"images": 320}
    assert {tag.key: tag.value for tag in train.tags} == {"mlflow.data.context": "training"}

    files = tmp_path / "artifacts" / run_id / "artifacts"
    sent = sorted(str(path.relative_to(files)) for path in files.rglob("*") if path.is_file())
    # An empty difference is not worth a file.
    assert sent == ["attempt-2/code.diff", "attempt-2/environment.json", "config.yaml", "environment.json"]
    assert json.loads((files / "environment.json").read_text())["machine"]["gpus"] == ["GPU of attempt 1"]
    assert json.loads((files / "attempt-2/environment.json").read_text())["machine"]["gpus"] == ["GPU of attempt 2"]
    assert load_config(files / "config.yaml").config == load_config(run.config).config


def test_files_of_attempts_that_have_been_sent_are_not_sent_again(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, FACTS)
    for number in (1, 2):
        write_environment(run.attempt(number), [])
    run_id = client.create_run(client.create_experiment("again", str(tmp_path / "artifacts"))).info.run_id
    sent: list[str] = []
    real = client.log_artifact

    def log_artifact(run_id: str, file: str, folder: str | None = None) -> None:
        sent.append(str(Path(file).relative_to(run.path)))
        real(run_id, file, folder)

    monkeypatch.setattr(client, "log_artifact", log_artifact)
    send_inputs(run, client, run_id)
    assert sent == ["config.yaml", "attempt-1/environment.json", "attempt-2/environment.json"]
    sent.clear()
    send_inputs(run, client, run_id)
    assert sent == ["config.yaml", "attempt-2/environment.json"], "the newest attempt may have begun since"


def test_the_environment_names_packages_machine_and_job_and_no_secret(tmp_path: Path) -> None:
    variables = {"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": "1", "SLURM_JWT": "secret", "API_TOKEN": "secret"}
    write_environment(tmp_path, ["NVIDIA H100"], variables)
    text = (tmp_path / "environment.json").read_text()
    found = json.loads(text)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["pydantic"][0] == "2"
    assert list(found["packages"]) == sorted(found["packages"])
    assert found["machine"]["gpus"] == ["NVIDIA H100"]
    assert found["slurm"] == {"job_id": "42", "restart_count": "1"}
    assert "secret" not in text


def test_the_plan_is_held_against_what_became_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, FACTS)
    found = json.loads(write_plan_versus_actual(run).read_text())
    assert found["planned"] == {
        "steps": 40, "epochs": 2, "global_batch": 16, "micro_batch": 8, "accumulation": 1, "parameters": 1000,
        "macs": 2000, "image_size": 16, "train_images": 320, "device": "cpu", "peak_flops": None,
    }  # fmt: skip
    # The lost attempt ended with its last sign of life, 300 s after its beginning.
    speeds = sorted([100 + step for step in range(1, 21)] + [200 + step for step in range(21, 41)])
    assert found["actual"] == {
        "outcome": "finished", "steps": 40, "epochs": 2.0, "wall_seconds": 1200.0, "training_seconds": 900.0,
        "device_hours": pytest.approx((300 * 4 + 600 * 2) / 3600), "processes": 2,
        "images_per_second": (speeds[19] + speeds[20]) / 2, "peak_memory_gb": 3.0, "restarts": 1,
        "redone_steps": 5, "lost_seconds": 330.0,
    }  # fmt: skip
