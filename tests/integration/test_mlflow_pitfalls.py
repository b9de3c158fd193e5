"""MLflow may be anything but well: a real server behind a proxy whose mood changes, and what runs make of it.

One server serves the whole file, started as a user starts it. Most cases drive the mirror itself; training is real
where training is the point.
"""

import fcntl
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mirrored_runs as runs
import numpy as np
import pytest
from flaky_proxy import FlakyProxy, flaky
from test_track_serve import PASSWORD
from test_track_serve import postgres as private_postgres
from training_command import CAIT, losses, start, wait_for

from cait_dist.config import load_config
from cait_dist.tracking.database import database_uri, prepare_database
from cait_dist.tracking.metrics import attempt_metrics, recent_metrics
from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.mlflow_facts import read_ending, read_facts
from cait_dist.tracking.mlflow_run import MlflowRun
from cait_dist.tracking.run_directory import RunDirectory, RunDirectoryError, read_json, write_json
from cait_dist.tracking.sync import sync_runs, sync_to_mlflow
from cait_dist.training.recorder import Recorder
from cait_dist.training.schedule import Calendar

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]
FOREIGN_ENVIRONMENT = {
    "MLFLOW_RUN_ID": "0123456789abcdef0123456789abcdef",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9",
    "MLFLOW_EXPERIMENT_NAME": "somebody-else",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "7",
    "MLFLOW_DISABLE_TELEMETRY": "false",
}


