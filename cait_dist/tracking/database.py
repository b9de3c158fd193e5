"""MLflow's database: how it is named, and made ready by one process before any other opens it.

Several processes that open a fresh SQLite file all create its tables, and leave it broken for good.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path
from typing import Any

from .file_system import network_file_system
from .sqlite_file import SQLITE, one_writer

POSTGRES_DRIVERS = ("psycopg2", "psycopg")


class TrackingServerError(ValueError):
    """MLflow cannot be served, or its database not be used; the message says what to do."""


def database_uri(uri: str) -> str:
    """The same database as MLflow's database layer must be told it: with a PostgreSQL driver that is installed.

    Raises:
        TrackingServerError: if none is
    """
    scheme, _, place = uri.partition("://")
    kind, _, asked = scheme.partition("+")
    if kind != "postgresql":
        return uri
    for driver in (asked,) if asked else POSTGRES_DRIVERS:
        if importlib.util.find_spec(driver) is not None:
            return f"postgresql+{driver}://{place}"
    raise TrackingServerError(
        f"{uri}: {asked or 'no driver for PostgreSQL'} is not installed: pip install 'cait-dist[postgres]'"
    )


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite URI, None for any other."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def refuse_network_file(uri: str, remedy: str) -> None:
    """See that an SQLite file lies on a disk of this machine.

    Raises:
        TrackingServerError: if it does not
    """
    file = sqlite_file(uri)
    kind = network_file_system(file) if file else None
    if kind is not None:
        raise TrackingServerError(f"{file} would lie on a network file system ({kind}), where SQLite breaks: {remedy}")


def prepare_database(uri: str) -> None:
    """Create or upgrade a database, and let readers of an SQLite file go on while one writes.

    Raises:
        TrackingServerError: if it cannot be opened or is broken
    """
    import sqlalchemy as sql  # noqa: PLC0415 - takes a second

    try:
        # Once and at once: MLflow would try to reach a database that is not there for minutes.
        with sql.create_engine(uri).connect():
            pass
    except sql.exc.SQLAlchemyError as error:
        raise TrackingServerError(_cannot_open(uri, str(getattr(error, "orig", error)))) from error
    with one_writer(uri):
        if file := sqlite_file(uri):
            with sqlite3.connect(file) as database:
                database.execute("PRAGMA journal_mode=WAL")
        try:
            _upgrade(uri)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TrackingServerError(_cannot_upgrade(uri, first)) from error


def _upgrade(uri: str) -> Any:
    from mlflow.cli import cli  # noqa: PLC0415

    return cli(["db", "upgrade", uri], standalone_mode=False)


def _cannot_open(uri: str, reason: str) -> str:
    first = reason.strip().splitlines()[-1].strip()
    remedy = "see whether it runs, and its name and port are right"
    if "password" in reason:
        remedy = "set PGPASSWORD, or write it into ~/.pgpass"
    elif "does not exist" in reason:
        remedy = "create it first"
    return f"{uri} cannot be opened ({first}): {remedy}"


def _cannot_upgrade(uri: str, reason: str) -> str:
    remedy = "most likely several processes created it at the same time: move it away, and send the runs again with"
    remedy += " `cait track sync`"
    if "Can't locate revision" in reason:
        remedy = "it was made by a newer MLflow: install that one"
    return f"{uri} cannot be used by this MLflow ({reason}): {remedy}"
