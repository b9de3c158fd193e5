"""Training that goes wrong goes back to the last good checkpoint and past the data that did harm, whatever happens.

Two ranks train runs of 20 steps that save every 5; batches of the stream at chosen places give a loss that is NaN on
rank 1, or one that is far too high. Runs that are killed or stopped on the way end with the bits of those that are not.
"""

from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks

from cait_dist.errors import is_for_user
from cait_dist.training.recovering.rollback import GivenUpError

PROGRAM = Path(__file__).with_name("rollback_program.py")
STEPS, BATCH = 20, 16
COMMON = [
    "training.epochs=0.222", "training.checkpoint.every_steps=5", "training.checkpoint.keep=2", "evaluation.sets=[]",
    "training.most_skipped_steps=3", "training.health_every=null",
]  # fmt: skip
SPIKES = ["training.rollback.spike=8", "training.rollback.spike_window=8", "training.rollback.spike_steps=2"]
KILLED = ("before the record", "before loading", 15, 17)
"""Moments of a rollback, or the first batch after it, or one after that."""

pytestmark = pytest.mark.slow


def cases() -> list[dict[str, Any]]:
    found = []
    for stage in range(4):
        precision = "bf16" if stage in (0, 3) else "fp32"
        overrides = [*COMMON, f"training.zero.stage={stage}", f"training.precision={precision}"]
        found.append({"name": f"window-{stage}", "overrides": overrides, "nan": (12, 15)})
        moments = {2: KILLED, 3: (KILLED[1],)}.get(stage, ())
        found += [{**found[-1], "name": f"window-{stage} killed {moment}", "killed": moment} for moment in moments]
    found.append({"name": "in a row", "overrides": COMMON, "nan": (12, 15), "killed": 13})
    found.append({"name": "wide", "overrides": COMMON, "nan": (12, 22)})
    found.append({"name": "endless", "overrides": [*COMMON, "training.rollback.at_most=2"], "nan": (12, 10**6)})
    found.append({"name": "never", "overrides": [*COMMON, "training.rollback.at_most=0"], "nan": (12, 15)})
    found.append({"name": "no checkpoint", "overrides": COMMON, "nan": (3, 12)})
    spike = {"overrides": [*COMMON, *SPIKES], "high": (12, 14)}
    found += [{**spike, "name": "spike"}, {**spike, "name": "spike killed", "killed": 16}]
    found += [{**spike, "name": f"spike stopped {place}", "stopped": place} for place in (12, 13)]
    return found


@pytest.fixture(scope="module")
def found(shared_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    arguments = {"config": str(shared_config), "cases": cases()}
    result: dict[str, Any] = run_on_ranks(PROGRAM, 2, arguments, tmp_path_factory.mktemp("rollback") / "out.json")
    return result


@pytest.mark.parametrize("stage", range(4))
def test_data_that_give_no_finite_gradient_are_skipped_from_the_checkpoint_before_them_on(
    found: dict[str, Any], stage: int
) -> None:
    run = found[f"window-{stage}"]
    assert run["outcomes"] == ["finished"]
    assert run["places"] == [*range(15), *range(15, 25)], "ten steps are done again, with the data that come next"
    assert [row["step"] for row in run["rows"]] == list(range(1, STEPS + 1)), "each step once"
    assert [row["train/rollbacks"] for row in run["rows"]] == [None] * 10 + [1.0] * 10
    assert run["recorded"] == [{"attempt": 1, "from": 15, "to": 10, "shift": 5}]
    report = run["reports"][0]
    assert report["skipped"] == {"steps": 5, "positions": [10 * BATCH, 15 * BATCH]}
    assert "3 in a row" in report["why"]
    assert (report["began"], list(report["losses"])) == (13, ["13", "14", "15"])
    assert report["losses"]["13"][1] == "nan"
    assert (run["checkpoint"], run["finite"]) == (STEPS, True)


@pytest.mark.parametrize(("stage", "moment"), [(2, moment) for moment in KILLED] + [(3, KILLED[1])])
def test_a_run_killed_at_any_moment_of_it_ends_with_the_same_bits(
    found: dict[str, Any], stage: int, moment: str | int
) -> None:
    straight, killed = found[f"window-{stage}"], found[f"window-{stage} killed {moment}"]
    assert killed["outcomes"] == ["killed", "finished"]
    assert killed["files"] == straight["files"]
    assert [row["train/loss"] for row in killed["rows"]] == [row["train/loss"] for row in straight["rows"]]
    assert [(done["to"], done["shift"]) for done in killed["recorded"]] == [(10, 5)]


def test_a_run_killed_amid_steps_left_out_counts_on_and_ends_with_the_same_bits(found: dict[str, Any]) -> None:
    assert found["in a row"]["outcomes"] == ["killed", "finished"]
    assert found["in a row"]["files"] == found["window-2"]["files"]


def test_where_a_checkpoint_leads_into_trouble_at_once_an_older_one_is_tried_and_nothing_goes_on_from_it(
    found: dict[str, Any],
) -> None:
    run = found["wide"]
    assert run["outcomes"] == ["finished"]
    assert [(done["from"], done["to"], done["shift"]) for done in run["recorded"]] == [
        (15, 10, 5), (13, 5, 13), (8, 5, 16),
    ]  # fmt: skip
    assert run["places"] == [*range(21), *range(21, 36)], "no batch is used twice"
    assert run["aside"] == ["abandoned-step-00000010"], "the only one that was saved since"


def test_what_helps_against_nothing_ends_the_run_with_a_report_and_finite_weights(found: dict[str, Any]) -> None:
    run = found["endless"]
    message = run["outcomes"][-1]
    assert is_for_user(GivenUpError(message)), "so it is the last line that is seen, and the status is 2"
    assert "training has gone back 2 times" in message
    assert "lower optimizer.lr" in message
    assert "rollbacks.jsonl" in message
    assert "\n" not in message
    assert [report["to"] for report in run["reports"]] == [10, 5, None]
    assert run["finite"]


def test_a_run_that_may_not_go_back_or_cannot_ends_at_once(found: dict[str, Any]) -> None:
    assert "has gone back 0 times" in found["never"]["outcomes"][-1]
    assert "no intact checkpoint from before" in found["no checkpoint"]["outcomes"][-1]
    for name in ("never", "no checkpoint"):
        assert [report["to"] for report in found[name]["reports"]] == [None]
        assert found[name]["aside"] == []


def test_a_loss_that_spikes_by_the_rule_is_gone_back_for(found: dict[str, Any]) -> None:
    run = found["spike"]
    assert run["outcomes"] == ["finished"]
    assert [(done["from"], done["to"], done["shift"]) for done in run["recorded"]] == [(16, 10, 6)]
    assert "the loss of step 14 is" in run["reports"][0]["why"]
    assert list(run["reports"][0]["losses"]) == ["13", "14"]
    assert max(row["train/loss"] for row in run["rows"]) < 10, "what was high was taken back"


@pytest.mark.parametrize("how", ["killed", "stopped 12", "stopped 13"])
def test_a_spike_is_seen_at_the_same_step_by_a_run_that_was_interrupted(found: dict[str, Any], how: str) -> None:
    run, straight = found[f"spike {how}"], found["spike"]
    assert run["outcomes"] == [how.partition(" ")[0], "finished"]
    assert run["files"] == straight["files"]
    assert [done["shift"] for done in run["recorded"]] == [6]
