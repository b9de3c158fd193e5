"""`cait prep` is killed again and again, in tars and in betons; what comes out is what an undisturbed run gives."""

import hashlib
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from training_command import CAIT

KILLS = 10


def prepare(out: Path, workers: int) -> "subprocess.Popen[bytes]":
    command = [str(CAIT), "prep", "digits", "--out", str(out), "--format", "both", "--ffcv-mode", "proportion"]
    return subprocess.Popen(
        [*command, "--image-size", "96", "--shard-samples", "50", "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def progress(out: Path) -> int:
    """Shards that are finished, plus shards that a beton holds."""
    # A journal outlives its beton's last step by a moment.
    journals = [path for path in out.glob("*/.*.journal") if not list(path.parent.glob("*.beton"))]
    lines = [max(path.read_bytes().count(b"\n") - 1, 0) for path in journals]
    betons = [len(list(path.parent.glob("*.tar"))) for path in out.glob("*/*.beton")]
    return len(list(out.glob("*/*.tar"))) + sum(lines) + sum(betons)


def checksums(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file() and path.name not in (".lock", ".ffcv.lock")
    }


def test_ten_kills_at_random_moments_leave_no_trace(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert prepare(undisturbed, 1).wait(120) == 0
    whole = progress(undisturbed)
    # Not the last few: a busy machine may let the preparation end before this process looks again.
    moments = sorted(np.random.RandomState(4).choice(np.arange(1, whole * 9 // 10), KILLS, replace=False).tolist())
    reached = []
    for moment in moments:
        process = prepare(killed, 2)
        while process.poll() is None and progress(killed) < moment:
            time.sleep(0.002)
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
        reached.append(progress(killed))
    print(f"killed at {reached} of {whole} steps")
    assert reached[-1] < whole
    assert prepare(killed, 3).wait(120) == 0
    assert checksums(killed) == checksums(undisturbed)
