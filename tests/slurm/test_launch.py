"""One run over two nodes: the losses of one node, one run in MLflow, with submitit and without, and its own code."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_runs import (
    PATIENCE,
    PYTHON,
    ClusterRun,
    cait,
    environment_of,
    launch,
    rank_process,
    run,
    slow_steps,
    write_profile,
)
from training_command import evaluations, losses, train, wait_for

from cait_dist.tracking.run_directory import RunDirectory, read_json
from slurm.minicluster import MiniCluster

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EDIT = 'raise RuntimeError("the code was edited")\n'


@dataclass
class Checkout:
    """A copy of the code that the test may edit, and `cait` from it."""

    folder: Path

    def edit(self) -> None:
        """Break the training loop for whoever imports it from here."""
        path = self.folder / "cait_dist/training/trainer.py"
        path.write_text(EDIT + path.read_text())

    def launch(self, cluster: MiniCluster, config: Path, profile: Path, name: str) -> ClusterRun:
        """`cait launch`, run from this checkout."""
        command = [
            PYTHON,
            "-c",
            "from cait_dist.cli import main; main()",
            "launch",
            str(config),
            f"name={name}",
            PATIENCE,
        ]
        slow = slow_steps(self.folder / "slow", 0.5)
        paths = f"{self.folder}:{slow['PYTHONPATH']}"
        words = [*command, "--cluster", str(profile)]
        done = run(cluster, words, timeout=300, cwd=self.folder, **slow | {"PYTHONPATH": paths})
        assert done.returncode == 0, done.stdout + done.stderr
        return ClusterRun(cluster, RunDirectory(config.parent / "runs" / name))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("cait_dist", "data_prep", "launch", "slurm"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return Checkout(folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, shared_config: Path) -> Path:
    """The tiny run in a folder of its own: its MLflow holds what this file launches and nothing else."""
    folder = tmp_path_factory.mktemp("launched")
    path = folder / "tiny.yaml"
    path.write_text(shared_config.read_text().replace(str(shared_config.parent / "runs"), str(folder / "runs")))
    return path


@pytest.fixture(scope="module")
def one_node(config: Path) -> RunDirectory:
    """The undisturbed run on four processes of one machine."""
    return train(config, "--processes", "4", name="one-node")


@pytest.fixture(scope="module")
def two_by_two(cluster: MiniCluster, config: Path) -> ClusterRun:
    """Held until the launch has returned, so that the first test finds its ranks at work and not gone."""
    profile = write_profile(config.parent, "four", tasks=2, gpus=2, hold=True)
    slow = slow_steps(config.parent / "slow", 0.5)  # or MLflow might not be loaded when it ends
    job = launch(cluster, config, profile, "tracking.mlflow=true", name="two-by-two", **slow)
    run(cluster, ["scontrol", "release", job.job_id])
    return job


@pytest.fixture(scope="module")
def without_submitit(cluster: MiniCluster, config: Path) -> ClusterRun:
    options = ["--nodes=2", "--ntasks-per-node=2", "--mem=4G", f"--output={config.parent}/sbatch-%j.out"]
    words = ["sbatch", *options, str(ROOT / "slurm/train.sbatch"), str(config), "name=without-submitit", PATIENCE]
    done = run(cluster, words, PYTHON=PYTHON, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return ClusterRun(cluster, RunDirectory(config.parent / "runs" / "without-submitit"))


@pytest.fixture(scope="module")
def held_while_edited(cluster: MiniCluster, checkout: Checkout, config: Path) -> ClusterRun:
    """A job that waits in the queue while its code is edited."""
    job = checkout.launch(cluster, config, write_profile(config.parent, "held", hold=True), "held")
    checkout.edit()
    return job


@pytest.fixture(scope="module", autouse=True)
def _all_at_once(without_submitit: ClusterRun, held_while_edited: ClusterRun, two_by_two: ClusterRun) -> None:
    """Jobs start one beside the other: most of their time is waiting."""


def same_losses(run: RunDirectory, other: RunDirectory) -> bool:
    """Every step and evaluation, to what the order of a sum over the network may change."""
    pairs = zip([*losses(run), *evaluations(run)], [*losses(other), *evaluations(other)], strict=True)
    return all(a[0] == b[0] and abs(a[1] - b[1]) < 1e-5 for a, b in pairs)


def test_the_ranks_see_the_gpus_that_slurm_gave_them(cluster: MiniCluster, two_by_two: ClusterRun) -> None:
    # The second rank of a node: a launcher that numbers devices itself would show it number 1 alone.
    seen = environment_of(rank_process(two_by_two.run.path, 3))
    assert seen["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert (seen["RANK"], seen["LOCAL_RANK"], seen["WORLD_SIZE"], seen["LOCAL_WORLD_SIZE"]) == ("3", "1", "4", "2")
    assert seen["MASTER_ADDR"] == "n1"


def test_two_nodes_of_two_tasks_reach_the_losses_of_one_node(two_by_two: ClusterRun, one_node: RunDirectory) -> None:
    two_by_two.wait_until_finished()
    assert same_losses(two_by_two.run, one_node)
    assert two_by_two.attempts[0]["nodes"] == ["n1", "n2"]
    assert two_by_two.attempts[0]["processes"] == 4
    assert "global batch 16 = 4 ranks" in two_by_two.log


def test_it_is_one_run_in_mlflow(two_by_two: ClusterRun) -> None:
    from mlflow import MlflowClient  # noqa: PLC0415

    two_by_two.wait_until_gone()
    client = MlflowClient(f"sqlite:///{two_by_two.run.path.parent}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("cait").experiment_id])
    assert found.info.run_id == read_json(two_by_two.run.mirror)["run_id"]
    assert found.info.status == "FINISHED"
    assert found.data.tags["slurm_job"] == two_by_two.job_id
    assert found.data.tags["nodes"] == "n1 n2"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == losses(two_by_two.run)


def test_train_sbatch_does_the_same_without_submitit(without_submitit: ClusterRun, one_node: RunDirectory) -> None:
    without_submitit.wait_until_finished()
    assert same_losses(without_submitit.run, one_node)
    without_submitit.wait_until_gone()
    assert "done — the run is finished" in cait(without_submitit.cluster, "logs", without_submitit.run.path).stdout


def test_edits_reach_neither_a_queued_nor_a_requeued_job(
    cluster: MiniCluster, checkout: Checkout, config: Path, held_while_edited: ClusterRun
) -> None:
    # Not before: it must be at work still when it is requeued.
    run(cluster, ["scontrol", "release", held_while_edited.job_id])
    held_while_edited.wait_for_step(5)
    run(cluster, ["scontrol", "requeue", held_while_edited.job_id])
    held_while_edited.wait_for_attempt(2)
    held_while_edited.wait_until_finished()
    codes = {attempt["code"]["digest"] for attempt in held_while_edited.attempts}
    assert len(codes) == 1
    fresh = checkout.launch(cluster, config, write_profile(config.parent, "two"), "edited")
    fresh.wait_for_attempt(1)
    wait_for(lambda: "the code was edited" in fresh.log, "the edit to show")
    assert cait(cluster, "cancel", fresh.run.path, "--now").returncode == 0


def test_rank_logs_are_where_cait_logs_looks(two_by_two: ClusterRun, cluster: MiniCluster) -> None:
    two_by_two.wait_until_finished()
    story = cait(cluster, "logs", two_by_two.run.path)
    assert story.stdout.index("attempt 1 at") < story.stdout.index("step 1/36") < story.stdout.index("done — the run")
    assert cait(cluster, "logs", two_by_two.run.path, "--rank", "3").returncode == 0
    absent = cait(cluster, "logs", two_by_two.run.path, "--rank", "4")
    assert absent.returncode == 2
    assert "rank-3.log" in absent.stderr
