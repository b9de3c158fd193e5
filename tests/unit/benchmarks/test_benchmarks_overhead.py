"""The cost of the trainer: kinds of steps, weighted by how often they come, over the bare steps around them."""

from pathlib import Path

import pytest

from cait_dist.config import load_config
from trainer_overhead import MODEL, NEVER, OFF, ON, SCHEDULES, overrides_of, summarise

ROOT = Path(__file__).resolve().parents[3]
KINDS = [("health" if n % 10 == 0 else "logged" if n % 2 == 0 else "plain") for n in range(1, 61)]
COST = {"plain": 0.010, "logged": 0.030, "health": 0.500}


def steps(bare=1.0, slow=()):
    found = []
    for number, kind in enumerate(KINDS):
        pace = 3.0 if number in slow else 1.0
        times = {"cpu": pace * (bare + COST[kind]), "inside": pace * bare, "bare_cpu": pace * bare}
        found.append({"kind": kind, **times, "wall": 2 * times["cpu"], "bare_wall": 2 * times["bare_cpu"]})
    return {"steps": found}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("as by default", 0.90 * 0.010 + 0.09 * 0.030 + 0.01 * 0.500),
        ("every step logged", 0.99 * 0.030 + 0.01 * 0.500),
    ],
)
@pytest.mark.parametrize("measure", ["outside", "beyond_bare", "beyond_bare_wall"])
def test_a_schedule_weighs_kinds_by_how_often_they_come(schedule, expected, measure):
    assert summarise(steps())["schedules"][schedule][measure] == pytest.approx(expected)


def test_shares_do_not_depend_on_how_long_a_step_is_nor_on_a_slow_minute():
    whole = summarise(steps())["schedules"]["as by default"]
    slow = summarise(steps(slow=range(20, 26)))["schedules"]["as by default"]
    assert slow["beyond_bare"] == pytest.approx(whole["beyond_bare"], abs=2e-3)
    longer = summarise(steps(bare=2.0))["schedules"]["as by default"]
    assert longer["outside"] == pytest.approx(whole["outside"] / 2)


def test_a_run_without_metrics_has_plain_steps_alone():
    raw = {"steps": [{**step, "kind": "plain"} for step in steps()["steps"]]}
    shares = summarise(raw)["schedules"]
    assert shares["as by default"] == shares["every step logged"]


@pytest.mark.parametrize("settings", [ON, OFF], ids=["on", "off"])
def test_the_runs_are_configurations_that_differ_as_they_say(settings):
    config = load_config(ROOT / "configs/digits.yaml", overrides_of({**MODEL, **NEVER, **settings})).config
    everything = settings is ON
    assert config.tracking.mlflow is everything
    assert (config.training.ema_decay is not None) is everything
    assert (config.training.health_every is not None) is everything
    assert bool(config.tracking.system_seconds) is everything
    assert config.model.depth == 12


def test_schedules_include_the_default_one():
    training = load_config(ROOT / "configs/cait_xxs24_224.yaml", []).config.training
    assert SCHEDULES["as by default"] == (training.log_every, training.health_every)
