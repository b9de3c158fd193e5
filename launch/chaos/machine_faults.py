"""Faults of machines, of the network, of SLURM's own daemons and of MLflow: on a small cluster of one's own only."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from slurm.minicluster import MiniCluster

from .clock import CLOCK_FILE, clock_environment, jump
from .fault import Fault, Mend, Strike
from .mlflow_server import MLFLOW_URI, kill_server, start_server
from .subject import Subject

Harm = Callable[[MiniCluster, str], object]


def _on_a_node(harm: Harm, mend: Harm) -> Strike:
    def strike(subject: Subject, random: Random) -> Mend | None:
        cluster, node = _cluster(subject), random.choice(subject.nodes)
        harm(cluster, node)
        return lambda: mend(cluster, node)

    return strike


def _stop_controller(subject: Subject, random: Random) -> Mend | None:
    cluster = _cluster(subject)
    cluster.stop_controller()
    return cluster.start_controller


def _stop_mlflow(subject: Subject, random: Random) -> Mend | None:
    kill_server(subject.ground)
    return lambda: start_server(subject.ground, subject.order.run_dir.parent)


def _change_clock(subject: Subject, random: Random) -> Mend | None:
    node, seconds = random.choice(subject.nodes), random.choice((-1, 1)) * random.randint(60, 86400)
    jump(subject.ground, node, subject.job_id, seconds)
    return lambda: jump(subject.ground, node, subject.job_id, 0)


def _cluster(subject: Subject) -> MiniCluster:
    assert subject.ground.mini is not None, "these faults are not offered elsewhere"
    return subject.ground.mini


MACHINE_FAULTS = (
    Fault(
        "node-off", "a node loses its power, and gets it back",
        _on_a_node(MiniCluster.kill_node, MiniCluster.start_node), (2, 20), 1, True, needs_mini=True,
    ),
    Fault(
        "network-cut", "a node's cable is pulled, and plugged in again",
        _on_a_node(MiniCluster.cut, MiniCluster.heal), (1, 40), 12, needs_mini=True,
    ),
    Fault(
        "slurmd-killed", "SLURM's daemon on a node is killed, and started again",
        _on_a_node(MiniCluster.stop_slurmd, MiniCluster.start_slurmd), (1, 40), 4, needs_mini=True,
    ),
    Fault(
        "controller-restarted", "SLURM's controller is killed, and started again",
        _stop_controller, (1, 25), 3, needs_mini=True,
    ),
    Fault(
        "mlflow-down", "the MLflow server is killed, and started again", _stop_mlflow, (1, 15), 2, needs_mini=True,
        settings=("tracking.mlflow=true", f"tracking.uri={MLFLOW_URI}"),
    ),
    Fault(
        "clock-jump", "the clock of a node jumps by a minute to a day, and back", _change_clock, (1, 8), 2,
        needs_mini=True, profile={"environment": clock_environment(CLOCK_FILE)},
    ),
)  # fmt: skip
