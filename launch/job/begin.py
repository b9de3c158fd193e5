"""``eval "$(python -m launch.job.begin FOLDER)"``: the first thing a job does, on its first node, before `srun`.

It finds the run that this job (or member of an array) trains, checks that it can be started here, claims the run
directory for a new attempt, and prints shell lines for the steps to come: the attempt, and where its ranks meet. The
port is chosen below those that outgoing connections take, tried out, and different after every restart.

A run that is finished, or cancelled while it waited, prints ``exit 0``. A run that cannot start ends the job with
status 2 and leaves the reason in ``launch/refused.txt``, where `cait status` finds it.
"""

import os
import shlex
import socket
import sys
import time
from pathlib import Path

from cait_dist.config import RunConfig, load_config
from cait_dist.errors import is_for_user
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.starting.attempt import begin_attempt
from cait_dist.training.starting.plan import CannotStartError, make_plan
from launch.job.allocation import Allocation
from launch.job_record import CANCELLED, REFUSED, SIGNAL_SECONDS, JobRecord, launch_dir, member_of
from launch.slurm_commands import hostnames, job_facts, queue

FIRST_PORT, PORTS = 20000, 10000
"""Below the range that Linux gives to outgoing connections (32768–60999)."""


def main(folder: Path) -> None:
    """Prepare the attempt and print what the job's script has to do next."""
    allocation = Allocation.read()
    run_dir = member_of(folder, allocation.index)
    refused = launch_dir(run_dir) / REFUSED
    refused.unlink(missing_ok=True)
    try:
        print("\n".join(begin(run_dir, allocation)))
    except Exception as error:
        if not is_for_user(error):
            raise
        refused.write_text(f"{error}\n")
        print(f"cait: {error}", file=sys.stderr)
        sys.exit(2)


def begin(run_dir: Path, allocation: Allocation) -> list[str]:
    """Start an attempt; returns shell lines.

    Raises:
        ValueError: of the project's own kinds, when the run cannot be started
    """
    if (launch_dir(run_dir) / CANCELLED).exists():
        _say(f"{run_dir} was cancelled: nothing to do")
        return ["exit 0"]
    config = load_config(launch_dir(run_dir) / "config.yaml").config
    number = _attempt(config, allocation)
    if number is None:
        _say(f"{run_dir} is finished: nothing to do")
        return ["exit 0"]
    hosts = hostnames(allocation.node_list)
    deadline = stop_time(job_facts(allocation.raw_id), JobRecord.read(run_dir))
    _say(f"job {allocation.job_id}, restart {allocation.restarts}, on {' '.join(hosts)}: attempt {number} at {run_dir}")
    variables = {
        "CAIT_RUN_DIR": str(run_dir),
        "CAIT_ATTEMPT": str(number),
        "MASTER_ADDR": hosts[0],
        "MASTER_PORT": str(free_port(int(allocation.raw_id) * 7 + allocation.restarts)),
        **({} if deadline is None else {"CAIT_STOP_AT": f"{deadline:.0f}"}),
    }
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _attempt(config: RunConfig, allocation: Allocation) -> int | None:
    where = {
        "job": allocation.job_id,
        "restarts": allocation.restarts,
        "nodes": hostnames(allocation.node_list),
    }
    try:
        plan = make_plan(config, allocation.tasks)
    except ValueError as error:
        raise CannotStartError([str(error)]) from error
    attempt = begin_attempt(config, plan, "auto", where, take_over=_owner_is_gone(config.run_dir, allocation))
    if attempt is None:
        return None
    os.close(attempt.lock)  # the task of rank 0 takes it
    return attempt.number


def _owner_is_gone(run_dir: Path, allocation: Allocation) -> bool:
    """Whether SLURM has taken the nodes away from whoever began the attempt before this one."""
    attempts = RunDirectory(run_dir).read_record()["attempts"]
    job = attempts[-1].get("job") if attempts else None
    return job is not None and (job == allocation.job_id or job not in queue())


def stop_time(facts: dict[str, str], record: JobRecord | None) -> float | None:
    """When the ranks have to stop so that they can save before the job's time limit; None if it has none.

    SLURM's own warning reaches the steps that run at that moment, and comes up to a minute early: to a short job it
    can come before its step exists, and is lost. So the tasks look at the clock too.

    Returns:
        seconds since the epoch
    """
    try:
        end = time.mktime(time.strptime(facts.get("EndTime", ""), "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None  # "Unknown"
    return end - (record.signal_seconds if record else SIGNAL_SECONDS)


def free_port(number: int) -> int:
    """A port that nobody serves on this machine; where to begin the search follows from ``number``."""
    for offset in range(PORTS):
        port = FIRST_PORT + (number + offset) % PORTS
        try:
            socket.create_server(("", port)).close()
        except OSError:
            continue
        return port
    raise RuntimeError("no port is free on this machine")


def _say(text: str) -> None:
    # Standard output is what the script evaluates.
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
