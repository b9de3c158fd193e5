"""The program of a rank on a cluster: look at the nodes together, then train."""

import sys

from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.process_group import World
from cait_dist.training.worker import main


def check(world: World, run: RunDirectory) -> None:
    """Refuse to train on a node that is broken, slow, or does not see the run directory.

    Raises:
        ClusterCheckError: on every rank, naming the node
    """
    from launch.check import Limits, check_cluster  # noqa: PLC0415 - errors while importing are reported too

    check_cluster(world, run.path, Limits(), lambda text: print(text, flush=True))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
