"""The program that `cait track serve` starts: it makes the database ready, then becomes MLflow's server.

One process does both: loading MLflow takes seconds, and no worker starts before the database is there.
"""

import signal
import sys

from .database import TrackingServerError, prepare_database

EXIT_BAD_INPUT = 2


def main(uri: str, words: list[str]) -> None:
    """Serve until SIGTERM.

    Args:
        uri: of the database, without a password
        words: the other options of `mlflow server`
    """
    _follow_parent()
    try:
        prepare_database(uri)
    except TrackingServerError as error:
        print(error, flush=True)
        sys.exit(EXIT_BAD_INPUT)
    from mlflow.cli import cli  # noqa: PLC0415

    cli(["server", "--backend-store-uri", uri, *words])


def _follow_parent() -> None:
    """Ask Linux for SIGTERM when `cait` dies: it holds the database for this process."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGTERM))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
