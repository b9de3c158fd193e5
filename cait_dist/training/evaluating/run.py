"""Evaluate the checkpoints of a run: one, all, or every new one until the run is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cait_dist.tracking.run_directory import read_json

from ..recording.console import EvaluationTable
from ..saving.checkpoint_files import Checkpoint, CheckpointError, list_checkpoints, open_checkpoint
from .checkpoint import Evaluator
from .record import EVALUATIONS, Result, add_result, read_results, save_answers
from .request import (
    EvaluationError,
    Request,
    chooser,
    chosen_sets,
    chosen_weights,
    find_run,
    read_config,
)

POLL_SECONDS = 1.0


class Evaluation:
    """A request that was checked: everything that can be known to be wrong before an image is read was right.

    Args:
        request: what the user asked for
        say: gets a line for every result

    Raises:
        ValueError: of the project's own kinds
    """

    def __init__(self, request: Request, say: Callable[[str], None] = print) -> None:
        self._say, self._follow = say, request.follow
        self._run = find_run(request)
        self._choose = chooser(request, self._run)
        self.config = config = read_config(self._run, request)
        self._evaluator = Evaluator(config, chosen_sets(config, request.sets), chosen_weights(config, request.weights))
        self._table = EvaluationTable(say)
        self._measured = self._known = 0
        self._failed: list[str] = []
        chosen = self._choose()
        if not chosen and not request.follow:
            steps = ", ".join(str(checkpoint.step) for checkpoint in list_checkpoints(self._run.checkpoints)) or "none"
            which = f" of step {request.step}" if (request.step or "").isdecimal() else ""
            raise EvaluationError(f"{request.place}: there is no complete checkpoint{which} (complete: {steps})")
        for checkpoint in chosen:
            self._evaluator.check(checkpoint)

    @property
    def run_dir(self) -> Path:
        """The run that is evaluated."""
        return self._run.path

    def work(self) -> None:
        """Evaluate what is there, and with ``follow`` what is still to come.

        Raises:
            CheckpointError: if checkpoints were damaged, after the others were evaluated
        """
        handled: set[str] = set()
        if self._follow:
            self._say(f"following {self.run_dir} until it is finished")
        while True:
            # Asked before looking: a checkpoint that is saved in between belongs to a run that is not over.
            end = self._end() if self._follow else "evaluated"
            for checkpoint in self._choose():
                if checkpoint.digest not in handled:
                    self._evaluate(checkpoint)
                    handled.add(checkpoint.digest)
            if end is not None:
                break
            time.sleep(POLL_SECONDS)
        self._say(f"{end}: {self._measured} measured, {self._known} known before, see {self.run_dir / EVALUATIONS}")
        if self._failed:
            raise CheckpointError("; ".join(self._failed))

    def _evaluate(self, checkpoint: Checkpoint) -> None:
        try:
            self._measure(checkpoint)
        except (OSError, CheckpointError) as error:
            now = open_checkpoint(checkpoint.path)
            if now is None or now.digest != checkpoint.digest:
                self._say(f"step {checkpoint.step}: its checkpoint was deleted meanwhile, passed over")
            elif isinstance(error, CheckpointError):
                self._say(str(error))
                self._failed.append(str(error))
            else:
                raise

    def _measure(self, checkpoint: Checkpoint) -> None:
        known = read_results(self.run_dir, checkpoint)
        missing = [question for question in self._evaluator.questions if question not in known]
        for question in self._evaluator.questions:
            if question in known:
                self._known += 1
                self._show(checkpoint, known[question])
        for result, answers in self._evaluator.measure(checkpoint, missing) if missing else ():
            # First the answers: what is known is not measured again, so they would stay missing.
            save_answers(self.run_dir, checkpoint, result.question, answers)
            add_result(self.run_dir, checkpoint, result)
            self._measured += 1
            self._show(checkpoint, result)

    def _show(self, checkpoint: Checkpoint, result: Result) -> None:
        total = self._run.read_record()["total_steps"]
        epoch = self.config.training.epochs * checkpoint.step / total
        self._table.row(epoch, result.question.set, result.question.weights, result.accuracy)

    def _end(self) -> str | None:
        """Why no more checkpoints will come; None while some may."""
        last = (self._run.read_record()["attempts"] or [{}])[-1]
        if last.get("outcome") == "finished":
            return "the run is finished"
        job = read_json(self.run_dir / "launch" / "job.json") or {}
        given_up = last.get("verdict", "").startswith("stop") and job.get("submitted", "") <= last.get("ended", "")
        return "the run was given up" if given_up else None
