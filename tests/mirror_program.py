"""``python mirror_program.py JOBS``: mirrors of runs, each in a process of its own that ends as an interpreter ends.

JOBS is a JSON list of ``{"run": …, "uri": …, "steps": …, "wait": seconds, "wave": number}``; those of a wave run at
once, and a wave begins when the one before has ended. All processes are forked from one that has loaded MLflow, which
takes longer than everything else together. Printed is a JSON list of ``{"status", "arrived", "said", "seconds": from
the last step to the end of the process}``. With ``"hangs": true`` the resolver of host names hangs, as no test could
make the real one do.
"""

import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mirrored_runs import EVERY, begin, finish, open_mirror, write_steps

from cait_dist.tracking.mlflow_client import MlflowMissingError, bound_client
from cait_dist.tracking.mlflow_mirror import CLOSE_SECONDS
from cait_dist.tracking.run_directory import RunDirectory, write_json


def main() -> None:
    jobs = json.loads(sys.argv[1])
    with suppress(MlflowMissingError):
        bound_client("http://127.0.0.1:9")
    results: list[dict[str, Any]] = [{} for _ in jobs]
    for wave in sorted({job.get("wave", 0) for job in jobs}):
        # A child never gets past its call.
        children = {os.fork() or _train(job): n for n, job in enumerate(jobs) if job.get("wave", 0) == wave}
        while children:
            pid, status = os.wait()
            ended = time.monotonic()
            number = children.pop(pid)
            told = json.loads((Path(jobs[number]["run"]) / "told.json").read_text())
            results[number] = {**told, "status": os.waitstatus_to_exitcode(status)}
            results[number]["seconds"] = ended - told["last_step"]
    print(json.dumps(results))


def _train(job: dict[str, Any]) -> int:
    if job.get("hangs"):
        socket.getaddrinfo = lambda *_, **__: time.sleep(600)  # type: ignore[assignment]
    run, said = RunDirectory(Path(job["run"])), list[str]()
    writer = begin(run)
    mirror = open_mirror(run, job["uri"], said.append)
    steps, share = job["steps"], job.get("wait", 0.0) * EVERY / job["steps"]
    for first in range(1, steps + 1, EVERY):
        write_steps(writer, range(first, first + EVERY))
        mirror.commit(first + EVERY - 1)
        time.sleep(share)
    last_step = time.monotonic()
    writer.close()
    arrived = finish(run, mirror, "finished", steps, CLOSE_SECONDS["finished"])
    write_json(run.path / "told.json", {"last_step": last_step, "arrived": arrived, "said": said})
    sys.exit(0)


if __name__ == "__main__":
    main()
