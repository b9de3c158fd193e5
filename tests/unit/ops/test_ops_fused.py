"""The fused backend without a GPU: its kernels are interpreted, and compiled for GPUs that are not there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: its kernels are neither run nor compiled")

HERE = Path(__file__).parent


def run(*arguments: str, **environment: str) -> str:
    """What a program said that ended well."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


def test_interpreted_it_computes_what_eager_autograd_computes() -> None:
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted_fused.py"), TRITON_INTERPRET="1")
    assert re.search(r"^\d+ passed in", said, re.MULTILINE), said


def test_every_entry_of_the_table_compiles_without_spilling_a_register(tmp_path: Path) -> None:
    said = run(str(HERE / "compiled_kernels.py"), TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    lines = said.splitlines()
    assert lines
    assert all(line.endswith(" 0 bytes spilled") for line in lines), said
