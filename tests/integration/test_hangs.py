"""A rank that stops without dying ends nothing by itself: the others say which, where they wait, and all end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from training_command import Training, evaluations, final_state, losses, start, train, wait_for

from cait_dist.tracking.run_directory import RunDirectory

pytestmark = pytest.mark.slow

LIMIT = 8
SLOW_STEPS = """
import importlib.abc, os, sys, time

class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "cait_dist.training.trainer":
            sys.meta_path.remove(self)
            import cait_dist.training.step as step
            original = step.TrainingStep.run
            def run(self, batches):
                time.sleep(0.1)
                return original(self, HOOK(batches))
            step.TrainingStep.run = run
        return None

def HOOK(batches):
    return batches

if "RANK" in os.environ:
    sys.meta_path.insert(0, Hook())
"""
STOPS_IN_A_STEP = """
import signal
calls = []
def HOOK(batches):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 13:
        os.kill(os.getpid(), signal.SIGSTOP)
    return batches
"""
STUCK_IN_DATA = """
calls = []
def HOOK(batches):
    calls.append(1)
    for batch in batches:
        if os.environ["RANK"] == "1" and len(calls) == 13:
            os.read(os.pipe()[0], 1)  # a file system that does not answer
        yield batch
"""
STOPS_WHILE_EVALUATING = """
import signal
def HOOK(batches):
    import cait_dist.training.trainer as trainer
    original = trainer.Trainer._view
    def view(self, images):
        if os.environ["RANK"] == "1":
            time.sleep(5)  # so that it has said where it is
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(self, images)
    trainer.Trainer._view = view
    return batches
"""
SLOW_BUT_ALIVE = """
calls = []
def bounds():
    import torch
    from torch.distributed import distributed_c10d as c10d
    backends = [group._get_backend(torch.device("cpu")) for group in c10d._world.pg_map]
    print("timeouts", sorted({backend.options._timeout.seconds for backend in backends}), len(backends) > 2)
def HOOK(batches):
    import cait_dist.training.trainer as trainer
    calls.append(1)
    if len(calls) == 1:
        bounds()
        original, save = trainer.Trainer._view, trainer.Trainer._save
        def view(self, images, seen=[]):
            seen.append(1)
            if len(seen) == 1:
                time.sleep(3)
            return original(self, images)
        def slow_save(self, *, last, seen=[]):
            save(self, last=last)
            seen.append(1)
            if len(seen) == 1:
                time.sleep(3)
        trainer.Trainer._view, trainer.Trainer._save = view, slow_save
        time.sleep(3)
    return batches
"""


def begin(config: Path, folder: Path, hook: str = "", limit: float = LIMIT, name: str = "tiny") -> Training:
    """Start a run of two ranks with steps slow enough to be met in the middle."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW_STEPS + hook)
    return start(config, "--processes", "2", f"training.hang_timeout={limit}", name=name, PYTHONPATH=str(folder))


def test_a_stopped_rank_is_named_and_ended_and_the_run_goes_on_as_if_nothing_had_happened(
    tiny_config: Path, tmp_path: Path, undisturbed: Callable[[int], RunDirectory]
) -> None:
    training = begin(tiny_config, tmp_path / "hook", STOPS_IN_A_STEP)
    training.wait_for_step(3)
    stopped = training.rank(1)
    everything = [process.pid for process in psutil.Process(training.process.pid).children(recursive=True)]
    wait_for(lambda: stopped.status() == psutil.STATUS_STOPPED, "the stop")
    began = time.monotonic()
    told = wait_for(lambda: list(training.run.attempt(1).glob("rank-0.hang.json")), "the finding")
    assert told
    assert time.monotonic() - began < LIMIT + 15
    status, _, err = training.finish()
    assert time.monotonic() - began < LIMIT + 60
    assert status == 1
    assert re.search(
        r"rank 1 on node \S+ has not been heard of for \d+ s, last in step \d+, .*; the others wait in", err
    )
    assert "Timed out" not in err
    assert not [pid for pid in everything if psutil.pid_exists(pid)], "also the stopped one is gone"
    stacks = (training.run.attempt(1) / "rank-0.stacks.txt").read_text()
    assert "training/step.py" in stacks, "it tells where it waits"
    entry = training.run.read_record()["attempts"][0]
    assert (entry["outcome"], entry["failure"]["rank"]) == ("failed", 1)
    run = train(tiny_config, "--processes", "2")
    assert losses(run) == losses(undisturbed(2))
    assert evaluations(run) == evaluations(undisturbed(2))
    assert final_state(run) == final_state(undisturbed(2))


def test_ranks_that_get_stuck_elsewhere_are_named_with_what_they_did(tiny_config: Path, tmp_path: Path) -> None:
    # Both at once: what they do is mostly to wait.
    stuck = begin(tiny_config, tmp_path / "data", STUCK_IN_DATA, name="data")
    stopped = begin(tiny_config, tmp_path / "evaluation", STOPS_WHILE_EVALUATING, limit=3, name="evaluation")
    status, _, err = stuck.finish()
    assert status == 1
    assert re.search(r"rank 1 on node \S+ does not get on: for \d+ s in step 13, data; the others wait in step 1", err)
    assert "sitecustomize.py" in (stuck.run.attempt(1) / "rank-1.stacks.txt").read_text(), "where it is stuck"
    status, _, err = stopped.finish()
    assert status == 1
    assert re.search(r"rank 1 on node \S+ has not been heard of for \d+ s, last in step 14, evaluation", err)


def test_the_first_step_an_evaluation_and_a_save_may_take_longer(tiny_config: Path, tmp_path: Path) -> None:
    status, out, err = begin(tiny_config, tmp_path / "hook", SLOW_BUT_ALIVE, limit=1.5).finish()
    assert status == 0, out + err
    assert "timeouts [60] True" in out, "every group that training, evaluation and saving use has the one that was set"
