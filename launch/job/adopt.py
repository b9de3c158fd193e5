"""``python -m launch.job.adopt CONFIG key=value …``: make a job that somebody submitted by hand one of ours.

On the job's first start it writes the folder that `cait launch` would have written, copy of the code included; after a
restart it finds it. It prints the folder, which the script hands to ``begin``.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cait_dist.config import RunConfig, load_config
from cait_dist.errors import is_for_user
from cait_dist.tracking.run_directory import timestamp
from launch.job.allocation import Allocation
from launch.job_record import JobRecord, launch_dir
from launch.sbatch import code_folder
from launch.slurm_commands import SlurmError, job_facts, queue
from launch.snapshot import snapshot_code
from launch.submit import absolute, write_folder

MAX_RESTARTS = 100


def main(config_path: Path, overrides: Sequence[str]) -> Path:
    """The folder of this job's run, written if this is its first start.

    Raises:
        ConfigError: if the configuration is wrong
        SlurmError: if the run belongs to another job that is in the queue
    """
    allocation = Allocation.read()
    config = absolute(load_config(config_path, overrides).config)
    folder, known = launch_dir(config.run_dir), JobRecord.read(config.run_dir)
    if known is not None and known.job_id == allocation.job_id and allocation.restarts:
        return folder
    if known is not None and known.job_id != allocation.job_id and known.job_id in queue():
        raise SlurmError(f"{config.run_dir} is job {known.job_id} already: cancel it, or pass name=NEW")
    _write(config, folder, allocation)
    return folder


def _write(config: RunConfig, folder: Path, allocation: Allocation) -> None:
    write_folder(folder, [config])
    facts = job_facts(allocation.raw_id)
    log = folder / f"{allocation.job_id}_0_log.out"
    log.unlink(missing_ok=True)
    if output := facts.get("StdOut"):
        log.symlink_to(output)  # where `cait logs` looks
    JobRecord(
        job_id=allocation.job_id,
        folder=str(folder),
        profile="train.sbatch",
        nodes=allocation.nodes,
        tasks_per_node=allocation.tasks // allocation.nodes,
        time=facts.get("TimeLimit", ""),
        max_restarts=MAX_RESTARTS,
        submitted=timestamp(),
        code=snapshot_code(code_folder(folder)),
    ).write(config.run_dir)


if __name__ == "__main__":
    try:
        print(main(Path(sys.argv[1]), sys.argv[2:]))
    except Exception as error:
        if not is_for_user(error):
            raise
        print(f"cait: {error}", file=sys.stderr)
        os._exit(2)
