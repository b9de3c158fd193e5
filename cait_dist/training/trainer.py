"""Build, run, close: one attempt at a run, on every rank.

The loop counts optimizer steps and nothing else. Epochs, learning rate, data position and everything random follow
from the step, so a checkpoint needs to hold little besides the weights and the optimizer's state.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from cait_dist.augment.normalize import Normalize
from cait_dist.config import RunConfig
from cait_dist.data.loader import MicroBatch
from cait_dist.evaluation import Answers
from cait_dist.tracking.run_directory import RunDirectory

from .distilling.lesson import open_guide
from .ema import MovingAverage
from .evaluating.precisely import model_to_evaluate
from .evaluating.sets import open_set
from .optimizer import set_learning_rate
from .parallel import describe_attention, parallelize, warn_of_slow_precision
from .preempt import StopRequest
from .ranks.process_group import World
from .recording.recorder import Recorder
from .recording.step_metrics import learning_metrics, speed_metrics
from .recovering.loss_spikes import LossWatch
from .recovering.quarantine import Quarantine
from .recovering.replicas import compare_replicas
from .recovering.rollback import Rollbacks
from .recovering.skipped_steps import SkippedSteps
from .recovering.trouble import TroubleError
from .saving.checkpoint import agree_on_checkpoint, load_checkpoint
from .saving.checkpoint_files import START_OVER, Checkpoint, CheckpointError, list_checkpoints
from .saving.checkpoint_saver import CheckpointSaver, Saved
from .saving.probe import STATE_KEY, LossProbe
from .schedule import learning_rate
from .starting.facts import gather_facts, write_facts
from .starting.initial_model import initial_model
from .starting.loader_memory import check_loader_memory
from .starting.plan import make_plan
from .step import StepResult, TrainingStep
from .stream import TrainStream
from .watching.activity import EVALUATION, RECORDING, SAVING, begin_step, enter, go_on
from .watching.health import HealthCheck
from .watching.slow_nodes import SlowNodes
from .zero_partition import ZeroPartition


class SupersededError(ValueError):
    """A later attempt at this run has begun, so this one must not write any more."""


class Trainer:
    """One rank's part of an attempt.

    Args:
        run: the run directory
        attempt: number of the attempt, which ``begin_attempt`` has prepared
        config: of this attempt
        world: the process group
        resume_step: the newest checkpoint that may be used, None to start from the beginning
        stop: set by a signal
    """

    def __init__(
        self,
        run: RunDirectory,
        attempt: int,
        config: RunConfig,
        world: World,
        resume_step: int | None,
        stop: StopRequest,
    ) -> None:
        self._run, self._config, self._world, self._stop = run, config, world, stop
        self._attempt = attempt
        self._plan = make_plan(config, world.size)
        self.step = 0
        self._evaluated_step, self._trained_seconds, self._best = 0, 0.0, dict[str, float]()
        training = config.training
        self._skipped = SkippedSteps(run.attempt(attempt), world, training.most_skipped_steps, self._say)
        self._quarantine = Quarantine(
            run.attempt(attempt), world, config.data, self._plan.calendar.num_samples, self._say
        )
        self._losses = LossWatch(training.rollback, world)
        self._rollbacks = Rollbacks(run, attempt, world, training.rollback, training.global_batch)
        self._recorder: Recorder | None = None
        checkpoint, notes = self._choose(resume_step)
        notes += self._build(checkpoint)
        self._eval_sets = [
            open_set(config, chosen, self._plan.image_size, world.rank, world.size) for chosen in config.evaluation.sets
        ]
        check_loader_memory(config, self._plan, world, self._eval_sets)
        self._facts = gather_facts(config, self._plan, world, self._partition, self._eval_sets)
        if world.is_main:
            write_facts(run.attempt(attempt), self._facts)  # before the recorder, whose mirror sends them
            self._recorder = Recorder(run, attempt, config, self._plan, self.step)
        for note in [f"{world.size} processes on {world.device.type}, {self._plan.batches}", *notes]:
            self._say(note)
        self._slow_nodes = SlowNodes(run.attempt(attempt), world, config.training, self._say, stop)
        self._saver = self._open_saver()
        self._stream = TrainStream(config, self._plan, world)

    def run(self) -> str:
        """Train to the end, or until asked to stop. Returns ``finished`` or ``stopped``."""
        while True:
            try:
                return self._train()
            except TroubleError as trouble:
                self._go_back(trouble)

    def _train(self) -> str:
        total = self._plan.calendar.total_steps
        if 0 < self.step != self._evaluated_step and self._evaluation_is_due():
            self._evaluate()
        while self.step < total:
            self._stream.go_to(self.step + self._rollbacks.shift(self.step))
            begin_step(self.step + 1)
            asked, answer = self._ask_everyone()
            began = time.perf_counter()
            set_learning_rate(self._engine.optimizer.param_groups, self._lr(self.step))
            result, health = self._take_step(self._stream.batches)
            health |= self._slow_nodes.note(self.step + 1, result)
            self.step += 1
            self._record(result, began, health)
            self._losses.put(self.step, result.loss)
            self._quarantine.note(self.step, result.corrupt)
            asked.wait()
            stopping, saving, losses, corrupt = answer.tolist()
            self._quarantine.learn(corrupt)
            self._skipped.note(self.step, result)
            self._losses.learn(losses)
            self._note(self._saver.advance(saving > 0))
            # Who is asked to stop in the last step finishes: nobody would come back to evaluate it.
            if self._evaluation_is_due() and (not stopping or self.step >= total):
                self._evaluate()
            if stopping or self._checkpoint_is_due():
                self._save(last=stopping or self.step >= total)
            if stopping and self.step < total:
                return "stopped"
        return "finished"

    def _go_back(self, trouble: TroubleError) -> None:
        """Go on from before the trouble, and past its data. Collective."""
        self._refuse_if_superseded()
        self._note(self._saver.wait())
        checkpoint = self._rollbacks.go_back(trouble, self._say)
        self._load(checkpoint)
        if self._recorder is not None:
            self._recorder.went_back(self.step)

    def close(self, outcome: str) -> None:
        """Release workers and finish the records; ``outcome`` is finished, stopped or failed."""
        self._stream.close()
        if self._recorder is not None:
            self._recorder.close(outcome, self.step)

    def _take_step(self, batches: Iterator[tuple[MicroBatch, float]]) -> tuple[StepResult, dict[str, float]]:
        every = self._config.training.health_every
        if every is None or (self.step + 1) % every:
            return self._stepper.run(batches), {}
        self._health.begin()
        result, health = self._stepper.run(batches), self._health.end()
        compare_replicas(self._engine, self._world, self.step + 1)
        return result, {} if result.left_out else health

    def _build(self, checkpoint: Checkpoint | None) -> list[str]:
        config, world = self._config, self._world
        model, notes = initial_model(config, self._plan.num_classes, resumed=checkpoint is not None)
        notes.append(describe_attention(model, config.training, world))
        notes += warn_of_slow_precision(config.training, world.device)
        self._engine = parallelize(model, config.training, config.optimizer, self._plan.batches, world)
        self._normalize = Normalize(config.augment.mean, config.augment.std).to(world.device)
        self._partition = ZeroPartition(self._engine, world.rank, world.size)
        self._health = HealthCheck(self._engine, self._partition, world)
        decay = config.training.ema_decay
        self._ema = MovingAverage(self._partition, decay) if decay is not None else None
        guide = open_guide(config, self._plan, world.device)
        self._stepper = TrainingStep(
            self._engine, config, self._plan.num_classes, self._plan.batches.accumulation, world, self._ema, guide
        )
        self._probe = LossProbe(
            self._engine, self._view, self._plan.image_size, self._plan.num_classes, config.training.precision
        )
        if checkpoint is not None:
            self._load(checkpoint)
        return [*notes, guide.note] if guide is not None else notes

    def _choose(self, resume_step: int | None) -> tuple[Checkpoint | None, list[str]]:
        if resume_step is None:
            return None, []
        notes: list[str] = []
        candidates = [c for c in list_checkpoints(self._run.checkpoints) if c.step <= resume_step]
        checkpoint = agree_on_checkpoint(candidates, self._world, notes.append)
        if checkpoint is None:
            raise CheckpointError(
                "; ".join([f"no checkpoint in {self._run.checkpoints} is intact", *notes, START_OVER])
            )
        return checkpoint, [*notes, f"resumed from {checkpoint.path}"]

    def _load(self, checkpoint: Checkpoint) -> None:
        load_checkpoint(checkpoint, self._partition, self._ema)
        self._probe.check(checkpoint)
        self._partition.forget_gathered()
        self.step = checkpoint.step
        self._evaluated_step = checkpoint.state["evaluated_step"]
        self._trained_seconds = checkpoint.state["trained_seconds"]
        self._best = checkpoint.state["best"]
        self._skipped.in_a_row = checkpoint.state.get("left_out_in_a_row", 0)
        self._losses.restore(checkpoint.state.get("losses"))
        self._quarantine.restore(checkpoint.state.get("quarantine"))
        self._rollbacks.check(checkpoint)

    def _save(self, *, last: bool) -> None:
        enter(SAVING)
        self._refuse_if_superseded()
        self._losses.settle()
        self._quarantine.settle()
        progress = {
            "step": self.step,
            "images_seen": self.step * self._plan.batches.global_batch,
            "evaluated_step": self._evaluated_step,
            "trained_seconds": self._trained_seconds,
            "best": self._best,
            "seed": self._config.seed,
            "world_size": self._world.size,
            "zero_stage": self._config.training.zero.stage,
            "data_shift": self._rollbacks.shift(self.step),
            "left_out_in_a_row": self._skipped.in_a_row,
            "losses": self._losses.state(),
            "quarantine": self._quarantine.state(),
            STATE_KEY: self._probe.loss(),
        }
        self._partition.forget_gathered()
        self._note(self._saver.begin(progress))
        if last or not self._config.training.checkpoint.asynchronous:
            self._note(self._saver.wait(last=last))

    def _note(self, saved: Saved | None) -> None:
        if saved is not None and self._recorder is not None:
            self._recorder.checkpoint(self.step, saved.step, saved.metrics)

    def _refuse_if_superseded(self) -> None:
        if not self._run.is_latest(self._attempt):
            raise SupersededError(f"attempt {self._attempt + 1} at {self._run.path} has begun: this one ends")

    def _ask_everyone(self) -> tuple[Any, torch.Tensor]:
        # Sent before the step and read after it: the answer costs no waiting.
        mine = float(bool(self._stop)), float(self._saver.busy), self._losses.due(), self._quarantine.due()
        answer = torch.tensor(mine, dtype=torch.float64)
        return dist.all_reduce(answer, group=self._world.control, async_op=True), answer

    def _lr(self, step: int) -> float:
        return learning_rate(step, self._plan.calendar, self._config.optimizer, self._config.schedule)

    def _record(self, result: StepResult, began: float, health: dict[str, float]) -> None:
        enter(RECORDING)
        due = self.step % self._config.training.log_every == 0 or self.step == self._plan.calendar.total_steps
        if not due and not health:
            self._trained_seconds += time.perf_counter() - began
            return
        values = learning_metrics(result, self._world, self._engine.get_global_grad_norm())
        if self._skipped.total:
            values["train/skipped_steps"] = float(self._skipped.total)
        if self._quarantine.total:
            values["data/quarantined"] = float(self._quarantine.total)
        if self._rollbacks.total:
            values["train/rollbacks"] = float(self._rollbacks.total)
        seconds = time.perf_counter() - began
        self._trained_seconds += seconds
        values |= speed_metrics(result, seconds, self._facts, self._world)
        values |= {"train/lr": self._lr(self.step - 1), "perf/trained_seconds": self._trained_seconds, **health}
        if self._recorder is not None:
            self._recorder.step(self.step, values)

    def _evaluation_is_due(self) -> bool:
        calendar = self._plan.calendar
        due = calendar.is_due(self.step, self._config.evaluation.every_epochs)
        return bool(self._eval_sets) and (due or self.step >= calendar.total_steps)

    def _checkpoint_is_due(self) -> bool:
        plan, calendar = self._config.training.checkpoint, self._plan.calendar
        by_steps = plan.every_steps is not None and self.step % plan.every_steps == 0
        return by_steps or calendar.is_due(self.step, plan.every_epochs) or self.step >= calendar.total_steps

    def _evaluate(self) -> None:
        enter(EVALUATION)
        self._engine.eval()
        for weights in self._config.evaluation.weights:
            average = self._ema if weights == "ema" else None
            with model_to_evaluate(self._config, self._engine, self._partition, average, self._world) as model:
                self._evaluate_weights(weights, model)
        self._partition.forget_gathered()
        self._engine.train()
        self._evaluated_step = self.step

    def _evaluate_weights(self, weights: str, model: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for chosen in self._eval_sets:
            answers = Answers(chosen.num_samples)
            accuracy = chosen.measure(lambda images: model(self._view(images)), self._world.sum, answers)
            key = f"{chosen.name}/{weights}"
            self._best[key] = max(accuracy.top1, self._best.get(key, 0.0))
            if self._recorder is not None:
                self._recorder.evaluation(self.step, chosen.name, weights, accuracy)
                self._recorder.answers(chosen.name, weights, answers, self.step, chosen.digest)

    def _view(self, images: torch.Tensor) -> torch.Tensor:
        go_on()
        return self._normalize(images.to(self._world.device, non_blocking=True))

    def _open_saver(self) -> CheckpointSaver:
        plan, calendar = self._config.training.checkpoint, self._plan.calendar
        return CheckpointSaver(
            self._run.checkpoints,
            self._world,
            self._partition,
            self._ema,
            plan.keep,
            # While something may be wrong, the checkpoints before it are what can be gone back to.
            is_milestone=lambda step: (
                self._skipped.in_a_row > 0 or self._losses.suspicious or calendar.is_due(step, plan.keep_every_epochs)
            ),
            fence=self._refuse_if_superseded,
            say=self._say,
        )

    def _say(self, text: str) -> None:
        if self._recorder is not None:
            self._recorder.say(text)
