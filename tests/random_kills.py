"""Kills `cait train` again and again: ``python tests/random_kills.py DATA FOLDER --kills 200``.

One run on two processes. Who is killed and when are drawn at random: the command, a rank, a process that loads images,
or all at once, as when the machine is lost; while it starts, or some steps later. In the end the run finishes, and has
to be the undisturbed one: every loss, every bit of the last checkpoint, and no file that the other has not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
from training_command import CAIT, final_state, losses

from cait_dist.tracking.code_version import describe_code
from cait_dist.tracking.metrics import recent_metrics
from cait_dist.tracking.run_directory import RunDirectory, timestamp

STEPS_PER_KILL = 16
"""Of the run: more than what is won between two kills, or it would finish too early."""
MOST_STEPS = 40
"""In an attempt before it is killed."""
START_SECONDS = 6.0
SHARE_WHILE_STARTING = 0.3
VICTIMS = ("command", "rank", "loader", "all")
OF_A_KILLED_RANK = (".error.json", ".stacks.txt", ".silent.json")
SHARED_MEMORY = Path("/dev/shm")

CONFIG = """
name: kills
seed: 3
data: {{path: {data}, workers: 1}}
model: {{image_size: 16, patch_size: 4, embed_dim: 24, depth: 2, depth_token_only: 1, num_heads: 2,
  layer_scale_init: 0.1, drop_path_rate: 0.2}}
augment: {{hflip: 0.5, rand_layers: 1, erase_probability: 0.25, mixup: 0.8, cutmix: 1.0, mix_group: 4}}
optimizer: {{lr: 2e-3, clip_grad: 1.0}}
schedule: {{warmup_epochs: 0}}
training:
  epochs: {epochs}
  global_batch: 16
  precision: fp32
  ema_decay: 0.9
  log_every: 1
  collective_timeout: 60
  zero: {{stage: 2, bucket_size: 5000, param_persistence_threshold: 0}}
  checkpoint: {{every_epochs: null, every_steps: 10}}
