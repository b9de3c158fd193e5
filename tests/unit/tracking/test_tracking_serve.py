"""What `cait track serve` finds out before anything is started: names, databases, folders, ports."""

import fnmatch
import os
import signal
import socket
import sqlite3
from pathlib import Path

import pytest

from cait_dist.tracking import database, serve
from cait_dist.tracking.database import TrackingServerError, database_uri, refuse_network_file
from cait_dist.tracking.file_system import network_file_system
from cait_dist.tracking.host_names import accepted, is_loopback, name_for_clients, origins, own_names
from cait_dist.tracking.run_directory import RunDirectoryError
from cait_dist.tracking.serve import Server, serve_ui

MOUNTS = r"""
21 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:21 / /home rw,relatime shared:2 - nfs4 filer:/home rw
23 22 0:22 / /home/local rw - xfs /dev/sdb1 rw
24 21 0:23 / /scratch rw master:1 propagate_from:2 - lustre 10.0.0.1@o2ib:/scratch rw
25 21 0:24 / /my\040files rw - fuse.sshfs me@there:/ rw
26 21 0:25 / /cloud rw - fuse.s3fs s3fs rw
27 21 0:26 / /archive rw - fuse.ntfs-3g /dev/sdc1 rw
28 21 0:27 / /twice rw - cifs //filer/x rw
29 21 0:28 / /twice rw - tmpfs tmpfs rw
30 21 0:29 / /gpfs rw - gpfs gpfs0 rw
31 21 0:30 / /ceph rw - ceph 10.0.0.2:/ rw
32 21 0:31 / /bee rw - beegfs beegfs_nodev rw
"""


def accepts(names: list[str], host: str) -> bool:
    """As MLflow compares a Host header with its list."""
    return any(fnmatch.fnmatch(host, name) if "*" in name else host == name for name in accepted(names))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/runs/mlflow.db", None),
        ("/home/mike/runs/mlflow.db", "nfs4"),
        ("/home/local/runs/mlflow.db", None),
        ("/homework/mlflow.db", None),
        ("/scratch", "lustre"),
        ("/my files/mlflow.db", "fuse.sshfs"),
        ("/cloud/mlflow.db", "fuse.s3fs"),
        ("/archive/mlflow.db", None),
        ("/twice/mlflow.db", None),
        ("/gpfs/x", "gpfs"),
        ("/ceph/x", "ceph"),
        ("/bee/x", "beegfs"),
    ],
)
def test_network_file_systems_are_told_from_disks(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind


def test_this_machine_is_asked_for_its_mounts(tmp_path: Path) -> None:
    assert network_file_system(tmp_path / "not" / "yet") is None, "a test's folder lies on a disk"


def test_a_database_on_a_network_file_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "network_file_system", lambda path: network_file_system(path, MOUNTS))
    with pytest.raises(TrackingServerError, match=r"/home/mike/mlflow.db would lie on .*nfs4.*SQLite breaks: move it"):
        refuse_network_file("sqlite:////home/mike/mlflow.db", "move it")
    refuse_network_file("sqlite:////data/mlflow.db", "move it")
    refuse_network_file("postgresql://home/mike", "move it")


def test_clients_may_use_the_names_that_were_given_with_any_port_and_loopback() -> None:
    names = ["login01", "*.cluster", "10.1.2.3", "[fd00::1]"]
    allowed = ["login01", "login01:5000", "login01:8080", "n7.cluster:5000", "10.1.2.3:5000", "[fd00::1]:5000"]
    # A tunnel gives it another port on the user's machine.
    allowed += ["localhost:8080", "127.0.0.1:5000", "[::1]:5000", "localhost"]
    assert [host for host in allowed if not accepts(names, host)] == []
    foreign = ["login02:5000", "login01.evil.org:5000", "cluster:5000", "10.1.2.30:5000", "evil.org", ":5000"]
    assert [host for host in foreign if accepts(names, host)] == []


def test_the_page_may_be_opened_under_every_name_without_a_pattern() -> None:
    assert origins(["login01", "*.cluster", "[fd00::1]"], 5000) == ["http://login01:5000", "http://[fd00::1]:5000"]


@pytest.mark.parametrize(
    ("host", "allowed", "own", "name"),
    [
        ("0.0.0.0", ["*.cluster", "login01"], ["me"], "login01"),
        ("0.0.0.0", [], ["me", "10.1.2.3"], "me"),
        ("::", [], ["me"], "me"),
        ("10.1.2.3", [], ["me"], "10.1.2.3"),
        ("fd00::1", [], ["me"], "[fd00::1]"),
        ("127.0.0.1", [], [], "127.0.0.1"),
        ("0.0.0.0", ["*.cluster"], [], "localhost"),
    ],
)
def test_users_are_told_a_name_that_works(host: str, allowed: list[str], own: list[str], name: str) -> None:
    assert name_for_clients(host, allowed, own) == name


def test_this_machine_knows_its_names() -> None:
    names = own_names()
    assert names[0] == socket.gethostname()
    assert not {"127.0.0.1", "localhost", "[::1]"} & set(names)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "login01")] == [1, 1, 1, 0, 0]


