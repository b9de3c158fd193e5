"""Runs read from MLflow, where their directories are gone, and mixed with directories."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from run_directories import make_run
from training_command import CAIT

from cait_dist.compare.errors import CompareError
from cait_dist.compare.reading.collect import collect
from cait_dist.tracking.mlflow_client import bound_client
from cait_dist.tracking.run_directory import read_json
from cait_dist.tracking.sync import sync_to_mlflow

pytestmark = pytest.mark.slow

SEEDS = range(3)


class Tracked:
    """Three runs in MLflow under a sweep's run; the directories of the first two are gone."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder}/mlflow.db"
        client = bound_client(self.uri)
        experiment = client.create_experiment("made up", artifact_location=str(folder / "artifacts"))
        self.parent = client.create_run(experiment, run_name="grid", tags={"sweep": "parent"}).info.run_id
        runs = [self._make(folder, seed) for seed in SEEDS]
        self.original = collect([str(run.path) for run in runs])
        for run in runs:
            sync_to_mlflow(run.path, self.uri)
        self.ids = [read_json(run.mirror)["run_id"] for run in runs]
        self.directories = [run.path for run in runs]
        for path in self.directories[:2]:
            shutil.rmtree(path)

    def _make(self, folder: Path, seed: int):  # type: ignore[no-untyped-def]
        def values(step: int) -> dict[str, float]:
            return {"train/loss": seed + 1 / step, "train/epoch": step * 64 / 1438} | (
                {"val/top1": 90.0 + seed} if step % 50 == 0 else {}
            )

        settings = ("tracking.experiment=made up", f"tracking.parent_run_id={self.parent}", f"seed={seed}")
        attempts = ((0, 60, "lost"), (40, 100, "finished"))
        return make_run(folder / f"seed_{seed}", *settings, values=values, attempts=attempts)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    return Tracked(tmp_path_factory.mktemp("tracked"))


def test_a_run_read_from_mlflow_equals_the_one_that_was_sent(tracked: Tracked) -> None:
    (found,), original = collect([tracked.ids[1]], uri=tracked.uri), tracked.original[1]
    assert found.source == f"mlflow:{tracked.ids[1]}"
    assert found.name == original.name
    for key in ("train/loss", "val/top1"):
        assert found.curves[key].steps.tolist() == original.curves[key].steps.tolist()
        assert found.curves[key].values.tolist() == original.curves[key].values.tolist()
        assert found.curves[key].times == pytest.approx(original.curves[key].times, abs=1e-3)
        assert found.totals[key].mean == pytest.approx(original.totals[key].mean)
    assert found.facts.global_batch == 64
    assert found.facts.train_images == 1438
    assert found.finished
    differing = {k for k in original.config if k in found.config and found.config[k] != original.config[k]}
    assert not differing, "settings come back from their text"


def test_where_the_directory_is_still_there_it_is_read_instead(tracked: Tracked) -> None:
    (found,) = collect([tracked.ids[2]], uri=tracked.uri)
    assert found.source == str(tracked.directories[2])


@pytest.mark.parametrize("how", ["experiment", "sweep"])
def test_an_experiment_and_a_sweep_stand_for_their_runs(tracked: Tracked, how: str) -> None:
    chosen = {"experiment": "made up"} if how == "experiment" else {"sweeps": [tracked.parent]}
    found = collect([], uri=tracked.uri, **chosen)  # type: ignore[arg-type]
    assert sorted(run.name for run in found) == ["seed_0", "seed_1", "seed_2"]


def test_the_command_takes_ids_and_directories_in_one_comparison(tracked: Tracked, tmp_path: Path) -> None:
    words = [tracked.ids[0], str(tracked.directories[2]), "--uri", tracked.uri, "--json", str(tmp_path / "all.json")]
    done = subprocess.run([str(CAIT), "compare", *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (group,) = json.loads((tmp_path / "all.json").read_text())["groups"]
    assert (sorted(group["seeds"]), sorted(group["values"])) == ([0, 2], [90, 92])


def test_what_mlflow_does_not_have_is_told(tracked: Tracked) -> None:
    with pytest.raises(CompareError, match=r"no experiment 'made down' \(there are: .*made up"):
        collect([], experiment="made down", uri=tracked.uri)
    with pytest.raises(CompareError, match="cannot be read from MLflow"):
        collect(["0" * 32], uri=tracked.uri)
    with pytest.raises(CompareError, match="it is no sweep"):
        collect([], sweeps=[tracked.ids[0]], uri=tracked.uri)
