"""What is read of a run, and which runs are meant by what is written on the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from run_directories import BEGAN, make_run

from cait_dist.compare.errors import CompareError
from cait_dist.compare.reading.collect import collect
from cait_dist.compare.reading.from_directory import run_from_directory
from cait_dist.tracking.digest import DIGEST_FILE, MOST_STRETCHES


def test_a_run_is_read_with_its_settings_plan_and_attempts(tmp_path: Path) -> None:
    run = run_from_directory(make_run(tmp_path / "one", "optimizer.lr=3e-4", processes=4).path)
    assert (run.name, run.source) == ("one", str(tmp_path / "one"))
    assert run.config["optimizer.lr"] == 3e-4
    assert run.config["training.zero.stage"] in (0, 1, 2, 3), "defaults are there, too"
    assert (run.facts.parameters, run.facts.train_images, run.facts.global_batch) == (681_770, 1438, 64)
    assert run.facts.sets["val"].digest == "val"
    assert run.facts.code["commit"] == "abc"
    (attempt,) = run.attempts
    assert (attempt.began, attempt.ended, attempt.processes, attempt.outcome) == (BEGAN, BEGAN + 100, 4, "finished")
    assert run.finished


def test_curves_can_be_laid_over_epochs_images_time_and_device_hours(tmp_path: Path) -> None:
    run = run_from_directory(make_run(tmp_path / "one", processes=4).path)
    curve = run.curves["train/loss"]
    assert run.images(curve.steps)[-1] == 6400
    assert run.epochs(curve.steps)[-1] == pytest.approx(6400 / 1438)
    assert run.wall_seconds(curve.times)[-1] == 100
    assert run.device_hours(curve.times)[-1] == pytest.approx(4 * 100 / 3600)


def test_after_two_crashes_every_step_has_one_value_the_later_one(tmp_path: Path) -> None:
    attempts = ((0, 60, "lost"), (40, 80, "lost"), (70, 100, "finished"))
    seen = []

    def values(step: int) -> dict[str, float]:
        seen.append(step)
        return {"train/loss": len(seen)}

    run = run_from_directory(make_run(tmp_path / "one", values=values, attempts=attempts).path)
    curve = run.curves["train/loss"]
    assert curve.steps.tolist() == list(range(1, 101))
    # 60 lines, then 40 more of which the first stands for step 41, then 30 more.
    assert curve.values[[39, 40, 69, 70, 99]].tolist() == [40, 61, 90, 101, 130]
    assert run.totals["train/loss"].count == 100
    assert [(a.first_step, a.last_step, a.outcome) for a in run.attempts] == [
        (0, 60, "lost"),
        (40, 80, "lost"),
        (70, 100, "finished"),
    ]
    # Paid for are all of them, those that were redone included.
    assert run.device_hours(curve.times)[-1] == pytest.approx(2 * 130 / 3600)


def test_a_long_curve_keeps_its_extremes_and_its_end_and_the_totals_are_of_all_steps(tmp_path: Path) -> None:
    def values(step: int) -> dict[str, float]:
        loss = 50.0 if step == 7777 else -50.0 if step == 3333 else math.sin(step)
        return {"train/loss": loss, "perf/images_per_second": 10.0 if step % 100 == 0 else 100.0}

    run = run_from_directory(make_run(tmp_path / "one", values=values, attempts=[(0, 10_000, "finished")]).path)
    curve = run.curves["train/loss"]
    assert len(curve.steps) <= 2 * MOST_STRETCHES + 1
    assert (np.diff(curve.steps) > 0).all()
    assert (curve.values.max(), curve.steps[curve.values.argmax()]) == (50.0, 7777)
    assert (curve.values.min(), curve.steps[curve.values.argmin()]) == (-50.0, 3333)
    assert curve.last == pytest.approx(math.sin(10_000))
    speed = run.totals["perf/images_per_second"]
    assert (speed.count, speed.low, speed.high) == (10_000, 10, 100)
    assert speed.mean == pytest.approx(99.1)


@pytest.mark.parametrize("end", [math.nan, math.inf])
def test_a_diverged_end_shows(tmp_path: Path, end: float) -> None:
    def values(step: int) -> dict[str, float]:
        return {"train/loss": end if step > 90 else 1.0}

    run = run_from_directory(make_run(tmp_path / "one", values=values).path)
    assert str(run.curves["train/loss"].last) == str(end)
    assert run.totals["train/loss"].not_finite == 10
    assert run.totals["train/loss"].mean == 1.0


def test_a_run_that_is_killed_is_read_from_its_lines(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "one")
    (directory.attempt(1) / DIGEST_FILE).unlink()
    with (directory.attempt(1) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "tim')
    assert run_from_directory(directory.path).curves["train/loss"].steps[-1] == 100


def test_a_run_that_has_only_just_begun_has_no_curves(tmp_path: Path) -> None:
    run = run_from_directory(make_run(tmp_path / "one", attempts=[(0, 0, "stopped")]).path)
    assert run.curves == {}


def test_an_attempt_that_died_before_it_wrote_its_facts_takes_none_away(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "one", attempts=[(0, 60, "lost"), (60, 60, "failed")])
    (directory.attempt(2) / "facts.json").unlink()
    assert run_from_directory(directory.path).facts.parameters == 681_770


def test_a_run_from_before_there_were_facts(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "one")
    (directory.attempt(1) / "facts.json").unlink()
    directory.update_record(total_steps=100, global_batch=64, data_digest="train")
    facts = run_from_directory(directory.path).facts
    assert (facts.global_batch, facts.total_steps, facts.train_digest, facts.parameters) == (64, 100, "train", None)


def test_saved_predictions_are_found_by_set_and_weights(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "one")
    directory.predictions("val", "raw").parent.mkdir()
    for name, weights in (("val", "raw"), ("v2-matched", "ema")):
        directory.predictions(name, weights).touch()
    assert set(run_from_directory(directory.path).predictions) == {"val/raw", "v2-matched/ema"}


def sweep(folder: Path, begun: int) -> Path:
    members = [f"seed_{seed}" for seed in range(3)]
    for name in members[:begun]:
        make_run(folder / name)
    folder.mkdir(exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({"axes": {}, "members": members, "parent": None}))
    return folder


def test_a_sweep_stands_for_its_members_that_have_begun(tmp_path: Path) -> None:
    folder = str(sweep(tmp_path / "grid", begun=2))
    assert [run.name for run in collect([folder])] == ["seed_0", "seed_1"]
    assert [run.name for run in collect([], sweeps=[folder])] == ["seed_0", "seed_1"]


def test_a_run_is_taken_once_however_often_it_is_named(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "grid", begun=2)
    assert [run.name for run in collect([str(folder / "seed_1"), str(folder)])] == ["seed_1", "seed_0"]


def test_runs_of_one_name_get_enough_of_their_folders_to_be_told_apart(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / part / "one").path for part in ("a", "b")]
    other = make_run(tmp_path / "two").path
    assert [run.name for run in collect([*map(str, paths), str(other)])] == ["a/one", "b/one", "two"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs/on", ["runs/on is neither a run directory (it has no run.json) nor an MLflow run id", "runs/one"]),
        ("nowhere/x", ["nowhere/x is neither"]),
        ("empty", ["no member of the sweep empty has begun"]),
    ],
)
def test_what_is_no_run_is_told_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    make_run(tmp_path / "runs" / "one")
    sweep(tmp_path / "empty", begun=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompareError) as told:
        collect([name])
    for word in words:
        assert word in str(told.value)


def test_mlflow_is_asked_only_where_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(CompareError, match="Pass --uri"):
        collect(["0123456789abcdef0123456789abcdef"])
