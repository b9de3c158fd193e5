"""Being asked to stop. A signal only sets a flag; the loop looks at it between two steps.

Nothing else may happen in a handler: another rank can be in the middle of a collective, and a save is one too.
"""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""SIGTERM: schedulers and `cait train`; SIGINT: Ctrl-C; SIGUSR2: SLURM's warning before the time limit."""

EXIT_SAVED = 75
"""Exit status of a run that saved and stopped before its end (sysexits' EX_TEMPFAIL: run me again)."""


class StopRequest:
    """Remembers the first stop signal this process received."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def listen(self) -> "StopRequest":
        """Install the handlers; only the main thread may."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        # Whoever started this process may have had signals wait until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    def ask(self) -> None:
        """As if the scheduler had warned."""
        self.signal = self.signal or signal.SIGUSR2

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)

    def __bool__(self) -> bool:
        """Whether this process was asked to stop."""
        return self.signal is not None
