"""Show how far a long task has come: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class ImageProgress:
    """Counts images; a context manager.

    Args:
        task: what is being done, for people.
        total: number of images.
        shown: False for silence.
        console: where to write; standard error by default, so that results on standard output stay clean.
    """

    def __init__(self, task: str, total: int, *, shown: bool = True, console: Console | None = None) -> None:
        self._task, self._total, self._shown = task, total, shown
        self.console = console or Console(stderr=True)
        self._done = 0
        self._worked = 0
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> ImageProgress:
        if self._shown and self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self.console)
            self._bar.add_task(self._task, total=self._total, rate="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Images per second of this process's own work; what was found finished does not count."""
        return self._worked / max(time.monotonic() - self._started, 1e-9)

    def say(self, line: str) -> None:
        """Print one line, above the bar if there is one."""
        if self._shown:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def add(self, images: int, *, found_finished: bool = False) -> None:
        """Count images as done."""
        self._done += images
        self._worked += 0 if found_finished else images
        rate = f"{self.rate:,.0f} images/s" if self._worked else ""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=rate)
        elif self._shown and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = f", {(self._total - self._done) / self.rate:,.0f} s left" if self._worked else ""
            self.say(f"{self._task}: {self._done:,} of {self._total:,} images, {rate}{left}")
