"""A real Slurm cluster for the tests in this folder: six nodes on this machine, or a skip that says why not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.minicluster import MiniCluster, why_not


@pytest.fixture(scope="session")
def _slurm() -> None:
    if reason := why_not():
        pytest.skip(f"no Slurm cluster can be made here: {reason}")


@pytest.fixture(scope="module")
def cluster(_slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniCluster]:
    """Six nodes with eight pretended GPUs each, shared by the tests of a file: leave it as you found it.

    It is up in a second, so each file has its own, and tests elsewhere find no process that is not theirs.
    """
    folder: Path = tmp_path_factory.mktemp("slurm") / "cluster"
    # It ends with the tests even if they are killed.
    with MiniCluster.up(folder, nodes=6, gpus=8, stay=False) as cluster:
        yield cluster
