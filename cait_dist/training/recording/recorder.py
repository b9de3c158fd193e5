"""What rank 0 writes down: the metrics file first, then the console and MLflow. Silent on every other rank."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cait_dist.config import RunConfig
from cait_dist.evaluation import Accuracy, Answers
from cait_dist.tracking.curves import draw_curves
from cait_dist.tracking.metrics import MetricsWriter
from cait_dist.tracking.mlflow_facts import read_ending
from cait_dist.tracking.mlflow_mirror import CLOSE_SECONDS, MlflowMirror, default_uri
from cait_dist.tracking.mlflow_run import Extra
from cait_dist.tracking.plan_versus_actual import write_plan_versus_actual
from cait_dist.tracking.report import write_report
from cait_dist.tracking.run_directory import RunDirectory, timestamp

from ..starting.plan import Plan
from .console import TrainingConsole


class Recorder:
    """Metrics file, console and MLflow mirror of one attempt.

    Args:
        run: the run directory
        attempt: its number
        config: of the attempt
        plan: how many steps there are
        start_step: the step it goes on from
        extras: log more into MLflow once the run is open there
    """

    def __init__(
        self,
        run: RunDirectory,
        attempt: int,
        config: RunConfig,
        plan: Plan,
        start_step: int,
        extras: Sequence[Extra] = (),
    ) -> None:
        self._run, self._attempt, self._calendar = run, attempt, plan.calendar
        self._console = TrainingConsole(plan.calendar.total_steps, config.training.epochs, start_step)
        self._metrics = MetricsWriter(run.attempt(attempt), start_step, self.say)
        run.update_attempt(attempt, resumed_from=start_step)
        self._mirror = self._open_mirror(config, extras) if config.tracking.mlflow else None

    def say(self, text: str) -> None:
        """Tell the user something."""
        self._console.say(text)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Record a training step."""
        epoch = self._calendar.epoch_of(step)
        self._metrics.append(step, time.time(), {"train/epoch": epoch, **values})
        self._console.step(step, epoch, values)

    def evaluation(self, step: int, name: str, weights: str, accuracy: Accuracy) -> None:
        """Record the result on one set; the weights' moving average has metrics of its own."""
        prefix = name if weights == "raw" else f"{name}_{weights}"
        found = {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss}
        values = {f"{prefix}/{key}": value for key, value in found.items() if value is not None}
        self._metrics.append(step, time.time(), values)
        self._console.evaluation(self._calendar.epoch_of(step), name, weights, accuracy)

    def answers(self, name: str, weights: str, answers: Answers, step: int, digest: str) -> None:
        """Keep what was said about each image; the next evaluation replaces it, so it is not worth a run."""
        if self._run.is_latest(self._attempt):
            path = self._run.predictions(name, weights)
            self._try(path, lambda: answers.save(path, step, digest))

    def checkpoint(self, step: int, holds: int, values: dict[str, float]) -> None:
        """Record a checkpoint that is complete.

        Args:
            step: of the run by now
            holds: the step up to which the checkpoint holds everything
            values: what it cost
        """
        self._metrics.append(step, time.time(), values)
        if self._mirror is not None:
            self._mirror.commit(holds)

    def went_back(self, step: int) -> None:
        """Take back what was recorded beyond a step."""
        self._metrics.go_back(step)
        if self._mirror is not None:
            self._mirror.commit(step)

    def close(self, outcome: str, step: int) -> None:
        """Write the report and end the mirror.

        Args:
            outcome: finished, stopped or failed
            step: optimizer steps done
        """
        self._metrics.close()
        self._console.close()
        if not self._run.is_latest(self._attempt):
            return  # the record of the run and its mirror belong to the attempt that came after
        self._write_ending(outcome, step)
        if self._mirror is None:
            return
        # The report of the error that is ending this process is written later.
        ending = read_ending(self._run, last_words=sys.exc_info()[1])
        if not self._mirror.close(ending, CLOSE_SECONDS[outcome]):
            self.say(f"MLflow did not get everything; `cait track sync {self._run.path}` sends the rest")

    def _write_ending(self, outcome: str, step: int) -> None:
        self._try(
            self._run.record,
            lambda: self._run.update_attempt(self._attempt, ended=timestamp(), outcome=outcome, step=step),
        )
        self._try(self._run.path / "report.md", lambda: write_report(self._run))
        self._try(self._run.attempt(self._attempt), lambda: write_plan_versus_actual(self._run))
        if outcome == "finished":
            self._try(self._run.path / "curves.svg", lambda: draw_curves(self._run))

    def _try(self, path: Path, write: Callable[[], object]) -> None:
        """Write what a run can do without: a full disk then costs that alone."""
        try:
            write()
        except OSError as error:
            self.say(f"{error.filename or path} cannot be written ({error.strerror}): it is left as it was")

    def _open_mirror(self, config: RunConfig, extras: Sequence[Extra]) -> MlflowMirror:
        tracking = config.tracking
        uri = tracking.uri or default_uri(config.runs_dir)
        return MlflowMirror(
            self._run, self._attempt, uri, tracking.experiment, self.say, live=tracking.live, extras=extras
        )