@dataclass
class Server:
    """A `cait track serve` that can be ended and started again on the same database and port."""

    folder: Path
    port: int
    process: subprocess.Popen[str] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(CAIT), "track", "serve", str(self.folder), "--port", str(self.port)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, (self.folder / "mlflow-server.log").read_text()[-3000:]

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    server = Server(tmp_path_factory.mktemp("server"), port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the mirrors in this process; training and programs have the real ones."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr("cait_dist.tracking.mlflow_mirror.FIRST_PAUSE", 0.2)
    monkeypatch.setattr("cait_dist.tracking.mlflow_mirror.LONGEST_PAUSE", 2.0)


@pytest.fixture
def proxy(server: Server) -> Iterator[FlakyProxy]:
    with flaky(server.port) as proxy:
        yield proxy


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return runs.make_run(tmp_path)


def programs(jobs: list[dict[str, Any]], folder: Path, **environment: str) -> list[dict[str, Any]]:
    """Run `mirror_program.py` on these jobs in this folder."""
    clean = {key: value for key, value in os.environ.items() if key != "MLFLOW_HTTP_REQUEST_TIMEOUT"}
    path = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(TESTS)]))
    done = subprocess.run(
        [sys.executable, str(TESTS / "mirror_program.py"), json.dumps(jobs)],
        cwd=folder, check=False, capture_output=True, text=True, timeout=400,
        env={**clean, **environment, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


@dataclass
class Fleet:
    """A run for each mood of the server, then sixteen at once, all in one environment made for somebody else.

    Attributes:
        made: by name
        ends: by the name of the run, see `mirror_program.py`
        strays: what was written into the folder that they were started in
        synced: status of `sync_runs` for those that had no good server
    """

    made: dict[str, RunDirectory]
    ends: dict[str, dict[str, Any]]
    strays: list[Path]
    synced: int


MOODS = ("closed", "silent", "drip", "foreign", "broken", "deaf")
WRITERS = [f"writer-{number}" for number in range(16)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Fleet:
    folder, home = tmp_path_factory.mktemp("fleet"), tmp_path_factory.mktemp("home")
    proxies = {mood: FlakyProxy(server.port, mood) for mood in MOODS}
    places = {name: proxies[name].uri if name in proxies else server.uri for name in (*MOODS, *WRITERS)}
    places["hanging"] = "http://tracker.invalid"
    made = {name: runs.make_run(folder, name) for name in places}
    jobs = [
        {
            "run": str(run.path),
            "uri": places[name],
            "steps": 60,
            "wait": 4.0,
            "hangs": name == "hanging",
            "wave": int(name in WRITERS),
        }
        for name, run in made.items()
    ]
    results = programs(jobs, home, **FOREIGN_ENVIRONMENT)
    for proxy in proxies.values():
        proxy.close()
    ends = dict(zip(made, results, strict=True))
    synced = sync_runs([made[mood].path for mood in MOODS], server.uri)
    return Fleet(made, ends, list(home.iterdir()), synced)


# --- pitfall 1: many writers


def test_sixteen_writers_at_once_lose_nothing(fleet: Fleet, server: Server) -> None:
    client = bound_client(server.uri)
    for name in WRITERS:
        run = fleet.made[name]
        assert fleet.ends[name]["status"] == 0
        if not fleet.ends[name]["arrived"]:  # on few cores sixteen may need longer than the end of a run waits
            sync_to_mlflow(run.path, server.uri)
        for key in ("train/loss", "val/top1"):
            assert runs.history(run, server.uri, key) == runs.recorded(run, key)
        assert runs.shown(run, server.uri).info.status == "FINISHED"
    files = client.list_artifacts(read_json(fleet.made[WRITERS[-1]].mirror)["run_id"])
    assert {file.path for file in files} == {"report.md", "config.yaml", "run.json"}, "no tables, no models"


# --- pitfall 2: the server is away, silent, slow, refuses, fails, restarts


def test_a_process_ends_within_half_a_minute_of_its_last_step_whatever_the_server_does(
    fleet: Fleet, server: Server
) -> None:
    # What an end costs with a good server on this machine, as busy as it is, comes on top.
    usual = statistics.median(fleet.ends[name]["seconds"] for name in WRITERS)
    for name in (*MOODS, "hanging"):
        end = fleet.ends[name]
        assert (name, end["status"], end["arrived"]) == (name, 0, False)
        assert end["seconds"] < 30 + usual, name
        assert len(end["said"]) <= 1, f"one warning, not one per try: {end['said']}"
    assert "metrics stay in" in fleet.ends["closed"]["said"][0]
    assert "Invalid Host header" in fleet.ends["foreign"]["said"][0]
    assert "--allowed-hosts" in fleet.ends["foreign"]["said"][0]
    assert fleet.synced == 0
    for mood in MOODS:
        runs.same_as_recorded(fleet.made[mood], server.uri)


# --- pitfall 6: what is set for other programs


def test_variables_for_other_programs_lead_nothing_elsewhere(fleet: Fleet, server: Server) -> None:
    client = bound_client(server.uri)
    assert [found.name for found in client.search_experiments()] == ["mirror", "Default"]
    names = [
        found.info.run_name for found in client.search_runs([client.get_experiment_by_name("mirror").experiment_id])
    ]
    assert {name: names.count(name) for name in (*MOODS, *WRITERS)} == dict.fromkeys((*MOODS, *WRITERS), 1)
    assert fleet.strays == [], "nothing is written where the command is called"


@pytest.mark.parametrize("mood", ["closed", "silent", "foreign", "broken", "deaf", "drip"])
def test_a_mirror_catches_up_when_the_server_is_well_again(
    run: RunDirectory, proxy: FlakyProxy, server: Server, mood: str
) -> None:
    said: list[str] = []
    writer = runs.begin(run)
    mirror = runs.open_mirror(run, proxy.uri, said.append)
    runs.write_steps(writer, range(1, 31))
    mirror.commit(10)
    wait_for(lambda: (read_json(run.mirror) or {}).get("cursor", {}).get("step") == 10, "the first ten steps")
    proxy.become(mood)
    began = time.perf_counter()
    for step in range(11, 21):
        mirror.commit(step)
        time.sleep(0.05)
    assert time.perf_counter() - began < 1.5, "whoever trains does not wait"
    if mood != "drip":
        wait_for(lambda: said, "a warning")
        time.sleep(1.5)
    proxy.become("good")
    mirror.commit(30)
    wait_for(lambda: read_json(run.mirror)["cursor"]["step"] == 30, "all steps", timeout=20)
    writer.close()
    assert runs.finish(run, mirror, "finished", 30)
    if mood != "drip":
        assert ["answers again" in text for text in said] == [False, True]
    runs.same_as_recorded(run, server.uri)


def test_a_mirror_asks_less_and_less_often_while_the_server_fails(
    run: RunDirectory, proxy: FlakyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cait_dist.tracking.mlflow_mirror.FIRST_PAUSE", 1.0)
    monkeypatch.setattr("cait_dist.tracking.mlflow_mirror.LONGEST_PAUSE", 60.0)
    proxy.become("broken")
    writer = runs.begin(run)
    mirror = runs.open_mirror(run, proxy.uri, lambda _: None)
    for step in range(1, 400):
        runs.write_steps(writer, range(step, step + 1))
        mirror.commit(step)
        time.sleep(0.01)
    assert 1 <= proxy.requests <= 5, "commits do not hurry it"
    writer.close()
    began = time.monotonic()
    assert not runs.finish(run, mirror, "finished", 400)
    assert time.monotonic() - began < 3, "nobody waits for a server that was away all the time"


def test_a_thread_that_a_dripping_server_holds_is_replaced(
    run: RunDirectory, proxy: FlakyProxy, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cait_dist.tracking.mlflow_mirror.STUCK_SECONDS", 3.0)
    said: list[str] = []
    writer = runs.begin(run)
    mirror = runs.open_mirror(run, proxy.uri, said.append)
    runs.write_steps(writer, range(1, 21))
    mirror.commit(10)
    wait_for(lambda: (read_json(run.mirror) or {}).get("cursor", {}).get("step") == 10, "the first ten steps")
    proxy.become("drip")
    mirror.commit(20)
    time.sleep(4)
    # The old connection drips on; new ones do not.
    proxy.mood = "good"
    mirror.commit(20)
    wait_for(lambda: read_json(run.mirror)["cursor"]["step"] == 20, "the rest", timeout=10)
    writer.close()
    assert runs.finish(run, mirror, "finished", 20)
    assert [text for text in said if "no answer for" in text]
    runs.same_as_recorded(run, server.uri)


def test_a_server_that_restarts_between_two_batches_and_at_the_end_gets_everything(
    run: RunDirectory, server: Server
) -> None:
    writer = runs.begin(run)
    mirror = runs.open_mirror(run, server.uri, lambda _: None)
    runs.write_steps(writer, range(1, 1001))
    mirror.commit(500)
    wait_for(lambda: (read_json(run.mirror) or {}).get("cursor"), "a batch")
    server.stop()
    mirror.commit(1000)
    server.start()
    wait_for(lambda: read_json(run.mirror)["cursor"]["step"] == 1000, "all steps")
    writer.close()
    assert runs.finish(run, mirror, "finished", 1000)
    runs.same_as_recorded(run, server.uri)


# --- pitfall 3 and 5: crashes, resumes, two attempts alive


def cursor_at(run: RunDirectory, step: int) -> Callable[[], bool]:
    return lambda: ((read_json(run.mirror) or {}).get("cursor") or {}).get("step") == step


def test_a_crash_between_sending_and_noting_it_leaves_each_row_once(run: RunDirectory, server: Server) -> None:
    writer = runs.begin(run)
    mirror = runs.open_mirror(run, server.uri, print)
    runs.write_steps(writer, range(1, 51))
    mirror.commit(10)
    wait_for(cursor_at(run, 10), "ten steps")
    early = read_json(run.mirror)
    mirror.commit(50)
    wait_for(cursor_at(run, 50), "all steps")
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
            wait_for(cursor_at(run, saved), f"step {saved}")
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
        wait_for(cursor_at(run, end), f"step {end}")
    steps = [step for step, _ in runs.history(run, server.uri)]
    assert steps == list(range(1, 61))


def test_an_older_attempt_that_is_still_alive_sends_nothing_any_more(run: RunDirectory, server: Server) -> None:
    said: list[str] = []
    first = runs.begin(run)
    old = runs.open_mirror(run, server.uri, said.append)
    runs.write_steps(first, range(1, 31))
    old.commit(10)
    wait_for(cursor_at(run, 10), "ten steps")
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


# --- pitfall 4: names and values


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


# --- pitfall 7: packages that are missing or broken


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


# --- pitfall 8: true statuses


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
    wait_for(cursor_at(run, 20), "twenty steps")
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


# --- live


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
    wait_for(cursor_at(run, 10), "ten steps")
    second = runs.begin(run, 10)
    again = runs.open_mirror(run, server.uri, print, live=True)
    runs.write_steps(second, range(11, 21), attempt=2)
    again.commit(20)
    writer.close(), second.close()
    assert runs.finish(run, again, "finished", 20)
    runs.same_as_recorded(run, server.uri)


# --- cait track sync


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


# --- training itself


def test_training_does_not_feel_a_server_that_falls_silent(
    tiny_config: Path, proxy: FlakyProxy, server: Server
) -> None:
    for attempt in ("first", "second"):
        proxy.become("good")
        ratio, seconds = silent_half(tiny_config, proxy, server, attempt)
        print(f"steps took {ratio:.3f} times as long, and the end {seconds:.1f} s")
        assert seconds < 30
        if ratio < 1.3:
            return
    raise AssertionError(f"steps took {ratio:.2f} times as long")


def silent_half(config: Path, proxy: FlakyProxy, server: Server, name: str) -> tuple[float, float]:
    """Train with a server that falls silent in the middle: how much longer steps take then, and the time to end."""
    options = ("tracking.mlflow=true", f"tracking.uri={proxy.uri}", "training.epochs=4", "evaluation.every_epochs=9")
    training = start(config, *options, "--processes", "1", name=name)
    # Loading MLflow has cost its share of the processor, once, before the first half begins.
    wait_for(lambda: (read_json(training.run.mirror) or {}).get("cursor"), "the first steps in MLflow")
    first = newest_step(training.run) + 5
    while (middle := newest_step(training.run)) < first + 120:
        assert training.process.poll() is None
        time.sleep(0.2)
    proxy.become("silent")
    status, out, err = training.finish()
    ended = time.time()
    assert status == 0, err
    assert out.count("does not answer") == 1
    assert proxy.refused > 0, "it tried"
    proxy.become("good")
    done = subprocess.run(
        [str(CAIT), "track", "sync", str(training.run.path), "--uri", server.uri],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "values sent" in done.stdout
    runs.same_as_recorded(training.run, server.uri)
    # From line to line: what happens between steps counts, too.
    times = {row["step"]: row["time"] for row in attempt_metrics(training.run.attempt(1)) if "train/loss" in row}
    last = max(times)
    assert last - middle > 60
    good = (times[middle] - times[first]) / (middle - first)
    bad = (times[last] - times[middle + 5]) / (last - middle - 5)
    return bad / good, ended - times[last]


def newest_step(run: RunDirectory) -> int:
    return max((row["step"] for row in recent_metrics(run.attempt(1))), default=0)


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
