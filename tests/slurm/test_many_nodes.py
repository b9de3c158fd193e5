"""Thirty-two pretended nodes: submitting, meeting, checking and looking stay a matter of seconds.

The nodes share this machine's cores, so what is measured here is the sum over all of them. The stated bounds are in
units of what one process costs in the same run: a Python that loads torch.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_runs import PYTHON, cait, run, write_profile

from slurm.minicluster import MiniCluster

pytestmark = pytest.mark.slow

NODES = 32


@pytest.fixture(scope="module")
def many_nodes(_slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniCluster]:
    folder = tmp_path_factory.mktemp("many") / "cluster"
    with MiniCluster.up(folder, nodes=NODES, gpus=0, accounting="none", stay=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def one_torch() -> float:
    """Seconds that one process takes to load torch here and now."""
    command = [PYTHON, "-c", "import torch.distributed"]
    return min(timed(lambda: subprocess.run(command, check=True))[0] for _ in range(2))


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def test_thirty_two_nodes_meet_and_are_checked(many_nodes: MiniCluster, one_torch: float, tmp_path: Path) -> None:
    profile = write_profile(tmp_path)
    seconds, done = timed(
        lambda: cait(many_nodes, "doctor", "--cluster", profile, "--nodes", str(NODES), timeout=600, cwd=tmp_path)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(rf"joined and checked {NODES} ranks in ([\d.]+) s", done.stdout)
    assert found, done.stdout
    assert all(f"n{number} " in done.stdout or f"n{number}:" in done.stdout for number in range(1, NODES + 1))
    # Thirty-two times torch on these cores, however many there are, and as much again for everything else.
    assert seconds < 2 * NODES * one_torch + 60
    print(f"\n{NODES} nodes: {seconds:.1f} s in all, {found.group(1)} s to join and check; one torch {one_torch:.1f} s")


def test_submitting_and_looking_do_not_grow_with_the_nodes(
    many_nodes: MiniCluster, shared_config: Path, tmp_path: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    text = shared_config.read_text().replace(str(shared_config.parent / "runs"), str(tmp_path / "runs"))
    config.write_text(text.replace("global_batch: 16", "global_batch: 64"))
    profile = write_profile(tmp_path, "held", hold=True)
    small, one = timed(lambda: launched(many_nodes, config, profile, 1))
    large, all_of_them = timed(lambda: launched(many_nodes, config, profile, NODES))
    assert large < 2 * small + 15
    seconds, shown = timed(lambda: cait(many_nodes, "status", tmp_path / "runs"))
    assert shown.stdout.count("queued") == 2, shown.stdout
    assert seconds < small + 15
    print(f"\nlaunch: {small:.1f} s for 1 node, {large:.1f} s for {NODES}; status {seconds:.1f} s")
    run(many_nodes, ["scancel", one, all_of_them])
    shutil.rmtree(tmp_path / "runs")


REACH_ALL = """
import socket, sys
for name in sys.argv[1:]:
    socket.create_connection((name, 6818), 20).close()
"""


@pytest.mark.usefixtures("_slurm")
def test_more_nodes_than_the_kernel_has_neighbours_for_reach_each_other(tmp_path: Path) -> None:
    # Each pair would be an entry in a table that the whole machine shares, and that holds 1,024.
    with MiniCluster.up(tmp_path / "cluster", nodes=40, gpus=0, accounting="none", stay=False) as cluster:
        reach = [PYTHON, "-c", REACH_ALL, *cluster.nodes]
        calls = [subprocess.Popen(cluster.command(reach, node), stderr=subprocess.PIPE) for node in cluster.nodes]
        failures = [err.decode() for err in (call.communicate(timeout=120)[1] for call in calls) if err]
    assert not failures, failures[0]


def launched(cluster: MiniCluster, config: Path, profile: Path, nodes: int) -> str:
    done = cait(cluster, "launch", config, f"name=n{nodes}", "--cluster", profile, "--nodes", str(nodes))
    assert done.returncode == 0, done.stderr
    found = re.search(r"Submitted job (\d+)", done.stdout)
    assert found, done.stdout
    return found.group(1)
