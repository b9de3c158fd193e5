"""Whatever becomes of its attempts, a run is one in MLflow: one value per step, and the status that is true."""

import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mirrored_runs as runs
import pytest
from flaky_proxy import FlakyProxy
from mlflow_servers import Server
from training_command import CAIT, losses, start, wait_for

from cait_dist.config import load_config
from cait_dist.tracking.metrics import attempt_metrics
from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.mlflow_facts import read_ending
from cait_dist.tracking.run_directory import RunDirectory, read_json, write_json
from cait_dist.tracking.sync import sync_to_mlflow
from cait_dist.training.recording.recorder import Recorder
from cait_dist.training.schedule import Calendar

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("short_times")]


def test_a_crash_between_sending_and_noting_it_leaves_each_row_once(run: RunDirectory, server: Server) -> None:
    writer = runs.begin(run)
    mirror = runs.open_mirror(run, server.uri, print)
    runs.write_steps(writer, range(1, 51))
    mirror.commit(10)
    wait_for(runs.cursor_at(run, 10), "ten steps")
    early = read_json(run.mirror)
    mirror.commit(50)
    wait_for(runs.cursor_at(run, 50), "all steps")
    write_json(run.mirror, early)
    writer.close()
    run.update_attempt(1, outcome="finished", step=50)
    assert "160 values" not in sync_to_mlflow(run.path, server.uri), "it is read on from the cursor"
    runs.same_as_recorded(run, server.uri)


def test_a_run_killed_twice_has_one_value_per_step_and_its_changed_settings_as_tags(
    run: RunDirectory, proxy: FlakyProxy, server: Server
) -> None:
    mirrors = []
    for number, (begin, end, saved) in enumerate([(0, 37, 30), (30, 55, 50), (50, 60, 60)], 1):
        writer = runs.begin(run, begin)
        if number > 1:
            config = run.config.read_text().replace("  prefetch: 4", f"  prefetch: {number + 5}")
            (run.attempt(number) / "config.yaml").write_text(config)
        mirrors.append(runs.open_mirror(run, proxy.uri, print))
        if begin:
            writer.append(begin, time.time(), {"val_ema/top1": float(begin)})  # an evaluation that the kill prevented
        runs.write_steps(writer, range(begin + 1, end + 1), attempt=number)
        writer.close()
        # The second attempt finds nobody: what it could not send, the third does.
        proxy.become("closed" if number == 2 else "good")
        mirrors[-1].commit(saved)
        if number != 2:
            wait_for(runs.cursor_at(run, saved), f"step {saved}")
            assert runs.shown(run, server.uri).info.status == "RUNNING"
    assert runs.finish(run, mirrors[-1], "finished", 60)
    runs.same_as_recorded(run, server.uri)
    tags = runs.shown(run, server.uri).data.tags
    assert {key: value for key, value in tags.items() if key.startswith("override.")} == {
        "override.2.data.prefetch": "7",
        "override.3.data.prefetch": "8",
    }
    assert runs.shown(run, server.uri).data.params["data.prefetch"] == "4"
    assert tags["attempts"] == "3"


def test_steps_done_again_behind_what_mlflow_has_are_not_shown_twice(run: RunDirectory, server: Server) -> None:
    for number, (begin, end) in enumerate([(0, 40), (20, 60)], 1):
        writer = runs.begin(run, begin)
        runs.write_steps(writer, range(begin + 1, end + 1), attempt=number)
        writer.close()
        mirror = runs.open_mirror(run, server.uri, print)
        mirror.commit(end)
        wait_for(runs.cursor_at(run, end), f"step {end}")
    steps = [step for step, _ in runs.history(run, server.uri)]
    assert steps == list(range(1, 61))


def test_an_older_attempt_that_is_still_alive_sends_nothing_any_more(run: RunDirectory, server: Server) -> None:
    said: list[str] = []
    first = runs.begin(run)
    old = runs.open_mirror(run, server.uri, said.append)
    runs.write_steps(first, range(1, 31))
    old.commit(10)
    wait_for(runs.cursor_at(run, 10), "ten steps")
    second = runs.begin(run, 10)
    old.commit(30)
    old._thread.join(10)
    assert not old._thread.is_alive()
    assert max(step for step, _ in runs.history(run, server.uri)) == 10
    runs.write_steps(second, range(11, 41), attempt=2)
    new = runs.open_mirror(run, server.uri, said.append)
    new.commit(40)
    second.close()
    assert runs.finish(run, new, "finished", 40)
    assert not old.close(read_ending(run), 5)
    assert runs.shown(run, server.uri).info.status == "FINISHED"
    runs.same_as_recorded(run, server.uri)
    assert said == []


