"""The checks before a job, on the GPUs of this machine with nccl. Not yet run on any GPU."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launch.check.measure import examine_device
from launch.local import rank_environment

ROOT = Path(__file__).resolve().parents[2]
GPUS = torch.cuda.device_count()

pytestmark = [pytest.mark.slow, pytest.mark.skipif(GPUS == 0, reason="no CUDA GPU on this machine")]


@pytest.mark.parametrize("number", range(GPUS))
def test_a_gpu_computes_exactly_and_gives_its_memory_back(number: int) -> None:
    device = torch.device("cuda", number)
    before = torch.cuda.memory_reserved(device)
    report = examine_device(device)
    assert (report.type, report.correct, report.error) == ("cuda", True, None)
    assert report.uuid
    assert report.tflops > 1
    assert torch.cuda.memory_reserved(device) == before


def test_a_healthy_machine_passes_with_a_rank_on_every_gpu(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "launch.check", str(tmp_path)],
                env={**os.environ, **rank_environment(rank, GPUS, listener)},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=(listener.fileno(),) if rank == 0 else (),
            )
            for rank in range(GPUS)
        ]
    said = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * GPUS, said
    assert f"  {GPUS}  " in said[0].splitlines()[1]
