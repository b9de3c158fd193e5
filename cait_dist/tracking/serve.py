"""`cait track serve`: MLflow's server, started so that it stays whole and answers those it is for.

`cait` itself holds the database file, starts the server, says when its API answers, and ends all of its processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cait_dist.config.tracking import check_tracking_uri

from .database import TrackingServerError, database_uri, refuse_network_file, sqlite_file
from .host_names import accepted, connectable, is_loopback, name_for_clients, origins, own_names
from .mlflow_mirror import default_uri
from .probe import local_experiments, probe
from .run_directory import RunDirectoryError

LOG = "mlflow-server.log"
POLL_SECONDS, GRACE_SECONDS = 0.1, 10.0
UVICORN = "--log-level warning --timeout-graceful-shutdown 3"
NOT_OURS = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS")
"""Set for a client in the same shell, they would change what the server does."""


@dataclass(frozen=True)
class Server:
    """What is to be served, and to whom.

    Attributes:
        runs_dir: holds the database, the artifacts and the log where nothing else is said.
        backend: the database; None: SQLite in ``runs_dir``.
        host: address to listen on.
        port: likewise.
        allowed_hosts: names by which clients may call it; empty: this machine's own.
        workers: processes that answer.
        artifacts: folder or URI that files are kept in; None: in ``runs_dir``.
    """

    runs_dir: Path
    backend: str | None = None
    host: str = "127.0.0.1"
    port: int = 5000
    allowed_hosts: Sequence[str] = ()
    workers: int = 2
    artifacts: str | None = None

    @property
    def database(self) -> str:
        """The database's URI."""
        return database_uri(self.backend or default_uri(self.runs_dir))

    @property
    def called(self) -> str:
        """Host and port as clients will call it."""
        own = own_names() if not is_loopback(self.host) else []
        return f"{name_for_clients(self.host, self.allowed_hosts, own)}:{self.port}"

    @property
    def log(self) -> Path:
        """Where MLflow's own output goes."""
        return self.runs_dir / LOG

    def words(self) -> list[str]:
        """Options of `mlflow server` besides the database."""
        words = ["--host", self.host, "--port", str(self.port), "--workers", str(self.workers)]
        place = self.artifacts or str((self.runs_dir / "mlflow-artifacts").resolve())
        words += ["--serve-artifacts", "--artifacts-destination", place, "--uvicorn-opts", UVICORN]
        if self.allowed_hosts or not is_loopback(self.host):
            names = list(self.allowed_hosts) or own_names()
            words += ["--allowed-hosts", ",".join(["*"] if "*" in names else accepted(names))]
            if pages := origins(names, self.port):
                words += ["--cors-allowed-origins", ",".join(pages)]
        return words


def serve_ui(runs_dir: Path, port: int) -> int:
    """Serve the runs of a folder on this machine's loopback until Ctrl-C; returns the status to exit with.

    Raises:
        RunDirectoryError: when the folder holds no MLflow database
        TrackingServerError: when it cannot be served
    """
    if not (runs_dir / "mlflow.db").is_file():
        raise RunDirectoryError(f"{runs_dir} holds no mlflow.db: train there first, or pass the folder of your runs")
    return serve(Server(runs_dir, port=port, workers=1))


