"""The whole of it: a folder, a cluster, an undisturbed run, and a trial of every fault.

::

    DIR/
      data/              images of handwritten digits, sharded (where no configuration was given)
      profiles/          one for each kind of job, on the small cluster
      cluster/           the small cluster; its logs stay
      runs/              undisturbed, and FAULT-1, FAULT-2 …
      results/FAULT.json what came of it; a second call goes on with the faults that have none
      report.json        everything, with command, commit, hardware and date
      report.md          the table
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from cait_dist.tracking.code_version import describe_code
from cait_dist.tracking.run_directory import timestamp
from slurm.minicluster import MiniCluster

from .clock import build_library
from .errors import ChaosError
from .fault import Fault
from .ground import Ground, MiniGround, SlurmGround
from .mlflow_server import kill_server, start_server
from .report import Result, difference, table
from .subject import Order, Subject
from .trial import PATIENCE, Trial

CONFIG = Path(__file__).parents[2] / "configs" / "chaos.yaml"
NODES, RANKS_PER_NODE, SPARE_NODES = 2, 2, 2
SMALL_DISK, SMALL_DISK_MB = "small-disk", 64
PATIENT = {"MessageTimeout": "20", "TCPTimeout": "5", "SlurmdTimeout": "20"}
"""Of SLURM's configuration: its daemons share few cores with ranks that start, and are not to be missed for that."""
MOST_RUNS = 50


@dataclass(frozen=True)
class Plan:
    """What the user asked for.

    Attributes:
        folder: for everything; on a cluster all nodes must see it.
        faults: in their order.
        times: strikes of each.
        seed: decides about moments and victims.
        config: of the runs; None for handwritten digits.
        settings: that win over it.
        cluster: profile of the user's cluster; None for a small one on this machine.
    """

    folder: Path
    faults: Sequence[Fault]
    times: int
    seed: int
    config: Path | None
    settings: tuple[str, ...]
    cluster: str | None