def test_a_failure_is_told_with_the_first_error_and_forgotten_when_the_run_goes_on(
    run: RunDirectory, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cait_dist.tracking.mlflow_mirror.LIVE_SECONDS", 0.2)
    config = load_config(run.config).config
    tracking = config.tracking.model_copy(update={"uri": server.uri, "live": True})
    config = config.model_copy(update={"tracking": tracking})
    plan: Any = SimpleNamespace(calendar=Calendar(160, 16, 1.0))
    runs.begin(run).close()
    recorder = Recorder(run, 1, config, plan, 0)
    values = dict.fromkeys(("train/loss", "train/lr", "perf/images_per_second", "perf/data_wait_share"), 1.0)
    for step in range(1, 5):
        recorder.step(step, values)
    wait_for(lambda: run.mirror.exists() and runs.history(run, server.uri, "live/train/loss"), "the live metrics")
    try:
        try:
            raise RuntimeError("the data loader of step 5\nis gone")
        finally:
            recorder.close("failed", 4)
    except RuntimeError:
        pass
    found = runs.shown(run, server.uri)
    assert found.info.status == "FAILED"
    assert found.data.tags["error"] == "rank 0: RuntimeError: the data loader of step 5"
    assert "train/loss" not in found.data.metrics, "no checkpoint holds these steps"
    assert [step for step, _ in runs.history(run, server.uri, "live/train/loss")] == [1, 2, 3, 4]
    # Rank 1 was first, as its report tells, which was written later.
    report = {"rank": 1, "explained": False, "message": "disk", "traceback": "Traceback\n  x\nOSError: disk\n"}
    write_json(run.attempt(1) / "rank-1.error.json", {**report, "time": 1.0})
    write_json(run.attempt(1) / "rank-0.error.json", {**report, "rank": 0, "time": 2.0})
    assert " 0 values sent" in sync_to_mlflow(run.path, server.uri)
    assert runs.shown(run, server.uri).data.tags["error"] == "rank 1: OSError: disk"
    # The run goes on, is stopped by SLURM, comes back, and is lost.
    where = {"job": "7", "nodes": ["a"], "restarts": 2}
    writer = runs.begin(run, 0, **where)
    mirror = runs.open_mirror(run, server.uri, print)
    runs.write_steps(writer, range(1, 21))
    writer.close()
    mirror.commit(20)
    wait_for(runs.cursor_at(run, 20), "twenty steps")
    found = runs.shown(run, server.uri)
    assert (found.info.status, found.data.tags.get("error"), found.data.tags["requeued"]) == ("RUNNING", None, "2")
    assert runs.finish(run, mirror, "stopped", 20)
    assert runs.shown(run, server.uri).info.status == "KILLED"
    runs.save_checkpoint(run, 20)
    runs.write_steps(writer := runs.begin(run, 20, **{**where, "restarts": 3}), range(21, 28), attempt=3)
    writer.close()
    sync_to_mlflow(run.path, server.uri)
    found = runs.shown(run, server.uri)
    assert (found.info.status, found.data.tags["requeued"]) == ("KILLED", "3")
    assert [step for step, _ in runs.history(run, server.uri)] == list(range(1, 21))
    assert abs(found.info.end_time / 1000 - attempt_metrics(run.attempt(3))[-1]["time"]) < 2


def test_live_metrics_are_shown_before_a_checkpoint_under_names_of_their_own(
    run: RunDirectory, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cait_dist.tracking.mlflow_mirror.LIVE_SECONDS", 0.2)
    writer = runs.begin(run)
    mirror = runs.open_mirror(run, server.uri, print, live=True)
    runs.write_steps(writer, range(1, 8))
    wait_for(lambda: run.mirror.exists() and len(runs.history(run, server.uri, "live/train/loss")) == 7, "live")
    assert set(runs.shown(run, server.uri).data.metrics) == {
        "live/train/loss", "live/train/lr", "live/perf/images_per_second",
    }  # fmt: skip
    runs.write_steps(writer, range(8, 11))
    mirror.commit(10)
    wait_for(runs.cursor_at(run, 10), "ten steps")
    second = runs.begin(run, 10)
    again = runs.open_mirror(run, server.uri, print, live=True)
    runs.write_steps(second, range(11, 21), attempt=2)
    again.commit(20)
    writer.close(), second.close()
    assert runs.finish(run, again, "finished", 20)
    runs.same_as_recorded(run, server.uri)


def test_training_killed_twice_is_one_run_with_one_value_per_step(tiny_config: Path, server: Server) -> None:
    options = ("tracking.mlflow=true", f"tracking.uri={server.uri}", "tracking.system_seconds=1", "--processes", "1")
    for number, step in ((1, 14), (2, 24)):
        training = start(tiny_config, *options, f"data.prefetch={number + 2}")
        training.wait_for_checkpoint(step - 4)
        training.wait_for_step(step)
        wait_for(training.run.mirror.exists, "the run in MLflow")
        rank = training.rank(0)
        if number == 2:
            # All at once, as when the machine is lost: nobody is left to say so.
            rank.suspend()
            training.process.kill()
        rank.kill()
        training.finish()
        assert len(training.run.attempts()) == number
        if number == 1:
            assert runs.shown(training.run, server.uri).info.status == "FAILED", "the command tells it"
    run = training.run
    shown = subprocess.run([str(CAIT), "status", str(run.path)], capture_output=True, text=True, check=True)
    assert "lost" in shown.stdout
    assert "MLflow shows it as KILLED now" in shown.stderr
    assert runs.shown(run, server.uri).info.status == "KILLED"
    again = subprocess.run([str(CAIT), "status", str(run.path)], capture_output=True, text=True, check=True)
    assert ("lost" in again.stdout, again.stderr) == (True, ""), "it is marked once"
    status, _, err = start(tiny_config, *options).finish()
    assert status == 0, err
    assert len(run.attempts()) == 3
    found = runs.shown(run, server.uri)
    assert found.info.status == "FINISHED"
    assert found.data.params["model.embed_dim"] == "24"
    assert found.data.params["training.zero.stage"] == "2"
    assert (found.data.tags["variant"], found.data.tags["world_size"]) == ("cait_xxs24_224", "1")
    assert found.data.tags["override.2.data.prefetch"] == "4"
    runs.same_as_recorded(run, server.uri)
    assert [step for step, _ in losses(run)] == list(range(1, len(losses(run)) + 1))
    files = {file.path for file in bound_client(server.uri).list_artifacts(found.info.run_id)}
    assert {"report.md", "curves.svg", "config.yaml", "environment.json", "plan-versus-actual.json"} <= files
    assert any(key.startswith("system/") for key in found.data.metrics)
