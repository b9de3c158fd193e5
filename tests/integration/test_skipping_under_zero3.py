"""Ranks that drop different samples stay in step, even where one drops everything.

ZeRO-3 fetches the parameters of each layer by a collective just before the layer runs: a rank that left a layer out
would leave the others waiting. The reference is one process, which sees the samples of all ranks: there no branch is
ever without samples.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.ranks import run_on_ranks

PROGRAM = Path(__file__).with_name("skipping_program.py")
DEPTH, BATCH = 2, 8

pytestmark = pytest.mark.slow

ALL, FIRST, SECOND = [True] * BATCH, [True] * 4 + [False] * 4, [False] * 4 + [True] * 4
SOME = [True, False, True, True, False, True, False, False]
KEEP = [
    [[ALL, SOME], [SOME, ALL]],
    [[FIRST, FIRST], [FIRST, FIRST]],  # the second of two ranks drops every branch of every block
    [[SECOND, SOME], [ALL, FIRST]],  # now the one, now the other
    [[SOME, SECOND], [FIRST, SECOND]],
    [[SOME, SOME], [SOME, SOME]],
]
"""By step, block and branch (attention, feed-forward): which samples are kept. Four belong to each of two ranks."""

CASES = [(stage, policy, "chunked") for stage in (1, 3) for policy in ("none", "attention", "block")]
CASES += [(2, "none", "chunked"), (3, "none", "eager"), (3, "block", "eager")]


def case(stage: int, policy: str, backend: str) -> dict[str, Any]:
    return {"name": f"{stage}-{policy}-{backend}", "stage": stage, "policy": policy, "backend": backend, "keep": KEEP}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("skipping") / "one.json"
    return run_on_ranks(PROGRAM, 1, {"cases": [case(1, "none", "eager")]}, out)["1-none-eager"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("skipping") / "two.json"
    return run_on_ranks(PROGRAM, 2, {"cases": [case(*c) for c in CASES]}, out)


def test_the_masks_leave_no_branch_of_the_reference_without_samples() -> None:
    assert all(any(branch) for step in KEEP for block in step for branch in block)
    assert len(set(KEEP[0][0][1])) == 2


@pytest.mark.parametrize("name", [case(*c)["name"] for c in CASES])
def test_losses_and_gradient_norms_equal_those_of_one_process(
    results: dict[str, Any], reference: dict[str, Any], name: str
) -> None:
    assert results[name]["losses"] == pytest.approx(reference["losses"], abs=1e-5)
    assert results[name]["norms"] == pytest.approx(reference["norms"], rel=1e-4)