def run_suite(plan: Plan, say: Callable[[str], None]) -> list[Result]:
    """Try every fault that has no result yet; returns all results.

    Raises:
        ChaosError: if even the undisturbed run fails, or something that is needed is missing
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with _ground(plan) as ground:
        maker = _Maker(plan, ground)
        undisturbed = maker.undisturbed(say)
        for fault in plan.faults:
            if Result.load(plan.folder / "results", fault) is None:
                say(f"{fault.name}: {fault.story}")
                _try(fault, plan, maker, undisturbed, say).save(plan.folder / "results")
    results = [found for fault in plan.faults if (found := Result.load(plan.folder / "results", fault))]
    (plan.folder / "report.md").write_text(table(results))
    (plan.folder / "report.json").write_text(json.dumps(_facts(plan, results), indent=1) + "\n")
    return results


def _try(fault: Fault, plan: Plan, maker: _Maker, undisturbed: Subject, say: Callable[[str], None]) -> Result:
    trial = Trial(fault, maker.subjects(fault), Random(f"{plan.seed}/{fault.name}"), say)
    try:
        with _surroundings(fault, maker):
            strikes = tuple(trial.run(plan.times))
            differences = tuple(difference(subject, undisturbed) for subject in trial.finished)
    except ChaosError as error:
        say(f"{fault.name}: {error}")
        return Result(fault.name, fault.story, (), failure=str(error))
    result = Result(fault.name, fault.story, strikes, differences)
    say(f"{fault.name}: {'the same result as undisturbed' if result.ok else 'ANOTHER RESULT than undisturbed'}")
    return result


@contextmanager
def _surroundings(fault: Fault, maker: _Maker) -> Iterator[None]:
    """What a fault needs besides the run: an MLflow server, another clock."""
    if "LD_PRELOAD" in fault.profile.get("environment", {}):
        build_library(maker.plan.folder)
    served = any("tracking.uri" in setting for setting in fault.settings)
    if served:
        start_server(maker.ground, maker.runs(fault))
    try:
        yield
    finally:
        if served:
            kill_server(maker.ground)


@contextmanager
def _ground(plan: Plan) -> Iterator[Ground]:
    if plan.cluster is not None:
        yield SlurmGround()
        return
    disk = plan.folder / SMALL_DISK
    disk.mkdir(exist_ok=True)
    with MiniCluster.up(
        plan.folder / "cluster", nodes=NODES + SPARE_NODES, gpus=0, accounting="none", stay=False,
        disks={str(disk): SMALL_DISK_MB}, conf=PATIENT,
    ) as cluster:  # fmt: skip
        yield MiniGround(cluster)


class _Maker:
    """Makes the runs: each in a folder of its own, with the fault's settings and profile."""

    def __init__(self, plan: Plan, ground: Ground) -> None:
        self.plan, self.ground = plan, ground
        self._data: tuple[str, ...] = ()
        if plan.config is None:
            self._data = (f"data.path={_digits(plan.folder / 'data')}",)

    def undisturbed(self, say: Callable[[str], None]) -> Subject:
        """The run that all others must equal."""
        subject = self._subject("undisturbed", None)
        if not subject.finished:
            say("undisturbed: what all others are compared with")
            subject.launch()
            subject.wait(lambda: subject.finished or subject.left_the_queue(), "its end", PATIENCE * 10)
        if not subject.finished:
            raise ChaosError(f"the undisturbed run did not finish; see {subject.order.run_dir}\n{subject.log_end()}")
        return subject

    def subjects(self, fault: Fault) -> Iterator[Subject]:
        """Fresh runs for a fault."""
        for number in range(1, MOST_RUNS):
            subject = self._subject(f"{fault.name}-{number}", fault)
            shutil.rmtree(subject.run.path, ignore_errors=True)
            yield subject
        raise ChaosError(f"{MOST_RUNS} runs were too short for {fault.name}: raise training.epochs")

    def runs(self, fault: Fault | None) -> Path:
        """Where its runs lie."""
        return self.plan.folder / (f"{SMALL_DISK}/runs" if fault and fault.small_disk else "runs")

    def _subject(self, name: str, fault: Fault | None) -> Subject:
        settings = (*self._data, *self.plan.settings, *(fault.settings if fault else ()))
        runs = self.runs(fault)
        self.ground.seen(runs).mkdir(parents=True, exist_ok=True)
        return Subject(self.ground, Order(self.plan.config or CONFIG, settings, self._profile(fault), runs / name))

    def _profile(self, fault: Fault | None) -> str:
        if self.plan.cluster is not None:
            return self.plan.cluster
        content: dict[str, Any] = {
            "nodes": NODES, "gpus_per_node": 0, "tasks_per_node": RANKS_PER_NODE, "memory_gb": 4, "time": "12:00:00",
            "signal_seconds": 30, "environment": {"OMP_NUM_THREADS": "1"},
        }  # fmt: skip
        own = dict(fault.profile) if fault else {}
        filled = {k: str(v).format(folder=self.plan.folder) for k, v in own.pop("environment", {}).items()}
        content |= {**own, "environment": {**content["environment"], **filled}}
        path = self.plan.folder / "profiles" / f"{fault.name if fault else 'plain'}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=1))  # which is YAML, too
        return str(path)


def _digits(folder: Path) -> Path:
    from data_prep.formats import prepare  # noqa: PLC0415 - numpy and Pillow
    from data_prep.plan import make_plan  # noqa: PLC0415
    from data_prep.sources import open_source  # noqa: PLC0415

    if not folder.is_dir():
        prepare(make_plan(open_source("digits", image_size=16), folder, shard_size=100))
    return folder


def _facts(plan: Plan, results: Sequence[Result]) -> dict[str, Any]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "command": " ".join(["cait", *sys.argv[1:]]),
        **describe_code(),
        "date": timestamp(),
        "hardware": f"{cpu.group(1) if cpu else 'unknown'}, {os.cpu_count()} cores",
        "where": plan.cluster or f"{NODES} nodes × {RANKS_PER_NODE} ranks of a small cluster on this machine",
        "results": [asdict(result) for result in results],
    }
