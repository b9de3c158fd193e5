"""The one call for a machine with a GPU: every part is tried and told, whatever became of those before it."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
INTERPRETER = """#!/bin/sh
# An interpreter of a machine with a GPU and few packages, of which {fails} fails.
case "$*" in
    *"import deepspeed"*) exit 1 ;;
    *{fails}*) echo "out of memory"; exit 7 ;;
esac
echo "ran $*"
"""


def measure(folder: Path, fails: str) -> tuple[int, str, Path]:
    python = folder / "python"
    python.write_text(INTERPRETER.format(fails=fails))
    python.chmod(0o755)
    out = folder / "results"
    command = [str(ROOT / "benchmarks/on_a_gpu.sh"), str(out), "--deit", "deit"]
    done = subprocess.run(command, env={**os.environ, "PYTHON": str(python)}, capture_output=True, check=False)
    return done.returncode, (out / "summary.txt").read_text(), out


@pytest.mark.parametrize("fails", ["attention.py", "peers.py"])
def test_a_part_that_fails_is_told_and_the_rest_goes_on(tmp_path, fails):
    status, summary, out = measure(tmp_path, fails)
    name, other = fails.removesuffix(".py"), {"attention.py": "peers", "peers.py": "attention"}[fails]
    assert status == 1
    assert f"{name}: status 7, see {name}.log" in summary
    assert (out / f"{name}.log").read_text() == "out of memory\n"
    assert f"{other}: done" in summary


def test_options_reach_the_comparison_and_tests_of_trainings_are_left_out_by_name(tmp_path):
    _, summary, out = measure(tmp_path, "nothing")
    assert "--deit deit" in (out / "peers.log").read_text()
    for name in ("test_gpu_training", "test_gpu_cluster_check"):
        assert f"{name}: left out, it needs deepspeed" in summary


def test_every_part_is_done_once_and_what_may_tune_the_kernels_comes_first(tmp_path):
    _, summary, _ = measure(tmp_path, "nothing")
    names = [line.partition(":")[0] for line in summary.splitlines()]
    assert len(set(names)) == len(names)
    assert names[-7:] == [
        "row_kernels",
        "attention",
        "float8_error",
        "float8_time",
        "peers",
        "recomputation",
        "planner",
    ]


def test_a_machine_without_a_gpu_is_told_so(tmp_path):
    status, summary, _ = measure(tmp_path, "is_available")
    assert status == 1
    assert "torch sees no GPU here" in summary
    assert "peers" not in summary
