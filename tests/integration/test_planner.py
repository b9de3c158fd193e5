"""What the planner counts, against real ranks with real DeepSpeed: resident memory, and bytes given to collectives."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ranks import run_on_ranks
from training_command import CAIT

from cait_dist.config import RunConfig, load_config
from cait_dist.models import architecture
from cait_dist.planning.counting.activation_memory import count_activations
from cait_dist.planning.counting.communication import count_traffic
from cait_dist.planning.counting.flops import count_params
from cait_dist.planning.counting.numerics import numerics
from cait_dist.planning.counting.state_memory import ZeroSetting, coming_up, count_state
from cait_dist.planning.options import likely_backend
from cait_dist.planning.rates.calibration import load_calibration

PROGRAM = Path(__file__).with_name("planner_program.py")
RANKS = 2
CONFIG = """
name: plan
data: {path: nowhere, workers: 0}
training: {global_batch: 8, precision: fp32, ema_decay: 0.9999, zero: {param_persistence_threshold: 0}}
evaluation: {weights: [raw]}
"""
SMALL = ["model.image_size=64", "model.depth=2"]
NETWORK = architecture("cait_xxs24_224", image_size=64, depth=2)
BF16 = "training.precision=bf16"
WIDE = ["model.embed_dim=384", "model.num_heads=8", "model.depth=12", "model.image_size=64"]
TRAFFIC = [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
"""ZeRO stage and micro-batches per step"""
CASES: list[dict[str, Any]] = [
    # The first use of a stage loads code that stays.
    {"name": "warm up 0", "images": 2, "overrides": [*SMALL, "training.zero.stage=0"]},
    {"name": "warm up 2", "images": 2, "overrides": [*SMALL, BF16, "training.zero.stage=2"]},
    {"name": "activations", "images": 6, "overrides": ["training.zero.stage=0", "model.depth=12"]},
    {"name": "state", "images": 2, "overrides": [*WIDE, BF16, "training.zero.stage=2"]},
    *(
        {
            "name": f"traffic at stage {stage}, {accumulation}",
            "images": 2,
            "accumulation": accumulation,
            # Stage 3 fetches weights anew for each use until it knows the order of these.
            "steps": 3 if stage == 3 else 1,
            "overrides": [*SMALL, BF16, f"training.zero.stage={stage}"],
        }
        for stage, accumulation in TRAFFIC
    ),
]
BY_NAME = {case["name"]: case for case in CASES}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planner") / "plan.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def measured(config: Path) -> Any:
    # Whatever is larger is given back to the system at once, so that resident is what is in use.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
        environment.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
        return run_on_ranks(PROGRAM, RANKS, {"config": str(config), "cases": CASES}, config.with_name("out.json"))


def counted_peak(config: RunConfig, images: int) -> float:
    training = config.training
    width = numerics(training.precision, training.zero.stage)
    arch = architecture(config.model.name, **config.model.overrides)
    zero = ZeroSetting(training.zero.stage, RANKS, training.zero.bucket_size, device="cpu")
    policy, gradient = training.activation_checkpointing, coming_up(width, zero)
    activations = count_activations(arch, width, policy, likely_backend(arch, "cpu"), "cpu", gradient)
    return count_state(count_params(arch).total, width, zero).peak(activations.peak(images))


@pytest.mark.parametrize("name", ["activations", "state"])
def test_counted_memory_is_what_a_rank_takes(name: str, config: Path, measured: Any) -> None:
    case = BY_NAME[name]
    counted = counted_peak(load_config(config, case["overrides"]).config, case["images"])
    assert measured[name]["peak_bytes"] == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(("stage", "accumulation"), TRAFFIC)
def test_counted_traffic_is_what_ranks_give_to_collectives(stage: int, accumulation: int, measured: Any) -> None:
    sent = measured[f"traffic at stage {stage}, {accumulation}"]["sent"]
    # On a ring a rank sends a share (W - 1) / W of a tensor to gather or to share it out, and twice that to sum it.
    share = (RANKS - 1) / RANKS
    total = share * (2 * sent["all_reduce"] + sent["reduce_scatter_tensor"] + sent["all_gather_into_tensor"])
    arch = architecture("cait_xxs24_224", image_size=64, depth=2)
    counted = count_traffic(count_params(arch).total, numerics("bf16", stage), stage, RANKS, accumulation)
    assert total == pytest.approx(counted.total, rel=0.02)


def test_bench_step_measures_checks_and_writes_what_a_plan_reads(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    command = [str(CAIT), "bench", "step", str(config), *SMALL, "--micro-batch", "2", "--seconds", "0.01"]
    done = subprocess.run(
        [*command, "--steps", "3", "--calibration", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for word in ("linear layer", "attention, eager", "one token", "predicted", "measured", f"wrote {file}"):
        assert word in done.stdout
    assert "Warning" not in done.stderr
    calibration = load_calibration(file)
    check = calibration.checks[0]
    rates = calibration.at("fp32")
    assert calibration.clock == "processor"
    assert [(step.stage, step.dim) for step in rates.bare] == [(s, dim) for s in range(4) for dim in (4, 192)]
    assert all(min(vars(step.seconds).values()) > 0 for step in rates.bare)
    # A step of 2 × 16 tokens is little more than one of 2.
    bare = rates.bare_step(check["stage"], 192, check["depth"] + 2, count_params(NETWORK).total)
    assert 0.2 * check["measured"] < bare.total < 1.5 * check["measured"]
    assert check["measured"] > 0
    # Not how good it is, which a busy machine cannot tell, but that the parts make up a step.
    assert 0.1 < check["predicted"] / check["measured"] < 10


def test_bench_step_keeps_pairs_together(config: Path) -> None:
    command = [str(CAIT), "bench", "step", str(config), "augment.mixup=0.8", "--micro-batch", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("cait: --micro-batch must be even")
