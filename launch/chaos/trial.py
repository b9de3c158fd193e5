"""One fault, several times: struck at random moments, watched until training is further than it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from .errors import ChaosError
from .fault import Fault
from .subject import POLL_SECONDS, Subject

STEPS_BETWEEN = (2, 40)
"""Least and most between the last recovery and the next strike."""
PATIENCE = 400.0
"""Seconds within which a run must be further than it was."""
MOST_LAUNCHES = 3
"""Of a run that ended, without a step in between."""
QUEUE_SECONDS = 3.0
"""Between two looks at SLURM's queue."""


@dataclass(frozen=True)
class Struck:
    """What one strike came to.

    Attributes:
        step: the last that was done before.
        seconds: the longest time without a step that had not been done before.
        repeated: steps that were done again.
        attempts: that were begun because of it.
        by_itself: whether nobody had to launch the run again.
    """

    step: int
    seconds: float
    repeated: int
    attempts: int
    by_itself: bool


class Progress:
    """The furthest step, and the longest time that it took to come by a further one, by this process's own clock."""

    def __init__(self, step: int) -> None:
        self.furthest, self.longest, self.attempt = step, 0.0, 0
        self._since = time.monotonic()

    def look(self, step: int, attempt: int) -> None:
        """Tell it the newest step, and how many attempts have been begun; ``attempt`` is which came furthest."""
        now = time.monotonic()
        if step > self.furthest:
            self.longest = max(self.longest, now - self._since)
            self.furthest, self._since, self.attempt = step, now, attempt


class Trial:
    """Strikes of one fault at the runs of one configuration.

    Args:
        fault: the fault
        subjects: launches a run that has not been struck yet, each time it is asked
        random: decides about moments and victims
        say: tells the user how it goes on
    """

    def __init__(self, fault: Fault, subjects: Iterator[Subject], random: Random, say: Callable[[str], None]) -> None:
        self._fault, self._subjects, self._random, self._say = fault, subjects, random, say
        self.finished: list[Subject] = []

    def run(self, times: int) -> list[Struck]:
        """Strike so many times; a run that ends before that is followed by another.

        Raises:
            ChaosError: if a run does not recover
        """
        struck: list[Struck] = []
        while len(struck) < times:
            subject = next(self._subjects)
            subject.launch()
            while len(struck) < times and (found := self._strike(subject)) is not None:
                struck.append(found)
                self._say(f"{self._fault.name} {len(struck)}/{times}: {_in_words(found)}")
            self._until(subject, lambda: False, Progress(0))
            self.finished.append(subject)
        return struck

    def _strike(self, subject: Subject) -> Struck | None:
        """Strike once; None where the run was finished before it could be."""
        mend = None
        while mend is None:
            self._wait_for_a_moment(subject)
            begun = len(subject.attempts)
            if subject.finished:
                return None
            progress = Progress(subject.newest_step())
            mend = self._fault.strike(subject, self._random)
        step = subject.newest_step()
        try:
            self._watch(subject, progress, self._random.uniform(*self._fault.lasts))
        finally:
            mend()
        mended = time.monotonic()

        def recovered() -> bool:
            if time.monotonic() - mended < self._fault.settles:
                return False
            if self._fault.interrupts and len(subject.attempts) == begun:
                return False
            return progress.furthest > step and progress.attempt == len(subject.attempts)

        launches = self._until(subject, recovered, progress)
        after = subject.attempts[begun:]
        repeated = sum(int(attempt.get("redone_steps", 0)) for attempt in after)
        return Struck(step, round(progress.longest, 1), repeated, len(after), launches == 0)

    def _wait_for_a_moment(self, subject: Subject) -> None:
        self._until(subject, lambda: subject.newest_step() > 0, Progress(0))
        target = subject.newest_step() + self._random.randint(*STEPS_BETWEEN)
        self._until(subject, lambda: subject.newest_step() >= target, Progress(0))
        time.sleep(self._random.random())

    def _watch(self, subject: Subject, progress: Progress, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            progress.look(subject.newest_step(), len(subject.attempts))
            time.sleep(POLL_SECONDS)

    def _until(self, subject: Subject, condition: Callable[[], bool], progress: Progress) -> int:
        """Wait for the condition or the run's end; a run whose job is gone is launched again. Returns how often."""
        launches, looked, newest = 0, time.monotonic(), Progress(subject.newest_step())
        deadline = time.monotonic() + PATIENCE
        while not subject.finished and not condition():
            for each in (progress, newest):
                each.look(subject.newest_step(), len(subject.attempts))
            if newest.longest:
                deadline, newest = time.monotonic() + PATIENCE, Progress(newest.furthest)
            if time.monotonic() > deadline or launches > MOST_LAUNCHES:
                place = subject.order.run_dir
                raise ChaosError(
                    f"{place} made no further step in {PATIENCE:g} s or {launches} launches\n{subject.log_end()}"
                )
            if time.monotonic() - looked > QUEUE_SECONDS:
                looked = time.monotonic()
                if subject.left_the_queue() and not subject.finished:
                    subject.launch()
                    launches += 1
            time.sleep(POLL_SECONDS)
        progress.look(subject.newest_step(), len(subject.attempts))
        return launches


def _in_words(found: Struck) -> str:
    came_back = "came back" if found.by_itself else "came back when it was launched again"
    if not found.attempts:
        came_back = "went on"
    return f"at step {found.step}, {came_back}, {found.repeated} steps repeated, {found.seconds:g} s without a new step"
