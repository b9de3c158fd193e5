"""A checkpoint loads on any number of processes and any ZeRO stage, and training goes on as if nothing had happened.

Saved after four of eight steps on 1, 2 and 4 processes at every stage; continued on another number of processes at
every stage. The reference is the run that was never interrupted. Stage 3 has two parameter groups with different
weight decay, whose settings DeepSpeed's own conversion would mix up.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks

PROGRAM = Path(__file__).with_name("zero_program.py")
STAGES = (0, 1, 2, 3)
MOVES = ((1, 2), (2, 4), (4, 2))
"""(processes that saved, processes that go on)"""

pytestmark = pytest.mark.slow


def settings(stage: int) -> list[str]:
    return [f"training.zero.stage={stage}", "optimizer.weight_decay=0.3"]


@pytest.fixture(scope="module")
def continued(shared_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, int, int], Any]:
    """(processes before, stage before, processes after, stage after) → losses and ids of steps 4 to 7."""
    folder = tmp_path_factory.mktemp("resharding")
    results: dict[tuple[int, int, int, int], Any] = {}
    for launch, processes in enumerate((1, 2, 4, 2)):
        cases = [straight(stage, processes, folder) for stage in STAGES]
        sources = [before for before, after in MOVES if after == processes and (before < after) == (launch < 3)]
        for before, old, new in itertools.product(sources, STAGES, STAGES):
            cases.append(moved(before, old, new, folder))
        cases.sort(key=lambda case: "-z3" in case["name"])
        arguments = {"config": str(shared_config), "cases": cases}
        done = run_on_ranks(PROGRAM, processes, arguments, folder / f"launch-{launch}.json")
        for before, old, new in itertools.product(sources, STAGES, STAGES):
            results[before, old, processes, new] = done[f"{before}x{old}-z{new}"]
        if launch == 0:
            results[0, 0, 0, 0] = done["whole-z0"]
    return results


def straight(stage: int, processes: int, folder: Path) -> dict[str, Any]:
    if stage == 0 and processes == 1:
        # The uninterrupted reference; its half-way state is saved by the stage-0 case below it.
        return {
            "name": "whole-z0",
            "overrides": settings(0),
            "steps": 8,
            "perturb": True,
            "save_at": [4, save(1, 0, folder)],
        }
    name = f"straight-z{stage}"
    return {
        "name": name,
        "overrides": settings(stage),
        "steps": 4,
        "perturb": True,
        "save": save(processes, stage, folder),
    }


def moved(before: int, old: int, new: int, folder: Path) -> dict[str, Any]:
    return {"name": f"{before}x{old}-z{new}", "overrides": settings(new), "steps": 4, "from": save(before, old, folder)}


def save(processes: int, stage: int, folder: Path) -> str:
    return str(folder / f"{processes}-{stage}")


@pytest.mark.parametrize(("before", "after"), MOVES)
@pytest.mark.parametrize("old", STAGES)
@pytest.mark.parametrize("new", STAGES)
def test_training_goes_on_as_if_uninterrupted(
    continued: dict[tuple[int, int, int, int], Any], before: int, old: int, after: int, new: int
) -> None:
    whole, rest = continued[0, 0, 0, 0], continued[before, old, after, new]
    assert rest["losses"] == pytest.approx(whole["losses"][4:], abs=1e-5)
    assert rest["ids"] == whole["ids"][len(whole["ids"]) // 2 :]
