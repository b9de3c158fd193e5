"""A teacher teaches the same under every ZeRO stage, divided and resumed, and is the same one throughout a run.

The teacher is a run of another size; the students of most tests are steps on one and two ranks as in
`test_step_equivalence.py`, two of them whole runs.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks import run_on_ranks
from typer.testing import CliRunner

from cait_dist.cli import app
from cait_dist.config import load_config
from cait_dist.tracking.metrics import read_metrics, series
from cait_dist.tracking.run_directory import RunDirectory, read_json
from cait_dist.training.saving.checkpoint_files import list_checkpoints
from cait_dist.training.starting.attempt import begin_attempt
from cait_dist.training.starting.plan import CannotStartError
from cait_dist.training.starting.preflight import preflight

STEPS = Path(__file__).with_name("zero_program.py")
RUNS = Path(__file__).with_name("training_program.py")
STAGES = (1, 2, 3)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(shared_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: a teacher, a student that asks it, and one that learns from what it said before."""
    place = tmp_path_factory.mktemp("distillation")
    common = [f"runs_dir={place}", "training.zero.stage=1", "evaluation.weights=[raw]", "evaluation.every_epochs=1"]
    teacher = ["name=teacher", *common, "model.embed_dim=48", "model.drop_path_rate=0", "augment.mixup=0"]
    student = ["name=student", *common, "distillation.kind=hard", f"distillation.teacher={place / 'teacher'}"]
    config = str(shared_config)
    wanted = [{"config": config, "overrides": teacher}, {"config": config, "overrides": student}]
    run_on_ranks(RUNS, 1, wanted, place / "runs.json")
    evaluated = CliRunner().invoke(
        app, ["evaluate", str(place / "teacher"), "evaluation.sets=[{name: train, split: train}]"]
    )
    assert evaluated.exit_code == 0, evaluated.output
    return place


def labels_of(folder: Path) -> Path:
    return next((folder / "teacher" / "evaluations").glob("step-*/train-raw.npz"))


def settings_of(kind: str, folder: Path) -> list[str]:
    if kind == "labels":
        return ["distillation.kind=hard", f"distillation.labels={labels_of(folder)}"]
    heat = ["distillation.temperature=2"] if kind == "soft" else []
    return [f"distillation.kind={kind}", f"distillation.teacher={folder / 'teacher'}", *heat]


def case(kind: str, folder: Path, stage: int, **more: Any) -> dict[str, Any]:
    overrides = [f"training.zero.stage={stage}", *(settings_of(kind, folder) if kind != "none" else [])]
    return {"name": f"{kind}-z{stage}", "overrides": overrides, "steps": 6, "perturb": True, **more}


@pytest.fixture(scope="module")
def steps(folder: Path, shared_config: Path) -> dict[int, dict[str, Any]]:
    """Losses on one rank and on two; and at each stage those of a run that was resumed half-way."""
    saved = {stage: str(folder / f"half-{stage}") for stage in STAGES}
    alone = [case(kind, folder, 0) for kind in ("none", "hard", "soft", "labels")]
    divided = case("hard", folder, 0) | {"name": "divided"}
    divided["overrides"].append("training.micro_batch_limit=4")
    both = [case(kind, folder, stage) for kind in ("soft", "labels") for stage in (2,)]
    for stage in STAGES:
        both.append(case("hard", folder, stage, save_at=[3, saved[stage]]))
        rest = case("hard", folder, stage, steps=3, perturb=False)
        both.append(rest | {"name": f"resumed-z{stage}", "from": saved[stage]})
    # A stage-3 engine patches torch for the rest of its process: it comes last.
    both.sort(key=lambda wanted: "z3" in wanted["name"])
    config = str(shared_config)
    return {
        1: run_on_ranks(STEPS, 1, {"config": config, "cases": [*alone, divided]}, folder / "1.json"),
        2: run_on_ranks(STEPS, 2, {"config": config, "cases": both}, folder / "2.json"),
    }


