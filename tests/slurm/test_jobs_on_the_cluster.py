"""Work that is not training, as jobs of a real Slurm: the same bytes, and the same numbers, as on one machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_runs import cait, run, write_profile
from training_command import CAIT, train, wait_for

from cait_dist.tracking.metrics import read_metrics
from cait_dist.tracking.run_directory import RunDirectory
from slurm.minicluster import MiniCluster

pytestmark = pytest.mark.slow

PREP = ("prep", "digits", "--image-size", "16", "--shard-samples", "40", "--format", "both")

SLOWED_DOWN = """
import importlib.abc, os, sys, time

class SlowShards(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "data_prep.shard":
            sys.meta_path.remove(self)
            import data_prep.clean as module
            original = module.clean
            def clean(*arguments):
                time.sleep(float(os.environ["TEST_IMAGE_SECONDS"]) if "SLURM_ARRAY_TASK_ID" in os.environ else 0)
                return original(*arguments)
            module.clean = clean
        return None

if "TEST_IMAGE_SECONDS" in os.environ:
    sys.meta_path.insert(0, SlowShards())
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return write_profile(tmp_path, tasks=2)


def slow_images(folder: Path, seconds: float) -> dict[str, str]:
    """Variables that make the array's members wait before every image, so that there is a middle to be killed in."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOWED_DOWN)
    return {"PYTHONPATH": str(folder), "TEST_IMAGE_SECONDS": str(seconds)}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is not hidden."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(name): (folder / name).read_bytes() for name in names if not any(p[0] == "." for p in name.parts)}


def wait_until_gone(cluster: MiniCluster, *job_ids: str) -> None:
    listed = ["squeue", "--noheader", f"--jobs={','.join(job_ids)}"]
    wait_for(lambda: is_empty(run(cluster, listed)), f"the end of {job_ids}", timeout=300)


def is_empty(queue: subprocess.CompletedProcess[str]) -> bool:
    """Whether SLURM says so; no answer is no empty queue."""
    return queue.returncode == 0 and not queue.stdout.strip()


def task_of(member: str) -> int | None:
    """The process, on this machine, of a member of an array."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            variables = (entry / "environ").read_bytes().split(b"\0") if b"submitit.core._submit" in words else []
        except OSError:
            continue
        array, _, index = member.partition("_")
        wanted = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={index}".encode()}
        if wanted <= set(variables) and b"SLURM_PROCID=0" in variables and b"srun" not in words:
            return int(entry.name)
    return None


def test_an_array_with_a_killed_and_a_warned_member_writes_the_same_bytes(
    cluster: MiniCluster, profile: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    options = ("--out", there, "--cluster", profile)
    slow = slow_images(tmp_path / "slow", 0.04)
    done = cait(cluster, *PREP, *options, "--jobs", "3", "--cpus-per-task", "2", **slow)
    assert done.returncode == 0, done.stdout + done.stderr
    array, last = re.findall(r"Submitted jobs (\d+) and (\d+)", done.stdout)[0]
    assert f"squeue --jobs={array},{last}" in done.stdout
    again = cait(cluster, *PREP, *options)
    assert again.returncode == 2
    assert f"scancel {array},{last}" in again.stderr

    warned, killed, report = (there / ".jobs" / f"{job}_0_log.out" for job in (f"{array}_0", f"{array}_1", last))
    deeds = {
        warned: lambda: run(cluster, ["scancel", "--signal=USR2", f"{array}_0"]),
        killed: lambda: os.kill(wait_for(lambda: task_of(f"{array}_1"), "member 1"), signal.SIGKILL),
    }
    deadline = time.monotonic() + 240
    while deeds:  # each as soon as it can be done: one may begin long before the other
        begun = [log for log in deeds if log.exists() and "1/15" in log.read_text()]
        for log in begun:
            deeds.pop(log)()
        assert time.monotonic() < deadline, f"no first shard in {list(deeds)}"
        time.sleep(0.05)
    subprocess.run([str(CAIT), *PREP, "--out", str(here)], check=True, capture_output=True, timeout=300)
    wait_until_gone(cluster, array, last)

    assert warned.read_text().count("Calling checkpoint method") == 1, warned.read_text()
    assert "found finished" in warned.read_text()
    assert "15/15" in warned.read_text()
    assert "15/15" not in killed.read_text(), "member 1 was not killed in the middle"
    found = int(re.findall(r"\((\d+) of them found finished\)", report.read_text())[0])
    assert 30 < found < 45, report.read_text()
    assert contents(there) == contents(here)
    ready = cait(cluster, *PREP, *options)
    assert (ready.returncode, ready.stdout[:13]) == (0, "nothing to do"), ready.stdout + ready.stderr


@pytest.fixture(scope="module")
def finished(shared_config: Path) -> RunDirectory:
    return train(shared_config, "evaluation.every_epochs=0.12", "--processes", "2", name="for-jobs")


def test_an_evaluation_as_a_job_measures_what_training_did(
    cluster: MiniCluster, finished: RunDirectory, tmp_path: Path, profile: Path
) -> None:
    done = cait(cluster, "evaluate", finished.path, "--step", "all", "--follow", "--cluster", profile)
    assert done.returncode == 0, done.stdout + done.stderr
    job_id, log = re.findall(r"Submitted job (\d+).*?tail -f (\S+)", done.stdout, re.DOTALL)[0]
    wait_until_gone(cluster, job_id)
    assert "the run is finished" in Path(log).read_text(), Path(log).read_text()
    rows = [row for row in read_metrics(finished) if row["step"] == 36]
    content: dict[str, Any] = json.loads((finished.path / "evaluations" / "step-00000036.json").read_text())
    for entry in content["results"]:
        prefix = "val" if entry["weights"] == "raw" else "val_ema"
        theirs = next(row for row in rows if f"{prefix}/top1" in row)
        assert (entry["top1"], entry["top5"]) == (theirs[f"{prefix}/top1"], theirs[f"{prefix}/top5"])
        assert entry["loss"] == pytest.approx(theirs[f"{prefix}/loss"], abs=1e-7)
        assert "digest" in entry["code"], "the job did not run the copy of the code"
    assert [entry["weights"] for entry in content["results"]] == ["raw", "ema"]


@pytest.fixture
def waiting(cluster: MiniCluster, profile: Path, tmp_path: Path, shared_config: Path) -> Iterator[tuple[str, Path]]:
    """A following evaluation of a run that does not begin."""
    place = tmp_path / "runs" / "late"
    (place / "launch").mkdir(parents=True)
    text = shared_config.read_text()
    (place / "launch" / "config.yaml").write_text(text)
    done = cait(cluster, "evaluate", place, "--follow", "--cluster", profile)
    assert done.returncode == 0, done.stdout + done.stderr
    job_id, log = re.findall(r"Submitted job (\d+).*?tail -f (\S+)", done.stdout, re.DOTALL)[0]
    wait_for(lambda: Path(log).exists() and "until it is finished" in Path(log).read_text(), "the start")
    yield job_id, Path(log)
    run(cluster, ["scancel", job_id])


def test_a_following_evaluation_comes_back_when_warned_and_ends_when_cancelled(
    cluster: MiniCluster, waiting: tuple[str, Path]
) -> None:
    job_id, log = waiting
    run(cluster, ["scancel", "--signal=USR2", job_id])
    wait_for(lambda: log.read_text().count("until it is finished") == 2, "the second start", timeout=240)
    assert log.read_text().count("Calling checkpoint method") == 1, log.read_text()
    run(cluster, ["scancel", job_id])
    wait_until_gone(cluster, job_id)
