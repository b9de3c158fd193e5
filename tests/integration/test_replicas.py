"""A single bit that flips in one rank's weights is noticed, and the rank is named where a majority can tell."""

import platform
from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks

PROGRAM = Path(__file__).with_name("replicas_program.py")
CASES = [f"z{stage}-{precision}" for stage in (0, 1, 2) for precision in ("fp32", "bf16")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(shared_config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[str]]]:
    """By rank and case: what was said before the flip, after one, after one on a second rank."""
    out = tmp_path_factory.mktemp("replicas") / "out.json"
    found: list[dict[str, Any]] = run_on_ranks(PROGRAM, 3, {"config": str(shared_config)}, out)
    return found


@pytest.mark.parametrize("case", CASES)
def test_healthy_ranks_agree_after_a_step(told: list[dict[str, list[str]]], case: str) -> None:
    assert [rank[case][0] for rank in told] == ["", "", ""]


@pytest.mark.parametrize("case", CASES)
def test_one_bit_on_one_rank_is_noticed_and_every_rank_knows_which(told: list[dict[str, list[str]]], case: str) -> None:
    said = {rank[case][1] for rank in told}
    assert len(said) == 1
    assert f"after step 7 rank 1 on {platform.node()} holds other weights than the other ranks" in said.pop()


@pytest.mark.parametrize("case", CASES)
def test_without_a_majority_nobody_is_blamed(told: list[dict[str, list[str]]], case: str) -> None:
    assert "no majority tells which are right (rank 0 on " in told[0][case][2]
