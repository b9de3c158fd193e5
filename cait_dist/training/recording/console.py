"""What rank 0 shows while training: one line that moves, and a row per evaluation."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cait_dist.evaluation import Accuracy

PLAIN_LINE_SECONDS = 10.0


class EvaluationTable:
    """Results, a row each, under a head that is shown once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._header_shown = False

    def row(self, epoch: float, name: str, weights: str, accuracy: Accuracy) -> None:
        """Show one result."""
        if not self._header_shown:
            self._header_shown = True
            self._say(f"{'epoch':>8} {'set':<10} {'weights':<8} {'top-1':>8} {'top-5':>8} {'loss':>8} {'images':>8}")
        top5 = "" if accuracy.top5 is None else f"{accuracy.top5:.2f}%"
        apart = f" (and {accuracy.excluded} without a label)" if accuracy.excluded else ""
        self._say(
            f"{epoch:8.2f} {name:<10} {weights:<8} {accuracy.top1:7.2f}% {top5:>8}"
            f" {accuracy.loss:8.4f} {accuracy.count:8d}{apart}"
        )


class TrainingConsole:
    """The progress line on a terminal; elsewhere a plain line now and then."""

    def __init__(self, total_steps: int, epochs: float, start_step: int) -> None:
        self._console = Console(soft_wrap=True)
        self._total, self._epochs = total_steps, epochs
        self._started, self._start_step = time.monotonic(), start_step
        self._last_plain = 0.0
        self._table = EvaluationTable(self.say)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20), console=self._console, transient=True
        )
        self._task = self._progress.add_task("starting", total=total_steps, completed=start_step)
        if sys.stdout.isatty():
            self._progress.start()

    def say(self, text: str) -> None:
        """Print a line above the progress line."""
        self._console.print(text, highlight=False, markup=False)

    def step(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Show where training is."""
        line = (
            f"epoch {epoch:.2f}/{self._epochs:g} · step {step}/{self._total} · loss {values['train/loss']:.4f}"
            f" · lr {values['train/lr']:.2e} · {values['perf/images_per_second']:.0f} img/s"
            f" · data wait {100 * values['perf/data_wait_share']:.0f} % · ETA {self._eta(step)}"
        )
        if self._progress.live.is_started:
            self._progress.update(self._task, description=line, completed=step)
        elif time.monotonic() - self._last_plain > PLAIN_LINE_SECONDS:
            self._last_plain = time.monotonic()
            self.say(line)

    def evaluation(self, epoch: float, name: str, weights: str, accuracy: Accuracy) -> None:
        """Show one result as a row of a table."""
        self._table.row(epoch, name, weights, accuracy)

    def close(self) -> None:
        """Remove the progress line."""
        self._progress.stop()

    def _eta(self, step: int) -> str:
        done = step - self._start_step
        if done <= 0:
            return "…"
        left = (time.monotonic() - self._started) / done * (self._total - step)
        return str(timedelta(seconds=round(left)))
