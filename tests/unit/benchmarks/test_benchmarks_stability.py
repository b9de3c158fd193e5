"""The stability table: its rule, which trainings it takes for done, and that settings make the trainings it names."""

import math
from pathlib import Path

import pytest

from cait_dist.config import load_config
from cait_dist.models.branches import RESIDUALS
from cait_dist.tracking.metrics import MetricsWriter
from cait_dist.training.schedule import Calendar
from parts.stability.runs import SETTINGS, VARIANTS, Member, Place, is_over, read, verdict

CHANCE = math.log(10)
MEMBER = Member("recipe", 24, "pre_norm", 0)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.4] * 50 + [0.96 * CHANCE] * 20, "stalls"),
        ([2.4] * 50 + [1.04 * CHANCE] * 20, "stalls"),
        ([2.4] * 50 + [0.94 * CHANCE] * 20, "trains"),
        ([2.4] * 50 + [1.06 * CHANCE] * 20, "diverges"),
        ([2.4] * 50 + [1e6] + [1.5] * 20, "trains"),
        ([2.4] * 50 + [math.inf] + [1.5] * 20, "diverges"),
        ([2.4] * 50 + [1.5] * 20 + [math.nan], "diverges"),
        ([1.5] * 50 + [CHANCE] * 20, "stalls"),
    ],
)
def test_the_end_decides_and_a_loss_that_is_no_number_is_not_forgiven(losses: list[float], expected: str) -> None:
    assert verdict(losses, CHANCE) == expected


def place_with(folder: Path, losses: list[float], top1: float | None) -> Place:
    place = Place(folder, folder / "data", steps=len(losses))
    attempt = place.run(MEMBER).attempt(1)
    attempt.mkdir(parents=True)
    writer = MetricsWriter(attempt, 0)
    for step, loss in enumerate(losses, 1):
        writer.append(step, 1.0, {"train/loss": loss, "perf/trained_seconds": step / 10})
    if top1 is not None:
        writer.append(len(losses), 1.0, {"val/top1": top1})
    writer.close()
    return place


@pytest.mark.parametrize(
    ("last", "top1", "over"), [(1.5, 40.0, True), (1.5, None, False), (math.nan, None, True)], ids=str
)
def test_a_training_is_over_with_its_evaluation_or_when_its_loss_is_no_number(
    tmp_path: Path, last: float, top1: float | None, over: bool
) -> None:
    assert is_over(MEMBER, place_with(tmp_path, [2.4] * 69 + [last], top1)) is over
    assert not is_over(Member("harsh", 24, "pre_norm", 0), Place(tmp_path, tmp_path, 70))


def test_a_row_has_the_numbers_of_the_run(tmp_path: Path) -> None:
    losses = [2.5, *[2.3] * 39, *[2.2] * 10, *[2.0] * 30, *[1.5] * 20]
    row = read(MEMBER, place_with(tmp_path, losses, 61.234), CHANCE)
    assert [row[f"loss_{when}"] for when in ("start", "step_50", "end")] == [2.5, 2.2, 1.5]
    assert (row["top1"], row["steps"], row["seconds"], row["verdict"]) == (61.23, 100, 10.0, "trains")
    assert (row["curve"][0], row["curve"][-1], len(row["curve"])) == (2.34, 1.5, 20)


@pytest.mark.parametrize("steps", [200, 201, 240, 1000])
def test_a_training_has_exactly_so_many_steps(tmp_path: Path, steps: int) -> None:
    overrides = Place(tmp_path, tmp_path, steps).overrides(MEMBER, samples=1438, batch=64)
    epochs = load_config(MEMBER.config, overrides).config.training.epochs
    assert Calendar(1438, 64, epochs).total_steps == steps


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("residual", VARIANTS)
def test_designs_without_a_norm_are_trained_in_their_own_form(tmp_path: Path, residual: str, setting: str) -> None:
    member = Member(setting, 36, residual, 7)
    config = load_config(member.config, Place(tmp_path, tmp_path, 200).overrides(member, 1438, 64)).config
    assert (config.model.residual, config.model.depth, config.seed) == (residual, 36, 7)
    assert (config.schedule.warmup_epochs == 0) is not RESIDUALS[residual].norm
    assert (config.optimizer.lr, config.optimizer.clip_grad) == {"recipe": (3e-3, 1.0), "harsh": (3e-2, None)}[setting]


def test_all_designs_are_in_the_table() -> None:
    assert sorted(VARIANTS) == sorted(RESIDUALS)
