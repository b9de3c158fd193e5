"""A sweep of 2 × 3 as a job array, two at a time; one member is killed, and the same command brings it back.

All of them tell one `cait track serve` on the cluster's head, which the nodes call by its name.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest
from cluster_runs import PATIENCE, ClusterRun, cait, run, slow_steps, write_profile
from training_command import CAIT, losses, wait_for

from cait_dist.tracking.run_directory import RunDirectory, read_json
from slurm.minicluster import MiniCluster
from slurm.minicluster.settings import HEAD

pytestmark = pytest.mark.slow

AXES = ("optimizer.lr=1e-3,5e-4", "seed=0..2")
MEMBERS = [f"lr_{lr}-seed_{seed}" for lr in ("1e-3", "5e-4") for seed in range(3)]
VICTIM = MEMBERS[4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def database(folder: Path) -> Path:
    """Of the server: on this machine's disk, so the tests may read it while the server writes."""
    return folder / "server" / "mlflow.db"


@pytest.fixture(scope="module")
def uri(cluster: MiniCluster, database: Path) -> Iterator[str]:
    """A tracking server on the head, as its users find it."""
    serve = [str(CAIT), "track", "serve", str(database.parent), "--host", "0.0.0.0"]
    with subprocess.Popen(
        cluster.command(serve), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            # It says where it is once it answers there.
            yield next(line.split("tracking.uri=")[1].strip() for line in server.stdout if "tracking.uri=" in line)
        finally:
            entered = psutil.Process(server.pid)
            innermost = [entered, *entered.children(recursive=True)]
            next(process for process in innermost if process.cmdline()[-len(serve) :] == serve).terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def words(folder: Path, shared_config: Path, uri: str) -> list[str]:
    """The command, without `cait`."""
    config = folder / "tiny.yaml"
    config.write_text(shared_config.read_text().replace(str(shared_config.parent / "runs"), str(folder / "runs")))
    profile = write_profile(folder, "one")
    settings = (
        "name=grid",
        PATIENCE,
        "training.epochs=0.12",
        "tracking.mlflow=true",
        f"tracking.uri={uri}",
        "training.checkpoint.every_steps=4",
    )
    return ["sweep", str(config), *AXES, *settings, "--cluster", str(profile), "--parallel", "2", "--nodes", "1"]


@pytest.fixture(scope="module")
def place(words: list[str]) -> Path:
    return Path(words[1]).parent / "runs" / "grid"


def member(cluster: MiniCluster, place: Path, name: str) -> ClusterRun:
    return ClusterRun(cluster, RunDirectory(place / name))


@pytest.fixture(scope="module")
def first(cluster: MiniCluster, words: list[str], place: Path) -> str:
    """The first submission, in which one member is killed after its first checkpoint. Returns the array's id."""
    slow = slow_steps(place.parents[1] / "slow", 0.5)
    done = cait(cluster, *words, **slow)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 members" in done.stdout
    victim = member(cluster, place, VICTIM)
    victim.wait_for_checkpoint(4, timeout=700)  # two at a time, it is one of the last
    run(cluster, ["scancel", "--signal=KILL", "--full", victim.job_id])
    for name in MEMBERS:
        member(cluster, place, name).wait_until_gone()
    return victim.job_id.partition("_")[0]


def test_dry_run_lists_the_members_and_the_script_and_writes_nothing(
    cluster: MiniCluster, words: list[str], place: Path
) -> None:
    done = cait(cluster, *words, "name=other", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in MEMBERS)
    assert "#SBATCH --array=0-5%2" in done.stdout
    assert not (place.parent / "other").exists()


def test_never_more_than_two_members_run_at_a_time(cluster: MiniCluster, first: str, place: Path) -> None:
    spans = []
    for name in MEMBERS:
        for attempt in member(cluster, place, name).attempts:
            if "ended" in attempt:
                spans.append((seconds(attempt["started"]), seconds(attempt["ended"])))
    busiest = max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)
    assert busiest <= 2


def test_only_the_killed_member_is_submitted_again(
    cluster: MiniCluster, words: list[str], first: str, place: Path, uri: str, database: Path
) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415

    states = {name: member(cluster, place, name).attempts[-1].get("outcome") for name in MEMBERS}
    assert states.pop(VICTIM) != "finished"
    assert set(states.values()) == {"finished"}

    shown = cait(cluster, "status", place).stdout
    assert shown.count("finished") == 5
    again = cait(cluster, *words)
    assert "1 members" in again.stdout, again.stdout + again.stderr
    victim = member(cluster, place, VICTIM)
    victim.wait_until_finished()
    victim.wait_until_gone()
    assert victim.attempts[-1]["resumed_from"] >= 4
    assert [step for step, _ in losses(victim.run)] == list(range(1, 12))
    assert "nothing to do" in cait(cluster, *words).stdout
    # What so short a run could not yet send on a slow machine.
    assert cait(cluster, "track", "sync", *(place / name for name in MEMBERS)).returncode == 0

    sweep = read_json(place / "sweep.json")
    assert (uri.startswith(f"http://{HEAD}:"), sweep["tracking"]["uri"]) == (True, uri)
    client = MlflowClient(f"sqlite:///{database}")  # the cluster's network cannot be reached from here
    parent = client.get_run(sweep["parent"])
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{sweep['parent']}'")
    assert sorted(child.info.run_name for child in children) == MEMBERS
    assert {child.info.status for child in children} == {"FINISHED"}
    wait_for(lambda: client.get_run(sweep["parent"]).info.status == "FINISHED", "the parent's end", 30)
    assert parent.data.params == {"optimizer.lr": "1e-3, 5e-4", "seed": "0, 1, 2"}


def test_another_sweep_in_the_same_folder_is_refused(cluster: MiniCluster, words: list[str], first: str) -> None:
    done = cait(cluster, *[word for word in words if not word.startswith("seed=")])
    assert done.returncode == 2
    assert "was begun with the axes optimizer.lr, seed" in done.stderr


def seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
