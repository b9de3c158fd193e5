"""However a cluster ends, nothing of it remains; and why one cannot be made is said."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from slurm.minicluster import MiniCluster, MiniClusterError, programs, why_not

ROOT = Path(__file__).resolve().parents[2]
START = """
import sys
from pathlib import Path
from slurm.minicluster import MiniCluster
cluster = MiniCluster.up(Path(sys.argv[1]), nodes=2, gpus=1, stay=sys.argv[2] == "stay")
print("up", cluster.run(["srun", "-N2", "hostname"], capture_output=True, text=True).stdout.split(), flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.usefixtures("_slurm")


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Traces:
    """What a cluster has put into the world: processes, and the machine's own interfaces and mounts before it."""

    def __init__(self) -> None:
        self._machine = self._interfaces_and_mounts()
        self._processes: set[psutil.Process] = set()

    def see(self, root: int) -> None:
        """Remember a process and all that descend from it."""
        process = psutil.Process(root)
        self._processes |= {process, *process.children(recursive=True)}

    def count(self) -> int:
        return len(self._processes)

    def nothing_left(self, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while left := [process for process in self._processes if lives(process)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.02)
        assert self._interfaces_and_mounts() == self._machine

    @staticmethod
    def _interfaces_and_mounts() -> tuple[list[str], list[str]]:
        # Not below the folder for temporary files, where other tests mount small disks meanwhile.
        elsewhere = f"{Path(tempfile.gettempdir()).resolve()}/"
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if elsewhere not in line]
        return sorted(path.name for path in Path("/sys/class/net").iterdir()), mounts


def holder_of(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "holder").read_text().split()[0]))


def small(folder: Path, **options: object) -> MiniCluster:
    return MiniCluster.up(folder, nodes=2, gpus=1, accounting="none", **options)  # type: ignore[arg-type]


def test_down_leaves_nothing_but_logs(tmp_path: Path) -> None:
    traces = Traces()
    cluster = MiniCluster.up(tmp_path / "cluster", nodes=2)
    traces.see(holder_of(cluster.folder).ppid())
    assert traces.count() > 10
    busy = subprocess.Popen(cluster.command(["srun", "-N2", "sleep", "300"]), stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    traces.see(holder_of(cluster.folder).ppid())
    MiniCluster.existing(cluster.folder).down()
    traces.nothing_left()
    busy.wait()
    assert {path.name for path in cluster.folder.iterdir()} == {"log", "minicluster.json"}
    cluster.down()
    with pytest.raises(MiniClusterError, match="has ended"):
        cluster.run(["squeue"])
    with pytest.raises(MiniClusterError, match="no cluster is up"):
        MiniCluster.existing(cluster.folder)


@pytest.mark.parametrize("victim", ["process 1", "unshare"])
def test_a_killed_holder_takes_everything_with_it_and_leaves_room_for_the_next(tmp_path: Path, victim: str) -> None:
    traces = Traces()
    with small(tmp_path) as cluster:
        holder = holder_of(cluster.folder)
        traces.see(holder.ppid())
        (holder if victim == "process 1" else psutil.Process(holder.ppid())).kill()
        traces.nothing_left()
        with small(tmp_path) as another:
            assert another.run(["srun", "true"]).returncode == 0


def begin(folder: Path, *, stay: bool) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", START, str(folder), "stay" if stay else "go"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_start_that_is_broken_off_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: signal.Signals
) -> None:
    # With a controller that does not come the start cannot be over before the signal is there.
    (tmp_path / "slurmctld").write_text("#!/bin/sh\nexec sleep 100\n")
    (tmp_path / "slurmctld").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    traces = Traces()
    starting = begin(tmp_path / "cluster", stay=True)
    while not (tmp_path / "cluster/run/munge.sock").exists():
        time.sleep(0.01)
    traces.see(starting.pid)
    starting.send_signal(how)
    out, errors = starting.communicate()
    assert starting.returncode != 0, out + errors
    assert ("KeyboardInterrupt" in errors) == (how == signal.SIGINT)
    traces.nothing_left()
    assert (tmp_path / "cluster/etc").exists() == (how != signal.SIGINT)


@pytest.mark.parametrize("stay", [False, True])
def test_a_cluster_stays_only_if_it_is_to(tmp_path: Path, stay: bool) -> None:
    traces = Traces()
    starter = begin(tmp_path, stay=stay)
    assert starter.stdout is not None
    assert starter.stdout.readline() in ("up ['n1', 'n2']\n", "up ['n2', 'n1']\n")
    traces.see(holder_of(tmp_path).ppid())
    starter.kill()
    starter.communicate()
    if stay:
        time.sleep(0.5)
        with MiniCluster.existing(tmp_path) as cluster:
            assert cluster.run(["srun", "true"]).returncode == 0
    traces.nothing_left()


def test_an_ordinary_user_can_have_one() -> None:
    # Pytest's folders are closed to others, and often so is the Python that runs it.
    python, folder = "/usr/bin/python3", Path(f"/tmp/minicluster-of-nobody-{os.getpid()}")
    if os.geteuid() != 0:
        pytest.skip("every other test here runs as an ordinary user already")
    check = "import sys, slurm.minicluster; sys.exit(sys.version_info < (3, 10))"
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    if subprocess.run([*nobody, python, "-c", check], cwd=ROOT, check=False, capture_output=True).returncode:
        pytest.skip(f"nobody cannot run {python} 3.10 or newer in {ROOT}")
    if subprocess.run([*nobody, "unshare", "--user", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel denies user namespaces to ordinary users")
    folder.mkdir()
    try:
        os.chown(folder, 65534, 65534)
        result = subprocess.run(
            [*nobody, python, "-c", START, str(folder), "go"],
            cwd=ROOT, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout in ("up ['n1', 'n2']\n", "up ['n2', 'n1']\n")


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("bash", "ip", "mount", "nsenter", "sinfo", "unshare"):
        where = programs.find(program)
        assert where is not None
        (tmp_path / program).symlink_to(where)
    monkeypatch.setattr(programs, "SYSTEM_FOLDERS", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = "slurmctld, slurmd, munged not found: install (Debian, Ubuntu) munge slurm-wlm"
    assert why_not() == reason
    with pytest.raises(MiniClusterError) as error:
        MiniCluster.up(tmp_path / "cluster")
    assert str(error.value) == reason


def test_forbidden_namespaces_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "unshare").write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    reason = why_not()
    assert reason is not None
    assert "may not make the namespaces of a cluster here (unshare failed: Operation not permitted)" in reason


def test_a_daemon_that_dies_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "munged").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "munged").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    traces = Traces()
    with pytest.raises(MiniClusterError, match=r"did not start: .*munged ended with status 3: it said nothing"):
        small(tmp_path / "cluster")
    traces.nothing_left()


def test_a_wrong_line_of_configuration_is_shown(tmp_path: Path) -> None:
    with pytest.raises(MiniClusterError, match=r"slurmctld ended with status 1: .*fatal: .*select/nope"):
        small(tmp_path, conf={"SelectType": "select/nope"})


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with pytest.raises(MiniClusterError, match="holds other things"):
        small(tmp_path)
    assert (tmp_path / "etc").is_dir()
    with contextlib.suppress(OSError):
        (tmp_path / "file").write_text("")
    with pytest.raises(MiniClusterError, match="name another folder"):
        small(tmp_path / "file")