@pytest.mark.parametrize("name", ["hard-z1", "hard-z2", "hard-z3", "soft-z2", "labels-z2"])
def test_two_ranks_at_any_stage_learn_what_one_rank_learns(steps: dict[int, dict[str, Any]], name: str) -> None:
    kind = name.partition("-")[0]
    assert steps[2][name]["losses"] == pytest.approx(steps[1][f"{kind}-z0"]["losses"], abs=1e-5)


def test_micro_batches_change_nothing(steps: dict[int, dict[str, Any]]) -> None:
    assert steps[1]["divided"]["losses"] == pytest.approx(steps[1]["hard-z0"]["losses"], abs=1e-5)


def test_each_kind_teaches_something_of_its_own(steps: dict[int, dict[str, Any]]) -> None:
    ends = [steps[1][f"{kind}-z0"]["losses"][-1] for kind in ("none", "hard", "soft", "labels")]
    assert min(abs(a - b) for i, a in enumerate(ends) for b in ends[:i]) > 1e-3


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_run_is_the_straight_one_to_the_bit(steps: dict[int, dict[str, Any]], stage: int) -> None:
    straight, resumed = steps[2][f"hard-z{stage}"], steps[2][f"resumed-z{stage}"]
    assert resumed["losses"] == straight["losses"][3:]
    assert resumed["weights"] == straight["weights"]


def test_a_run_tells_who_teaches_it_and_how_it_goes(folder: Path) -> None:
    run = RunDirectory(folder / "student")
    rows = read_metrics(run)
    agreement = [value for _, value in series(rows, "train/teacher_agreement")]
    assert len(agreement) == len(series(rows, "train/distillation_loss")) == len(series(rows, "train/loss")) > 30
    assert all(0 <= value <= 1 for value in agreement)
    newest = list_checkpoints(folder / "teacher" / "checkpoints")[-1]
    assert read_json(run.attempt(1) / "facts.json")["teacher_digest"] == newest.digest


def test_what_a_teacher_said_is_what_it_says(folder: Path) -> None:
    with np.load(labels_of(folder)) as answers:
        assert len(answers["sample"]) == 1438
        assert set(answers["predicted"]) <= set(range(10))


def begin(config: Path, *settings: str) -> None:
    loaded = load_config(config, settings).config
    attempt = begin_attempt(loaded, preflight(loaded, 1), "auto")
    assert attempt is not None
    os.close(attempt.lock)


def test_a_run_keeps_its_teacher_which_may_only_move(folder: Path, tiny_config: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder / "teacher", moved)
    begin(tiny_config, "distillation.kind=hard", f"distillation.teacher={folder / 'teacher'}")
    begin(tiny_config, "distillation.kind=hard", f"distillation.teacher={moved}")
    shutil.rmtree(list_checkpoints(moved / "checkpoints")[-1].path)
    with pytest.raises(CannotStartError, match=r"'distillation': .*moved is another teacher than the one"):
        begin(tiny_config, "distillation.kind=hard", f"distillation.teacher={moved}")
    same = ("distillation.kind=hard", f"distillation.teacher={folder / 'teacher'}")
    with pytest.raises(CannotStartError, match=r"'distillation\.alpha' was 0\.5 .* and is 0\.7 now"):
        begin(tiny_config, *same, "distillation.alpha=0.7")
    # Both kinds of weights lie in one checkpoint, which has one digest.
    with pytest.raises(CannotStartError, match=r"'distillation\.teacher_weights' was 'raw' .* and is 'ema' now"):
        begin(tiny_config, *same, "distillation.teacher_weights=ema")


def test_a_teacher_that_does_not_fit_is_told_before_anything_starts(folder: Path, tiny_config: Path) -> None:
    settings = ["model.num_classes=11", "distillation.kind=hard", f"distillation.teacher={folder / 'teacher'}"]
    with pytest.raises(CannotStartError, match=r"'distillation\.teacher': .*head\.weight"):
        preflight(load_config(tiny_config, settings).config, 1)
