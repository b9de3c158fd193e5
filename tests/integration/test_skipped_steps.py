"""A step whose gradient is not finite is left out on every rank, and what is to blame is written down.

Two ranks, two micro-batches a step, at every ZeRO stage in both precisions: at step 3 rank 1's loss is NaN, at step 4
its loss is finite and the gradient overflows.
"""

import math
from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks

PROGRAM = Path(__file__).with_name("nonfinite_program.py")
CASES = [f"z{stage}-{precision}" for stage in range(4) for precision in ("fp32", "bf16")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(shared_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("nonfinite")
    arguments = {"config": str(shared_config), "folder": str(folder)}
    found: dict[str, Any] = run_on_ranks(PROGRAM, 2, arguments, folder / "out.json")
    return found


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_leave_out_the_same_steps_and_no_others(results: dict[str, Any], case: str) -> None:
    for rank in results[case]["ranks"]:
        assert rank["left_out"] == [False, False, True, True, False, False]


@pytest.mark.parametrize("case", CASES)
def test_weights_and_average_stay_as_they_are_and_training_goes_on(results: dict[str, Any], case: str) -> None:
    rank = results[case]["ranks"][0]
    assert rank["changed"] == rank["average_changed"] == [True, True, False, False, True, True]
    assert all(math.isfinite(loss) for rank in results[case]["ranks"] for loss in rank["losses"][4:])


@pytest.mark.parametrize("case", CASES)
def test_the_samples_to_blame_are_written_down(results: dict[str, Any], case: str) -> None:
    ranks, lines = results[case]["ranks"], results[case]["ranks"][0]["lines"]
    assert [(line["step"], line["rank"], line["finite_losses"]) for line in lines] == [
        (3, 0, True), (3, 1, False), (4, 0, True), (4, 1, True),
    ]  # fmt: skip
    assert lines[1]["samples"] == ranks[1]["ids"][2], "those of the micro-batch whose loss was NaN, and no others"
    assert lines[1]["losses"][0] == "nan"
    assert len(lines[3]["samples"]) == 8, "all of the rank's, where every loss was finite"


@pytest.mark.parametrize("case", CASES)
def test_the_user_is_told(results: dict[str, Any], case: str) -> None:
    first, second = results[case]["told"]
    samples = ", ".join(map(str, results[case]["ranks"][1]["ids"][2]))
    assert first == f"step 3 left out, as its gradient is not finite: the loss of rank 1 is nan (samples {samples})"
    assert "step 4 left out" in second
    assert "the backward pass overflowed" in second


def test_a_loss_that_stays_so_ends_the_run_with_its_weights_intact(results: dict[str, Any]) -> None:
    hopeless = results["hopeless"]
    assert (hopeless["step"], hopeless["finite"]) == (5, True)
    assert "3 in a row" in hopeless["error"]
    assert "lower optimizer.lr" in hopeless["error"]
    assert "skipped.jsonl" in hopeless["error"]