def test_options_of_the_server_follow_from_who_may_call_it(tmp_path: Path) -> None:
    here = Server(tmp_path).words()
    assert "--allowed-hosts" not in here, "MLflow's own list is right for loopback"
    assert here[here.index("--artifacts-destination") + 1] == str(tmp_path / "mlflow-artifacts")
    team = Server(tmp_path, host="0.0.0.0", allowed_hosts=("login01",), artifacts="s3://bucket/mlflow").words()
    assert team[team.index("--allowed-hosts") + 1].startswith("login01,login01:*,localhost,")
    assert team[team.index("--cors-allowed-origins") + 1] == "http://login01:5000"
    assert team[team.index("--artifacts-destination") + 1] == "s3://bucket/mlflow"
    anybody = Server(tmp_path, host="0.0.0.0", allowed_hosts=("*",)).words()
    assert anybody[anybody.index("--allowed-hosts") + 1] == "*"
    assert socket.gethostname() in ",".join(Server(tmp_path, host="0.0.0.0").words())


def test_settings_for_clients_in_the_same_shell_do_not_reach_the_server() -> None:
    found = serve.server_environment(
        {"MLFLOW_TRACKING_URI": "http://x", "MLFLOW_SERVER_ALLOWED_HOSTS": "x", "MLFLOW_RUN_ID": "1", "PGPASSWORD": "y"}
    )
    off = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    assert found == {"PGPASSWORD": "y", **off}


def test_postgresql_is_called_with_a_driver_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    present: set[str] = set()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in present or None)
    with pytest.raises(TrackingServerError, match=r"no driver for PostgreSQL.*pip install 'cait-dist\[postgres\]'"):
        database_uri("postgresql://db/mlflow")
    present.add("psycopg")
    assert database_uri("postgresql://mike@db/mlflow") == "postgresql+psycopg://mike@db/mlflow"
    present.add("psycopg2")
    assert database_uri("postgresql://mike@db/mlflow") == "postgresql+psycopg2://mike@db/mlflow"
    assert database_uri("postgresql+psycopg://db/mlflow") == "postgresql+psycopg://db/mlflow"
    present.remove("psycopg2")
    with pytest.raises(TrackingServerError, match="psycopg2 is not installed"):
        database_uri("postgresql+psycopg2://db/mlflow")
    assert database_uri("sqlite:////x.db") == "sqlite:////x.db"


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("postgresql://mike:hunter2@db/mlflow", "--backend must not hold a password"),
        ("http://login01:5000", "is a server already"),
        ("mysql://db/x", "--backend must start with"),
    ],
)
def test_a_backend_that_cannot_be_served_is_refused(tmp_path: Path, backend: str, words: str) -> None:
    with pytest.raises(TrackingServerError, match=words) as caught:
        serve.serve(Server(tmp_path / "runs", backend))
    assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_an_address_that_cannot_be_listened_on_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TrackingServerError, match=f"127.0.0.1:{port} is in use by another program: choose another"):
            serve.serve(Server(tmp_path, port=port))
    with pytest.raises(TrackingServerError, match="give a --host of this machine"):
        serve.serve(Server(tmp_path, host="192.0.2.1"))


def test_a_page_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"holds no mlflow.db: train there first"):
        serve_ui(tmp_path, 5000)


def test_a_database_broken_by_a_race_is_told_with_the_remedy(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with sqlite3.connect(tmp_path / "mlflow.db") as broken:
        broken.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        broken.execute("CREATE TABLE metrics (key VARCHAR(250))")
        broken.execute("CREATE TABLE _alembic_tmp_tags (key VARCHAR(250))")
    with pytest.raises(TrackingServerError, match=r"mlflow.db cannot be used by this MLflow.*move it away"):
        database.prepare_database(uri)
    with sqlite3.connect(tmp_path / "newer.db") as newer:
        newer.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        newer.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
        newer.execute("CREATE TABLE metrics (key VARCHAR(250))")
    with pytest.raises(TrackingServerError, match="made by a newer MLflow"):
        database.prepare_database(f"sqlite:///{tmp_path}/newer.db")


def test_ending_is_a_wish_that_a_signal_only_notes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with serve._stop_signals() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
    assert signal.getsignal(signal.SIGTERM) is before


def test_only_this_machine_is_served_unless_somebody_asks_for_more(tmp_path: Path) -> None:
    from typer.main import get_command  # noqa: PLC0415

    from cait_dist.cli.track import track_app  # noqa: PLC0415

    assert Server(tmp_path).words()[:2] == ["--host", "127.0.0.1"]
    assert "--allowed-hosts" not in Server(tmp_path).words()
    commands = get_command(track_app).commands  # type: ignore[attr-defined]
    defaults = {option.name: option.default for option in commands["serve"].params}
    assert defaults["host"] == "127.0.0.1"
    assert "host" not in {option.name for option in commands["ui"].params}, "nobody else can be let in"
