"""Trains runs whose data or weights do harm at chosen places of the stream, kills them, and lets them go on.

Argument: {"config": path, "cases": [{"name", "overrides", "nan", "high", "killed", "stopped"}]}. ``nan`` and ``high``
are the places (global batches of the stream) from ``first`` to before ``end`` at which the loss of rank 1 is NaN, or
the loss of every rank is raised; ``killed`` is where the attempt ends without a word, after which another goes on;
``stopped`` is a place at which it is asked to stop. All ranks work in these processes, with the trainer as it is.
"""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from cait_dist.config import load_config
from cait_dist.tracking.metrics import read_metrics
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training import trainer as trainer_module
from cait_dist.training.preempt import StopRequest
from cait_dist.training.ranks.process_group import World, join
from cait_dist.training.recovering.rollback import GivenUpError
from cait_dist.training.saving.checkpoint import read_weights
from cait_dist.training.saving.checkpoint_files import list_checkpoints
from cait_dist.training.starting.attempt import begin_attempt
from cait_dist.training.starting.plan import make_plan
from cait_dist.training.step import TrainingStep

LESSON, LOAD, RECORD = TrainingStep._lesson, trainer_module.load_checkpoint, RunDirectory.update_record
RAISED_BY = 50.0


class KilledError(BaseException):
    """Here the process would be gone."""


class Run:
    """One run, from its first attempt to the end."""

    def __init__(self, case: dict[str, Any], config: str, world: World) -> None:
        self.case, self.world = case, world
        self.config = load_config(config, [f"name={case['name'].replace(' ', '-')}", *case["overrides"]]).config
        self.run = RunDirectory(self.config.run_dir)
        self.killed, self.stop = case.get("killed"), StopRequest()
        self.places: list[int] = []

    def work(self) -> dict[str, Any]:
        outcomes = []
        while not outcomes or outcomes[-1] in ("killed", "stopped"):
            assert len(outcomes) < 3
            outcomes.append(self.attempt())
        return {"outcomes": outcomes, "places": self.places, **(self.look() if self.world.is_main else {})}

    def attempt(self) -> str:
        number, resume_step = self.begin()
        self.stop = StopRequest()
        with (
            patch.object(TrainingStep, "_lesson", self.lesson()),
            patch.object(trainer_module, "load_checkpoint", self.load),
            patch.object(RunDirectory, "update_record", self.record()),
        ):
            trainer = trainer_module.Trainer(self.run, number, self.config, self.world, resume_step, self.stop)
            try:
                outcome = trainer.run()
            except KilledError:
                trainer._saver._thread.shutdown()
                self.killed = None
                self.world.barrier()
                return "killed"
            except GivenUpError as error:
                trainer.close("failed")
                return str(error)
            trainer.close(outcome)
        return outcome

    def begin(self) -> tuple[int, int | None]:
        """Rank 0 begins the attempt, as its launcher would."""
        told: list[Any] = [None]
        if self.world.is_main:
            attempt = begin_attempt(self.config, make_plan(self.config, self.world.size), "auto", take_over=True)
            assert attempt is not None
            told = [(attempt.number, attempt.resume_step)]
        torch.distributed.broadcast_object_list(told, group=self.world.control)
        number, resume_step = told[0]
        return number, resume_step

    def lesson(self) -> Any:
        def spoiled(stepper: TrainingStep, batch: Any) -> Any:
            place = int(batch.positions[0]) // self.config.training.global_batch
            self.places.append(place)
            if self.killed == place:
                raise KilledError
            if self.case.get("stopped") == place and self.places.count(place) == 1:
                self.stop.signal = signal.SIGTERM
            lesson = LESSON(stepper, batch)
            if self.is_within("nan", place) and self.world.rank == 1:
                return replace(lesson, loss=lesson.loss * torch.nan)
            return replace(lesson, loss=lesson.loss + RAISED_BY) if self.is_within("high", place) else lesson

        return spoiled

    def is_within(self, what: str, place: int) -> bool:
        first, end = self.case.get(what, (0, 0))
        return bool(first <= place < end)

    def load(self, *arguments: Any) -> None:
        """Killed before the checkpoint is loaded; on rank 1 this stands for an earlier moment, too."""
        gone_back = bool(self.places)
        if gone_back and (self.killed == "before loading" or (self.killed == "before the record" and self.world.rank)):
            raise KilledError
        LOAD(*arguments)

    def record(self) -> Any:
        def update(run: RunDirectory, **facts: Any) -> None:
            if "rollbacks" in facts and self.killed == "before the record":
                self.world.barrier()  # that of the other rank, which waits for this one
                raise KilledError
            RECORD(run, **facts)

        return update

    def look(self) -> dict[str, Any]:
        """What is to be seen of the run from outside."""
        last = list_checkpoints(self.run.checkpoints)[-1]
        reports = [json.loads(line) for path in self.run.attempts() if (path / "rollbacks.jsonl").is_file()
                   for line in (path / "rollbacks.jsonl").read_text().splitlines()]  # fmt: skip
        return {
            "rows": [{"step": row["step"], **{key: row.get(key) for key in ("train/loss", "train/rollbacks")}}
                     for row in read_metrics(self.run) if "train/loss" in row],
            "checkpoint": last.step,
            "files": {name: entry["sha256"] for name, entry in last.state["files"].items()},
            "finite": all(bool(weight.isfinite().all()) for weight in read_weights(last, "master").values()),
            "reports": reports,
            "recorded": self.run.read_record().get("rollbacks", []),
            "aside": sorted(path.name[:23] for path in self.run.checkpoints.glob("abandoned-*")),
        }  # fmt: skip


def main() -> None:
    arguments, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    world = join(60)
    results = {case["name"]: Run(case, arguments["config"], world).work() for case in arguments["cases"]}
    if world.is_main:
        out.write_text(json.dumps(results))
    world.barrier()
    world.leave()


if __name__ == "__main__":
    main()
