"""The partitioned moving average is the plain one, at every ZeRO stage, and looking at it disturbs nothing."""

from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks

PROGRAM = Path(__file__).with_name("zero_program.py")
STAGES = {
    "z0": ["training.zero.stage=0"],
    "z1": ["training.zero.stage=1"],
    "z2": ["training.zero.stage=2"],
    "z3": ["training.zero.stage=3"],
    # Parameters this small are then kept whole on every rank, and have to be refreshed in another way.
    "z3-persistent": ["training.zero.stage=3", "training.zero.param_persistence_threshold=100000"],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(shared_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = [
        {
            "name": f"{precision}-{stage}-{'looking' if looking else 'blind'}",
            "overrides": [*overrides, f"training.precision={precision}"],
            "steps": 6,
            "perturb": True,
            "look_at_average": looking,
        }
        for stage, overrides in STAGES.items()
        for precision in ("fp32", "bf16")
        for looking in (True, False)
    ]
    out = tmp_path_factory.mktemp("average") / "out.json"
    return run_on_ranks(PROGRAM, 2, {"config": str(shared_config), "cases": cases}, out)


@pytest.mark.parametrize("stage", STAGES)
def test_it_equals_the_average_of_the_whole_weights(results: dict[str, Any], stage: str) -> None:
    plain = results["fp32-z0-looking"]["plain_average"]
    assert results[f"fp32-{stage}-looking"]["average"] == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_in_bf16_the_model_computes_with_the_rounded_average(results: dict[str, Any], stage: str) -> None:
    plain = results["fp32-z0-looking"]["plain_average"]
    assert results[f"bf16-{stage}-looking"]["average"] == pytest.approx(plain, abs=0.1)


@pytest.mark.parametrize("stage", STAGES)
def test_an_evaluation_in_fp32_computes_with_the_average_as_it_is(results: dict[str, Any], stage: str) -> None:
    plain = results["fp32-z0-looking"]["plain_average"]
    assert results[f"fp32-{stage}-looking"]["average_in_fp32"] == pytest.approx(plain, abs=1e-5)
    exact, rounded = (results[f"bf16-{stage}-looking"][key] for key in ("average_in_fp32", "average"))
    assert exact == pytest.approx(rounded, abs=0.1)
    assert exact != pytest.approx(rounded, abs=1e-3), "it was computed in bf16"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_training_goes_on_as_if_nobody_had_looked(results: dict[str, Any], stage: str, precision: str) -> None:
    looking, blind = (results[f"{precision}-{stage}-{how}"] for how in ("looking", "blind"))
    assert looking["losses"] == blind["losses"]
    assert looking["weights"] == blind["weights"]