evaluation: {{every_epochs: 1000, weights: [raw]}}
tracking: {{mlflow: false}}
"""
STEPS_PER_EPOCH = 90


class Killer:
    """Runs the command and kills it.

    Args:
        config: file
        runs: folder of runs
        random: decides
        scratch: where processes put temporary files
    """

    def __init__(self, config: Path, runs: Path, random: Random, scratch: Path) -> None:
        self._config, self._runs, self._random, self._scratch = config, runs, random, scratch
        self.killed: Counter[str] = Counter()

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start `cait train`."""
        log = (self._runs.parent / f"{name}.log").open("ab")
        with log:
            return subprocess.Popen(
                [str(CAIT), "train", str(self._config), f"name={name}", f"runs_dir={self._runs}", "--processes", "2"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "TMPDIR": str(self._scratch), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def kill_once(self, name: str) -> bool:
        """Start, wait for a moment, kill; whether the run was not at its end before."""
        run, process = RunDirectory(self._runs / name), self.start(name)
        before = len(run.attempts()) if run.path.is_dir() else 0
        for _ in self._until_the_moment(run, before):
            if process.poll() is not None:
                return False
            time.sleep(0.005)
        victim = self._random.choice(VICTIMS)
        everybody = _family(process.pid)
        for one in _chosen(victim, everybody, self._random):
            with contextlib.suppress(psutil.NoSuchProcess):  # a program that lives for moments
                one.kill()
        self.killed[victim] += 1
        process.wait(120)
        _, alive = psutil.wait_procs(everybody, 120)
        assert not alive, f"{alive} outlived the command by two minutes"
        return True

    def _until_the_moment(self, run: RunDirectory, before: int) -> Iterator[None]:
        """Yields until it is time."""
        if self._random.random() < SHARE_WHILE_STARTING:
            deadline = time.monotonic() + self._random.uniform(0, START_SECONDS)
        else:
            steps = self._random.randint(1, MOST_STEPS)
            while not (run.path.is_dir() and _steps_done(run, before) >= steps):
                yield
            deadline = time.monotonic() + self._random.uniform(0, 0.3)
        while time.monotonic() < deadline:
            yield


def _steps_done(run: RunDirectory, before: int) -> int:
    attempts = run.attempts()
    return len(recent_metrics(attempts[-1])) if len(attempts) > before else 0


def _family(number: int) -> list[psutil.Process]:
    """A process, those that it has started, and theirs."""
    try:
        parent = psutil.Process(number)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _chosen(victim: str, everybody: list[psutil.Process], random: Random) -> list[psutil.Process]:
    if victim == "all" or not everybody:
        return everybody
    by_kind: dict[str, list[psutil.Process]] = {"command": everybody[:1], "rank": [], "loader": []}
    for process in everybody[1:]:
        try:
            by_kind["rank" if process.ppid() == everybody[0].pid else "loader"].append(process)
        except psutil.NoSuchProcess:
            continue
    # While it starts there is not yet everybody.
    return [random.choice(by_kind[victim] or everybody)]


def names_of(run: RunDirectory) -> set[str]:
    """Every file of a run, whatever the number of the attempt."""
    found = (str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file())
    return {re.sub(r"attempt-\d+", "attempt", name) for name in found}


def same_as_undisturbed(runs: Path) -> RunDirectory:
    """The killed run, which is finished, has every loss and bit of the undisturbed one, and no file more."""
    killed, undisturbed = RunDirectory(runs / "killed"), RunDirectory(runs / "undisturbed")
    said = (runs.parent / "killed.log").read_text()[-2000:]
    assert killed.read_record()["attempts"][-1]["outcome"] == "finished", said
    assert losses(killed) == losses(undisturbed)
    assert final_state(killed) == final_state(undisturbed)
    # What ranks say of their end, and where they keep what they were doing, belongs to the attempts that were killed.
    extra = {name for name in names_of(killed) - names_of(undisturbed) if not name.endswith(OF_A_KILLED_RANK)}
    assert not extra, f"left over: {sorted(extra)}"
    return killed


def kill_and_compare(data: Path, folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Train undisturbed, train with kills, compare; returns facts, or raises AssertionError.

    Args:
        data: as `cait prep` writes it
        folder: empty
        kills: how many
        seed: of who is killed and when
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, runs, scratch = folder / "kills.yaml", folder / "runs", folder / "scratch"
    scratch.mkdir()
    epochs = max(2.0, kills * STEPS_PER_KILL / STEPS_PER_EPOCH)
    config.write_text(CONFIG.format(data=data, epochs=round(epochs, 2)))
    shared_before = {path.name for path in SHARED_MEMORY.iterdir()}
    killer = Killer(config, runs, Random(seed), scratch)
    assert killer.start("undisturbed").wait(3600) == 0, (folder / "undisturbed.log").read_text()[-2000:]
    kept = set(scratch.iterdir())  # torch has a folder there that it means to find again
    began = time.monotonic()
    for number in range(kills):
        assert killer.kill_once("killed"), f"the run was finished after {number} kills"
        print(f"\rkilled {number + 1} of {kills}", end="", file=sys.stderr, flush=True)
    for _ in range(3):
        # The first may meet a rank of its predecessor's that still saves.
        if killer.start("killed").wait(3600) == 0:
            break
        time.sleep(5)
    killed = same_as_undisturbed(runs)
    left = set(scratch.iterdir()) - kept
    assert not [path for path in left if path.is_dir() or path.stat().st_size], f"left over: {left}"
    shared = {path.name for path in SHARED_MEMORY.iterdir()} - shared_before
    attempts = killed.read_record()["attempts"]
    return {
        "kills": kills,
        "of": dict(killer.killed),
        "steps": len(losses(killed)),
        "attempts": len(attempts),
        "steps_repeated": sum(attempt.get("redone_steps", 0) for attempt in attempts),
        "seconds": round(time.monotonic() - began),
        # Python's own search for libraries makes one, empty, for a moment while torch is imported.
        "empty_temporary_files": len(left),
        "left_in_shared_memory": sorted(shared),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="digits, as `cait prep digits --image-size 16` writes them")
    parser.add_argument("folder", type=Path, help="to work in; new or empty")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the facts")
    given = parser.parse_args()
    found = kill_and_compare(given.data.absolute(), given.folder.absolute(), given.kills, given.seed)
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    facts = {
        "command": f"python tests/random_kills.py DATA FOLDER --kills {given.kills} --seed {given.seed}",
        **describe_code(),
        "date": timestamp(),
        "hardware": f"{cpu.group(1) if cpu else 'unknown'}, {os.cpu_count()} cores",
        **found,
    }
    text = json.dumps(facts, indent=1) + "\n"
    print(f"\n{text}", end="")
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