def serve(server: Server, say: Callable[[str], None] = print) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the status to exit with.

    Raises:
        TrackingServerError: when it cannot be served, or ends by itself
    """
    _check(server)
    server.runs_dir.mkdir(parents=True, exist_ok=True)
    with _only_server_of(server.database) as held, _stop_signals() as stopped, _running(server, held) as process:
        _wait_for_answer(server, process, stopped)
        if not stopped():
            _announce(server, say)
        while process.poll() is None and not stopped():
            time.sleep(POLL_SECONDS)
        if not stopped():
            raise TrackingServerError(_ended(server))
    return 0


def _check(server: Server) -> None:
    try:
        check_tracking_uri(server.database)
    except ValueError as error:
        raise TrackingServerError(f"--backend {error}") from None
    if server.database.startswith(("http://", "https://")):
        raise TrackingServerError(f"--backend {server.database} is a server already: give postgresql:// or sqlite:///")
    remedy = "give --backend a file on this machine's own disk, or postgresql://"
    refuse_network_file(server.database, remedy)
    if file := sqlite_file(server.database):
        file.parent.mkdir(parents=True, exist_ok=True)
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        socket.create_server((server.host, server.port), family=family).close()
    except OSError as error:
        reason, remedy = f"cannot be listened on ({error})", "give a --host of this machine"
        if error.errno == errno.EADDRINUSE:
            reason, remedy = "is in use by another program", "choose another --port"
        raise TrackingServerError(f"{server.host}:{server.port} {reason}: {remedy}") from None


@contextlib.contextmanager
def _only_server_of(database: str) -> Iterator[tuple[int, ...]]:
    """Hold an SQLite file against a second server; whoever trains beside it takes turns with this one all the same."""
    file = sqlite_file(database)
    if file is None:
        yield ()
        return
    with file.with_name(f".{file.name}.served").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another server"
            raise TrackingServerError(f"{file} is served already by {holder}: use that one, or end it") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield (lock.fileno(),)


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Take Ctrl-C, SIGTERM and a closed terminal as a wish to end; yields whether there was one."""
    received = []
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.signal(kind, lambda number, frame: received.append(number)) for kind in kinds}
    try:
        yield lambda: bool(received)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextlib.contextmanager
def _running(server: Server, held: tuple[int, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's processes, in a group of their own, all of which are gone afterwards."""
    command = [sys.executable, "-m", "cait_dist.tracking.serve_process", server.database, *server.words()]
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=server_environment(os.environ),
            pass_fds=held, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def server_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of MLflow's processes: what is meant for its clients is left out."""
    kept = {name: value for name, value in variables.items() if name not in NOT_OURS}
    # Its runner of jobs is for language models: a process more, and a folder in /dev/shm that stays.
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _wait_for_answer(server: Server, process: subprocess.Popen[bytes], stopped: Callable[[], bool]) -> None:
    place = f"http://{connectable(server.host)}:{server.port}"
    with _progress() as tell:
        while not stopped():
            if process.poll() is not None:
                raise TrackingServerError(_ended(server))
            answer = probe(place, server.called, timeout=2.0)
            if answer.state == "ok":
                return
            if answer.state == "foreign name":
                raise TrackingServerError(f"--allowed-hosts {','.join(server.allowed_hosts)}: {answer.text}")
            tell()
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[], None]]:
    """A line that shows that something goes on; in a file, that it began."""
    began, terminal = time.monotonic(), sys.stderr.isatty()
    if not terminal:
        print("MLflow starts, which takes some seconds …", file=sys.stderr, flush=True)

    def tell() -> None:
        if terminal:
            print(f"\rMLflow starts … {time.monotonic() - began:.0f} s ", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _announce(server: Server, say: Callable[[str], Any]) -> None:
    say(f"MLflow     http://{server.called}  (Ctrl-C ends it; its log is {server.log})")
    say(f"train with tracking.uri=http://{server.called}")
    if not is_loopback(server.host):
        names = server.allowed_hosts or own_names()
        if local := _local_experiments(server):
            say(f"note       {', '.join(local)}: begun beside the runs, so other machines cannot add files there")
        say(f"accepts    {', '.join(names)} as its name; add others with --allowed-hosts")
    sys.stdout.flush()


def _local_experiments(server: Server) -> list[str]:
    try:
        return local_experiments(f"http://{connectable(server.host)}:{server.port}")
    except (OSError, ValueError):
        return []  # it answers, and is slow: no reason not to serve


def _ended(server: Server) -> str:
    lines = [line.strip() for line in server.log.read_text(errors="replace").splitlines() if line.strip()]
    return f"MLflow's server ended: {lines[-1] if lines else 'it said nothing'} (all it said: {server.log})"
