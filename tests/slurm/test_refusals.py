"""Jobs that can never run: one clear message before the submission or seconds after it, status 2, nothing queued."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster_runs import cait, run, write_profile
from training_command import CAIT

from slurm.minicluster import MiniCluster

pytestmark = pytest.mark.slow

CASES: dict[str, tuple[list[str], list[str]]] = {
    "wrong partition": (["--partition", "nope"], ["--partition nope", "invalid partition", "low", "main"]),
    "wrong constraint": (["--constraint", "turbo"], ["--constraint turbo", "features here", "fast"]),
    "too many GPUs": (["--gpus-per-node", "9"], ["--gpus-per-node 9", "not available", "gpu:8"]),
    "too many nodes": (["--nodes", "99"], ["--nodes 99"]),
    "longer than the partition allows": (["--time", "9-00:00:00"], ["--time 9-00:00:00", "partition main allows"]),
    "longer than the profile allows": (
        ["--cluster", "minicluster", "--time", "9-00:00:00"],
        ["--time 9-00:00:00", "this cluster allows 1-00:00:00"],
    ),
    "no time at all": (["--time", "0"], ["--time", "must be minutes"]),
    "time that SLURM reads otherwise": (["--time", "12:00"], ["--time", "H:MM:SS"]),
    "no time left to save": (["--cluster", "minicluster", "--time", "1"], ["signal_seconds (60)", "shorter than"]),
    "unknown profile": (["--cluster", "minicluste"], ["no profile 'minicluste'", "did you mean 'minicluster'"]),
    "typo in a profile": (["--cluster", "{folder}/typo.yaml"], ["typo.yaml:1:1", "partitoin", "'partition'"]),
    "folder outside the shared ones": (
        ["--cluster", "{folder}/shared.yaml"],
        ["'runs_dir'", "which the nodes do not see", "/shared"],
    ),
    "folder that is not shared": (["runs_dir=/dev/shm/cait-refusals"], ["failed before its first line", "share"]),
    "several jobs on one SQLite file": (
        ["--array", "0-1", "tracking.mlflow=true"],
        ["several jobs would write", "mlflow.db", "cait track serve", "tracking.mlflow=false"],
    ),
    "batch that cannot be split": (["--tasks-per-node", "16", "--nodes", "4"], ["cannot be split over 64 processes"]),
    "options of a cluster on this machine": (
        ["--cluster", "local", "--partition", "main"],
        ["local is this machine alone", "--partition"],
    ),
}
WITH_ACCOUNTING: dict[str, tuple[list[str], list[str]]] = {
    "wrong account": (["--account", "nope"], ["--account nope", "Invalid account"]),
    "wrong QOS": (["--qos", "nope"], ["--qos nope", "Invalid qos"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shared_config: Path) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("refusals")
    (place / "tiny.yaml").write_text(
        shared_config.read_text().replace(str(shared_config.parent / "runs"), str(place / "runs"))
    )
    write_profile(place)
    (place / "typo.yaml").write_text("partitoin: main\n")
    (place / "shared.yaml").write_text("gpus_per_node: 0\nlimits: {shared_paths: [/shared]}\n")
    yield place
    shutil.rmtree("/dev/shm/cait-refusals", ignore_errors=True)


@pytest.fixture(scope="module")
def outcomes(cluster: MiniCluster, folder: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    def go(name: str) -> subprocess.CompletedProcess[str]:
        words = [word.format(folder=folder) for word in (CASES | WITH_ACCOUNTING)[name][0]]
        profile = [] if "--cluster" in words else ["--cluster", str(folder / "two.yaml")]
        return cait(cluster, "launch", folder / "tiny.yaml", *words, *profile)

    names = [*CASES, *(WITH_ACCOUNTING if cluster.settings.accounting else {})]
    with ThreadPoolExecutor(3) as pool:
        return dict(zip(names, pool.map(go, names), strict=True))


@pytest.mark.parametrize("name", [*CASES, *WITH_ACCOUNTING])
def test_it_says_what_to_change(name: str, outcomes: dict[str, subprocess.CompletedProcess[str]], folder: Path) -> None:
    if name not in outcomes:
        pytest.skip("SLURM checks accounts and QOS only with a database: MariaDB is not installed")
    done = outcomes[name]
    assert done.returncode == 2, done.stdout + done.stderr
    for word in (CASES | WITH_ACCOUNTING)[name][1]:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4, done.stderr


def test_nothing_is_left_in_the_queue_or_on_the_disk(
    cluster: MiniCluster, outcomes: dict[str, subprocess.CompletedProcess[str]], folder: Path
) -> None:
    assert "tiny" not in run(cluster, ["squeue", "--format=%j"]).stdout
    assert not (folder / "runs").exists()


def test_without_slurm_it_says_where_to_call_it(folder: Path) -> None:
    # Outside of the cluster, on a machine that may have SLURM's commands but no controller to ask.
    words = [str(CAIT), "launch", str(folder / "tiny.yaml"), "--cluster", str(folder / "two.yaml")]
    for path in ("/nonexistent", None):
        environment = {"PATH": path} if path else None
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=environment)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) <= 3, done.stderr
