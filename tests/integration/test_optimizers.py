"""SGD with momentum, and a learning rate per layer, under every ZeRO stage, divided and resumed.

The reference is one process without partitioning. AdamW with one rate has tests of its own
(`test_step_equivalence.py`, `test_resharding.py`); here are what transfer and fine-tuning recipes add.
"""

from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks

PROGRAM = Path(__file__).with_name("zero_program.py")
STAGES = (0, 1, 2, 3)
OPTIMIZERS = {
    "sgd": ["optimizer.kind=sgd", "optimizer.lr=0.05", "optimizer.weight_decay=0.1", "optimizer.layer_decay=0.8"],
    "adamw": ["optimizer.weight_decay=0.3", "optimizer.layer_decay=0.5"],
}
STEPS, HALF = 6, 3

pytestmark = pytest.mark.slow


def case(name: str, stage: int, **more: Any) -> dict[str, Any]:
    overrides = [*OPTIMIZERS[name], f"training.zero.stage={stage}"]
    return {"name": f"{name}-z{stage}", "overrides": overrides, "steps": STEPS, "perturb": True, **more}


def resumed(name: str, stage: int, source: str) -> dict[str, Any]:
    return case(name, stage, steps=STEPS - HALF, perturb=False) | {"name": f"{name}-z{stage}-resumed", "from": source}


@pytest.fixture(scope="module")
def results(shared_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("optimizers")
    saved = {name: str(folder / name) for name in (*OPTIMIZERS, "sharded")}
    alone = [case(name, 0, save_at=[HALF, saved[name]]) for name in OPTIMIZERS]
    plain = {"name": "plain", "overrides": ["optimizer.weight_decay=0.3"], "steps": STEPS, "perturb": True}
    both = [case(name, stage) for stage in STAGES for name in OPTIMIZERS]
    both += [resumed(name, stage, saved[name]) for stage in STAGES for name in OPTIMIZERS]
    # A stage-3 engine patches torch for the rest of its process: it comes last.
    both.sort(key=lambda wanted: "z3" in wanted["name"])
    config = str(shared_config)
    return {
        1: run_on_ranks(PROGRAM, 1, {"config": config, "cases": [*alone, plain]}, folder / "1.json"),
        2: run_on_ranks(PROGRAM, 2, {"config": config, "cases": both}, folder / "2.json"),
    }


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_losses_and_norms_equal_those_of_one_process(results: dict[int, dict[str, Any]], name: str, stage: int) -> None:
    reference, found = results[1][f"{name}-z0"], results[2][f"{name}-z{stage}"]
    assert found["losses"] == pytest.approx(reference["losses"], abs=1e-5)
    health = {key: value for key, value in reference["health"].items() if "logit" not in key}
    assert {key: found["health"][key] for key in health} == pytest.approx(health, rel=2e-4)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_of_one_process_goes_on_at_every_stage(
    results: dict[int, dict[str, Any]], name: str, stage: int
) -> None:
    whole, rest = results[1][f"{name}-z0"]["losses"], results[2][f"{name}-z{stage}-resumed"]["losses"]
    assert rest == pytest.approx(whole[HALF:], abs=1e-5)


def test_both_change_what_is_learnt(results: dict[int, dict[str, Any]]) -> None:
    ends = [results[1][name]["losses"][-1] for name in ("sgd-z0", "adamw-z0", "plain")]
    assert min(abs(a - b) for i, a in enumerate(ends) for b in ends[:i]) > 1e-3
