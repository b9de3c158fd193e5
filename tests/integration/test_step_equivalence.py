"""One training step computes the same thing, however the work is divided.

The reference is a single process without partitioning, recomputation or accumulation. Every other way — ZeRO stage,
number of processes, activation checkpointing, micro-batches — must give the same losses over eight steps, with mixup,
cutmix, stochastic depth and gradient clipping on, and LayerScale of order one so that no part of the network is mute.
Stage 3 runs with a persistence threshold of 0: without it nothing in so small a model would be partitioned.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks

PROGRAM = Path(__file__).with_name("zero_program.py")
STEPS = 8
PROCESSES, STAGES, POLICIES, ACCUMULATION = (1, 2, 4), (0, 1, 2, 3), ("none", "attention", "block"), (1, 2)
FP32 = [f"fp32-z{z}-{p}-acc{a}" for z, p, a in itertools.product(STAGES, POLICIES, ACCUMULATION)]
BF16 = [f"bf16-z{z}-{way}" for z, way in itertools.product(STAGES, ("none-acc1", "every-2-acc2"))]
FLOAT8 = {
    f"{kind}-z{stage}": ["model.embed_dim=32", "training.precision=bf16", f"training.zero.stage={stage}", *also]
    for stage in (1, 3)
    for kind, also in (("wide-bf16", []), ("wide-float8", ["training.float8=true"]))
}
"""A network of widths that products of 8 bits can have."""
FLOAT8_ON = 2
COMPILED, COMPILED_ON = "fp32-z2-none-acc2", 1
"""Ranks compile the same, each for itself: one will do."""
FP32_TOLERANCE = 1e-5
BF16_TOLERANCE = 3e-2
"""bf16 has 8 bits: a loss of 2.5 is itself known to 1e-2 only, and eight updates of rounded weights follow."""

pytestmark = pytest.mark.slow


def case(name: str, processes: int) -> dict[str, Any]:
    precision, stage, rest = name.split("-", 2)
    policy, _, accumulation = rest.rpartition("-acc")
    overrides = [
        f"training.precision={precision}",
        f"training.zero.stage={stage[1:]}",
        f"training.activation_checkpointing={policy}",
        f"training.micro_batch_limit={16 // processes // int(accumulation)}",
    ]
    return {"name": name, "overrides": overrides, "steps": STEPS, "perturb": True}


@pytest.fixture(scope="module")
def results(shared_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    out = tmp_path_factory.mktemp("equivalence")
    # A stage-3 engine patches torch for the rest of its process: it comes last.
    names = sorted(FP32 + BF16, key=lambda name: "z3" in name)
    cases = {processes: [case(name, processes) for name in names] for processes in PROCESSES}
    compiled = case(COMPILED, COMPILED_ON)
    compiled |= {"name": "compiled", "overrides": [*compiled["overrides"], "training.compile=true"]}
    cases[COMPILED_ON].insert(0, compiled)
    wide = {name: {"name": name, "overrides": also, "steps": STEPS, "perturb": True} for name, also in FLOAT8.items()}
    at = next(place for place, made in enumerate(cases[FLOAT8_ON]) if "z3" in made["name"])
    cases[FLOAT8_ON][at:at] = wide.values()
    return {
        processes: run_on_ranks(
            PROGRAM,
            processes,
            {"config": str(shared_config), "cases": cases[processes]},
            out / f"{processes}.json",
        )
        for processes in PROCESSES
    }


@pytest.fixture(scope="module")
def reference(results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return results[1]["fp32-z0-none-acc1"]


def test_the_reference_learns_something_worth_comparing(reference: dict[str, Any]) -> None:
    losses = reference["losses"]
    assert len(set(losses)) == STEPS
    assert max(losses) - min(losses) > 0.05


@pytest.mark.parametrize("name", FP32)
@pytest.mark.parametrize("processes", PROCESSES)
def test_fp32_losses_equal_the_reference(
    results: dict[int, dict[str, Any]], reference: dict[str, Any], processes: int, name: str
) -> None:
    assert results[processes][name]["losses"] == pytest.approx(reference["losses"], abs=FP32_TOLERANCE)


def test_fp32_losses_of_compiled_branches_equal_the_reference(
    results: dict[int, dict[str, Any]], reference: dict[str, Any]
) -> None:
    assert results[COMPILED_ON]["compiled"]["losses"] == pytest.approx(reference["losses"], abs=FP32_TOLERANCE)


@pytest.mark.parametrize("name", BF16)
@pytest.mark.parametrize("processes", PROCESSES)
def test_bf16_losses_stay_near_the_reference(
    results: dict[int, dict[str, Any]], reference: dict[str, Any], processes: int, name: str
) -> None:
    assert results[processes][name]["losses"] == pytest.approx(reference["losses"], abs=BF16_TOLERANCE)


@pytest.mark.parametrize("stage", [1, 3])
def test_losses_with_products_of_8_bits_stay_near_those_of_bf16(results: dict[int, dict[str, Any]], stage: int) -> None:
    bf16, float8 = (results[FLOAT8_ON][f"wide-{kind}-z{stage}"] for kind in ("bf16", "float8"))
    assert float8["losses"] == pytest.approx(bf16["losses"], abs=BF16_TOLERANCE)
    assert float8["losses"] != bf16["losses"]
    assert float8["ids"] == bf16["ids"]


@pytest.mark.parametrize("name", FP32)
@pytest.mark.parametrize("processes", PROCESSES)
def test_the_same_samples_in_the_same_order(
    results: dict[int, dict[str, Any]], reference: dict[str, Any], processes: int, name: str
) -> None:
    assert results[processes][name]["ids"] == reference["ids"]


@pytest.mark.parametrize("processes", PROCESSES)
def test_recomputing_activations_changes_no_bit(results: dict[int, dict[str, Any]], processes: int) -> None:
    for stage, accumulation in itertools.product(STAGES, ACCUMULATION):
        digests = {results[processes][f"fp32-z{stage}-{policy}-acc{accumulation}"]["weights"] for policy in POLICIES}
        assert len(digests) == 1, f"stage {stage}, accumulation {accumulation}"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradient_norms_are_those_of_one_process(results: dict[int, dict[str, Any]], stage: int) -> None:
    norms = [results[processes][f"fp32-z{stage}-none-acc1"]["norms"] for processes in PROCESSES]
    for other in norms[1:]:
        assert other == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize("name", FP32)
@pytest.mark.parametrize("processes", PROCESSES)
def test_norms_of_weights_updates_and_gradients_are_those_of_one_process(
    results: dict[int, dict[str, Any]], reference: dict[str, Any], processes: int, name: str
) -> None:
    health = dict(results[processes][name]["health"])
    # Which images are looked at depends on how the batch is divided.
    logit = health.pop("health/max_attention_logit")
    same_division = results[processes][f"fp32-z0-none-{name.rpartition('-')[2]}"]["health"]
    assert logit == pytest.approx(same_division["health/max_attention_logit"], rel=1e-4)
    assert logit > 0.01
    expected = {key: value for key, value in reference["health"].items() if key in health}
    assert health == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_gradient_that_was_applied_is_the_one_that_deepspeed_clipped(
    results: dict[int, dict[str, Any]], stage: int
) -> None:
    result = results[2][f"fp32-z{stage}-none-acc2"]
    stages = [value for key, value in result["health"].items() if key.startswith("health/grad_norm/")]
    assert math.hypot(*stages) == pytest.approx(min(result["norms"][-1], 1.0), rel=1e-3)
