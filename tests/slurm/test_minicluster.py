"""The small cluster is a cluster: many hosts, GPUs that are shared out, orders that are refused, nodes that are lost.

Losing nodes takes Slurm a while. So a second cluster is broken when this file begins and judged at its end; that both
are up at the same time, with the same addresses, is part of the test.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from training_command import CAIT

from slurm.minicluster import MiniCluster, MiniClusterError


def out(cluster: MiniCluster, *command: str) -> str:
    result = cluster.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.2)


def submit(cluster: MiniCluster, script: str, *options: str) -> str:
    return out(cluster, "sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", script).split(";")[0]


def job(cluster: MiniCluster, number: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S*)", out(cluster, "scontrol", "--oneliner", "show", "job", number)))


def is_idle(cluster: MiniCluster, node: str) -> bool:
    # Not by sinfo, which may call a node mixed for minutes after its last job was given up (seen with 22.05).
    return "State=IDLE " in out(cluster, "scontrol", "--oneliner", "show", "node", node)


# A cluster that is broken while the other tests run


Broken = tuple[MiniCluster, dict[str, str]]


@pytest.fixture(scope="module", autouse=True)
def broken(_slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    folder = tmp_path_factory.mktemp("broken") / "cluster"
    conf = {"SlurmdTimeout": "12"}
    with MiniCluster.up(folder, nodes=5, gpus=0, accounting="none", conf=conf, stay=False) as cluster:
        jobs = {
            "killed": submit(cluster, "srun sleep 1000", "--nodes=2", "--exclusive", "--exclude=n3,n4"),
            "cut": submit(cluster, "srun sleep 1000", "--nodelist=n3", "--no-requeue"),
        }
        until(lambda: all(job(cluster, number)["JobState"] == "RUNNING" for number in jobs.values()), "both jobs")
        cluster.kill_node("n2")
        cluster.cut("n3")
        yield cluster, jobs


# What a job sees


def test_every_node_is_a_host_of_its_own(cluster: MiniCluster) -> None:
    assert sorted(out(cluster, "srun", "--nodes=6", "hostname").split()) == list(cluster.nodes)
    assert out(cluster, "hostname") == "head"


def test_a_job_on_two_nodes_shares_files_but_not_memory(cluster: MiniCluster, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/sh\n#SBATCH --nodes=2 --output=all.txt\n"
        "srun --label sh -c 'touch /dev/shm/$(hostname); sleep 0.3; ls /dev/shm; touch seen-by-$SLURM_PROCID'\n"
        "getent hosts n2\n"
    )
    cluster.run(["sbatch", "--wait", "--quiet", "--nodelist=n1,n2", script.name], cwd=tmp_path, check=True)
    text = (tmp_path / "all.txt").read_text()
    assert {"0: n1", "1: n2"} <= set(text.splitlines())
    assert "0: n2" not in text
    assert "10.231.77.2" in text
    assert (tmp_path / "seen-by-1").exists()


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["--gpus-per-node=8"], ["0,1,2,3,4,5,6,7"]),
        (["--gres=gpu:3"], ["0,1,2"]),
        (["--ntasks=2", "--gpus-per-task=1"], ["0", "1"]),
    ],
)
def test_gpus_are_shared_out(cluster: MiniCluster, options: list[str], seen: list[str]) -> None:
    devices = out(cluster, "srun", "--nodes=1", *options, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert sorted(devices.split()) == seen


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--gpus-per-node=9", "Requested node configuration is not available"),
        ("--nodes=7", "node configuration|Node count|More nodes|partition limit"),
        ("--partition=nope", "invalid partition specified: nope"),
        ("--constraint=nope", "Invalid feature specification"),
        ("--time=1-00:00:01", "Requested time limit is invalid"),
        ("--account=nope", "Invalid account"),
        ("--qos=nope", "Invalid qos"),
    ],
)
def test_what_can_never_run_is_refused(cluster: MiniCluster, option: str, words: str) -> None:
    if option.startswith(("--account", "--qos")) and not cluster.settings.accounting:
        pytest.skip("no database here (mariadb-server, slurmdbd): Slurm accepts any account")
    result = cluster.run(["sbatch", option, "--wrap=true"], capture_output=True, text=True)
    assert result.returncode == 1
    assert re.search(words, result.stderr), result.stderr


def test_the_accounts_it_has_are_accepted_and_kept(cluster: MiniCluster) -> None:
    if not cluster.settings.accounting:
        pytest.skip("no database here (mariadb-server, slurmdbd)")
    options = ["--account=team", "--qos=lowq", "--constraint=slow", "--partition=low", "--output=/dev/null"]
    given = cluster.run(["sbatch", "--wait", "--parsable", *options, "--wrap=exit 3"], capture_output=True, text=True)
    query = ["sacct", "-nXP", "-j", given.stdout.strip(), "-o", "Account,QOS,State,ExitCode,NodeList"]
    expected = r"team\|lowq\|FAILED\|3:0\|n[456]"
    until(lambda: bool(re.fullmatch(expected, out(cluster, *query))), "the database to know all of it")
    assert out(cluster, "sacctmgr", "-nP", "show", "user", "format=user,defaultaccount").endswith("|team")


# The ways in


def test_a_surrounding_slurm_job_does_not_mislead(cluster: MiniCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/nowhere")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert out(cluster, "srun", "hostname") in cluster.nodes


def test_the_command_hands_over_everything(cluster: MiniCluster, tmp_path: Path) -> None:
    command = [CAIT, "cluster", "exec", "--dir", cluster.folder, "sh", "-c", "cat; pwd; hostname; exit 7"]
    result = subprocess.run(command, input="hello\n", capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (7, f"hello\n{tmp_path}\nhead\n", "")
    command = [CAIT, "cluster", "node", "--dir", cluster.folder, "n3", "--", "hostname"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "n3\n"


def test_cait_is_found_on_the_head_without_an_activated_environment(cluster: MiniCluster) -> None:
    command = [CAIT, "cluster", "exec", "--dir", cluster.folder, "--", "cait", "--version"]
    subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True)


def test_wrong_orders_are_explained(cluster: MiniCluster) -> None:
    with pytest.raises(MiniClusterError, match="there is no node n9; there are n1 to n6"):
        cluster.cut("n9")
    with pytest.raises(MiniClusterError, match="n1 runs already"):
        cluster.start_node("n1")
    with pytest.raises(MiniClusterError, match="slurmd of n1 runs already"):
        cluster.start_slurmd("n1")
    with pytest.raises(MiniClusterError, match=r"is up in .* already"):
        MiniCluster.up(cluster.folder)
    result = subprocess.run(
        [CAIT, "cluster", "heal", "n0", "--dir", cluster.folder], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (2, "cait: there is no node n0; there are n1 to n6\n")


# What became of the broken one


def test_two_clusters_do_not_know_of_each_other(cluster: MiniCluster, broken: Broken) -> None:
    assert len(out(cluster, "sinfo", "-hN", "-p", "main").splitlines()) == 6
    assert len(out(broken[0], "sinfo", "-hN", "-p", "main").splitlines()) == 5


def test_a_job_without_slurmd_goes_on_and_is_taken_up_again(broken: Broken, tmp_path: Path) -> None:
    cluster, _ = broken
    counted = tmp_path / "counted"
    counted.touch()
    number = submit(cluster, f"for i in $(seq 100); do sleep 0.1; echo $i >> {counted}; done", "--nodelist=n4")
    until(lambda: bool(counted.read_text()), "the first count")
    cluster.stop_slurmd("n4")
    with pytest.raises(MiniClusterError, match="slurmd of n4 does not run"):
        cluster.stop_slurmd("n4")
    before = counted.read_text()
    until(lambda: counted.read_text() > before, "the job to go on")
    cluster.start_slurmd("n4")
    until(lambda: job(cluster, number)["JobState"] == "COMPLETED", "the end of the job to be known")
    assert job(cluster, number)["Restarts"] == "0"
    assert counted.read_text().split() == [str(i) for i in range(1, 101)]


def test_a_job_that_lost_a_node_starts_again_on_others(broken: Broken) -> None:
    cluster, jobs = broken
    with pytest.raises(MiniClusterError, match="n2 is off: start it first"):
        cluster.command(["hostname"], node="n2")
    until(lambda: job(cluster, jobs["killed"]).get("Restarts") == "1", "the job to be requeued")
    until(lambda: job(cluster, jobs["killed"])["JobState"] == "RUNNING", "the job to run again")
    assert job(cluster, jobs["killed"])["NodeList"] == "n[1,5]"
    cluster.start_node("n2")
    until(lambda: is_idle(cluster, "n2"), "n2 to be idle")
    assert out(cluster, "srun", "--nodelist=n2", "hostname") == "n2"


def test_a_job_behind_a_cut_cable_fails_and_the_node_comes_back_when_it_is_healed(broken: Broken) -> None:
    cluster, jobs = broken
    until(lambda: job(cluster, jobs["cut"])["JobState"] == "NODE_FAIL", "the job to be given up")
    # What Slurm cannot reach it cannot end: the task still runs, as it would on a real cluster.
    assert cluster.run(["pgrep", "-f", "sleep 1000"], node="n3", stdout=subprocess.DEVNULL).returncode == 0
    cluster.heal("n3")
    until(lambda: is_idle(cluster, "n3"), "n3 to be idle")
    assert out(cluster, "srun", "--nodelist=n3", "hostname") == "n3"
