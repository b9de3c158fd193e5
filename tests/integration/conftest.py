"""A real MLflow server, one for a file of tests, and a proxy before it whose mood changes."""

import socket
from collections.abc import Iterator
from pathlib import Path

import mirrored_runs as runs
import pytest
from flaky_proxy import FlakyProxy, flaky
from mlflow_servers import Server

from cait_dist.tracking.run_directory import RunDirectory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`cait track serve`, on a port of its own."""
    server = _started(tmp_path_factory.mktemp("server"))
    try:
        yield server
    finally:
        server.stop()


def _started(folder: Path, tries: int = 3) -> Server:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    server = Server(folder, port)
    try:
        server.start()
    except (AssertionError, FileNotFoundError):  # another program has taken the port meanwhile, and nothing is logged
        if tries == 1:
            raise
        return _started(folder, tries - 1)
    return server


@pytest.fixture
def proxy(server: Server) -> Iterator[FlakyProxy]:
    """What stands before the server, and is in a good mood to begin with."""
    with flaky(server.port) as proxy:
        yield proxy


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that has not begun."""
    return runs.make_run(tmp_path)


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the mirrors in this process, and for an answer what a machine that is busy with others may take."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "6")
    monkeypatch.setattr("cait_dist.tracking.mlflow_mirror.FIRST_PAUSE", 0.2)
    monkeypatch.setattr("cait_dist.tracking.mlflow_mirror.LONGEST_PAUSE", 2.0)
