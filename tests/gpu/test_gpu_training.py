"""The same run on a GPU with nccl: same losses as on the CPU, resumed exactly. Not yet measured on any GPU."""

from pathlib import Path

import pytest
import torch
from training_command import losses, start, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine"),
]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_fp32_losses_equal_those_of_the_cpu(shared_config: Path, stage: int) -> None:
    on_gpu = start(shared_config, f"training.zero.stage={stage}", name=f"gpu-{stage}")
    on_cpu = start(shared_config, "training.zero.stage=1", name=f"cpu-{stage}", CUDA_VISIBLE_DEVICES="")
    for training in (on_gpu, on_cpu):
        status, _, err = training.finish()
        assert status == 0, err
    for (step, ours), (_, reference) in zip(losses(on_gpu.run), losses(on_cpu.run), strict=True):
        assert ours == pytest.approx(reference, abs=1e-2), f"step {step}"


def test_bf16_trains_and_resumes(shared_config: Path) -> None:
    first = start(shared_config, "training.precision=bf16", name="bf16")
    first.wait_for_checkpoint(10)
    first.rank(0).kill()
    first.finish()
    resumed = train(shared_config, "training.precision=bf16", name="bf16")
    assert [step for step, _ in losses(resumed)] == list(range(1, 37))
