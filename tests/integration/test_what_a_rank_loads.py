"""A rank that trains loads nothing large that training does not need, and starts no program but the C compiler.

Each costs every start, or every step, and what a program leaves when its rank is killed, nobody removes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, torch
started = []
def note(event, given):
    if event == "subprocess.Popen" and "cait_dist" not in (said := str(given[1])) and "cait-compiled" not in said:
        started.append(given[0])
sys.addaudithook(note)
from cait_dist.config import load_config
from cait_dist.planning.counting.batch_plan import BatchPlan
from cait_dist.training.ranks.process_group import join
from cait_dist.training.timing.timed_step import take_steps

compile_function = torch.compile
world = join(60)
take_steps(load_config(sys.argv[1], sys.argv[2:]).config, world, BatchPlan(2, 1, 2, 1), 10, 1)
assert torch.compile is compile_function
print("started:", *started)
print("loaded:", *sorted({"mlflow", "torch._inductor.compile_fx", "webdataset", "sklearn.datasets"} & set(sys.modules)))
"""
CONFIG = """
name: run
data: {path: nowhere}
model: {image_size: 32, embed_dim: 24, depth: 1, num_heads: 2}
augment: {mixup: 0, cutmix: 0}
training: {global_batch: 2, precision: fp32}
"""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_neither_mlflow_nor_torchs_compiler_is_loaded_and_no_program_started_to_take_a_step(
    stage: int, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run.yaml"), f"training.zero.stage={stage}"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "LOCAL_RANK": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["started:", "loaded:"]
