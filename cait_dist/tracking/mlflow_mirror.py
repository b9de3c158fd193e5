"""MLflow as a mirror of the run directory, that never hurts.

Rank 0 runs one background thread that reads the metrics file and sends it in batches. Nothing waits for it: a server
that is slow or gone costs a warning, and `cait track sync` fills the gap later. Steps are sent only once a checkpoint
holds them, because MLflow keeps every value it ever got: after a crash the steps beyond the checkpoint are done again,
and would show twice.

What is not bounded by MLflow's own timeouts is bounded here. A server that answers a byte a second never times out, so
a thread that made no progress for a minute is left behind and another takes its place; what it finds when it wakes up
is that it is not wanted any more.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from .inputs import send_inputs
from .mlflow_client import MlflowMissingError
from .mlflow_facts import Ending, read_facts
from .mlflow_run import Extra, MlflowRun, first_line
from .run_directory import RunDirectory

CLOSE_SECONDS = {"finished": 15.0, "stopped": 15.0, "failed": 10.0}
"""How long the end of a run waits for MLflow. Whatever the server does, a job is gone within half a minute of its last
step: reports and pictures want some of it, too."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
LIVE_SECONDS = 5.0
STUCK_SECONDS, MOST_STUCK = 60.0, 3


def default_uri(runs_dir: Path) -> str:
    """The database beside the runs."""
    return f"sqlite:///{runs_dir.resolve() / 'mlflow.db'}"


class SupersededError(Exception):
    """A later attempt, or another thread, has taken over."""


class MlflowMirror:
    """The background thread. Every method returns at once, except ``close``, which is bounded.

    Args:
        run: the run directory
        attempt: that this process does; when a later one begins, nothing is sent any more
        uri: server or database
        experiment: the run belongs to
        tell: shows a line to the user; one when MLflow goes away, one when it is back
        live: show a few metrics before a checkpoint holds them
        extras: see `MlflowRun`
    """

    def __init__(
        self,
        run: RunDirectory,
        attempt: int,
        uri: str,
        experiment: str,
        tell: Callable[[str], None],
        live: bool = False,
        extras: Sequence[Extra] = (),
    ) -> None:
        self._run, self._attempt, self._uri, self._experiment = run, attempt, uri, experiment
        self._show, self._live = tell, live
        self._extras: list[Extra] = [partial(send_inputs, run), *extras]
        self._durable = -1.0
        self._ending: Ending | None = None
        self._give_up = float("inf")
        self._complete, self._away, self._failures, self._stuck = False, False, 0, 0
        self._at_work_since: float | None = None
        self._wake, self._closing = threading.Event(), threading.Event()
        self._start()

    def commit(self, step: int) -> None:
        """Tell that a checkpoint holds everything up to ``step``."""
        self._durable = float(step)
        self._replace_stuck_thread()
        self._wake.set()

    def close(self, ending: Ending, timeout: float) -> bool:
        """Send the rest and the status; returns whether all of it arrived within ``timeout`` seconds."""
        # Who has been away until now gets one chance: nobody should wait for a server that is down.
        self._give_up = 0.0 if self._away else time.monotonic() + timeout - 1
        self._failures = 0
        self._ending = ending
        self._replace_stuck_thread()
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        return self._complete

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def _replace_stuck_thread(self) -> None:
        since = self._at_work_since
        if since is None or time.monotonic() - since < STUCK_SECONDS or self._stuck == MOST_STUCK:
            return
        self._stuck += 1
        self._at_work_since = None
        self._note_away(f"no answer for {STUCK_SECONDS:.0f} s")
        self._start()

    def _work(self) -> None:
        mlflow_run: MlflowRun | None = None
        try:
            while True:
                self._wake.clear()
                ending = self._ending
                try:
                    mlflow_run = mlflow_run or self._open()
                    self._send(mlflow_run, ending)
                except (SupersededError, MlflowMissingError):
                    raise
                except Exception as error:  # MLflow, its database and the network raise many kinds
                    mlflow_run = None
                    self._check()
                    self._note_away(first_line(error))
                    if self._ending is not None and time.monotonic() >= self._give_up:
                        return
                    self._pause()
                    continue
                self._note_back()
                if ending is not None:
                    return
                self._rest()
        except SupersededError:
            return
        except MlflowMissingError as error:
            self._tell(f"{error}; until then nothing is sent, and `cait track sync {self._run.path}` sends it later")

    def _open(self) -> MlflowRun:
        opened = MlflowRun(self._run, self._uri, self._experiment, self._extras, self._tell, self._check)
        opened.open(read_facts(self._run))
        return opened

    def _send(self, mlflow_run: MlflowRun, ending: Ending | None) -> None:
        mlflow_run.send(self._durable)
        mlflow_run.send_system()
        if self._live or (ending is not None and ending.tail):
            mlflow_run.send_tail()
        if ending is None:
            return
        mlflow_run.end(ending)
        try:
            mlflow_run.show_files(ending.artifacts)
            mlflow_run.send_analyses()
        except SupersededError:
            raise
        except Exception as error:  # a store for files is another service, with errors of its own
            self._tell(f"MLflow has the metrics and not the files of this run: {first_line(error)}")
        else:
            self._complete = True

    def _check(self) -> None:
        if threading.current_thread() is not self._thread or not self._run.is_latest(self._attempt):
            raise SupersededError
        self._at_work_since = time.monotonic()

    def _rest(self) -> None:
        self._at_work_since = None
        self._wake.wait(LIVE_SECONDS if self._live else None)

    def _pause(self) -> None:
        """Wait longer each time, and each run a little differently, as all of them wait for one server."""
        self._at_work_since = None
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._failures) * random.uniform(0.5, 1.5)
        self._failures = min(self._failures + 1, 10)
        if self._ending is None:
            self._closing.wait(pause)
        else:
            time.sleep(min(pause, 2.0))

    def _note_away(self, reason: str) -> None:
        if self._away:
            return
        self._away = True
        hint = " — start it with --allowed-hosts" if "Invalid Host header" in reason else ""
        self._tell(f"MLflow does not answer ({reason}{hint}); metrics stay in {self._run.path} until it does")

    def _note_back(self) -> None:
        self._failures = 0
        if self._away:
            self._away = False
            self._tell("MLflow answers again and has everything up to the last checkpoint")

    def _tell(self, text: str) -> None:
        # Where nobody can be told there is nothing else to do.
        with suppress(Exception):
            self._show(text)
