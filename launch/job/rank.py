"""The program of a rank on a cluster: look at the nodes together, then train."""

import sys
from typing import TYPE_CHECKING

from cait_dist.config import load_config
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.worker import main
from launch.check import Limits, check_cluster
from launch.job_record import JobRecord

if TYPE_CHECKING:
    from cait_dist.training.ranks.process_group import World


def check(world: "World", run: RunDirectory) -> None:
    """Refuse to train on a node that is broken, slow, or does not see the run directory.

    Raises:
        ClusterCheckError: on every rank, naming the node
    """
    record, tracking = JobRecord.read(run.path), load_config(run.config).config.tracking
    limits = Limits.model_validate(record.checks if record else {})
    check_cluster(world, run.path, limits, _say, tracking.uri if tracking.mlflow else None)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], check)
