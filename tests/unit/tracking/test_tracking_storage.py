"""A full disk, a limit, a read-only file system: what is there stays, what cannot be written is kept or told.

The file systems are real. What this machine cannot have on demand, a server's failure and a quota, is put in where a
file is written, and said to be.
"""

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_disks import Ballast, set_writable, small_disk

from cait_dist.evaluation import Answers
from cait_dist.tracking import kept_lines
from cait_dist.tracking.digest import read_digest
from cait_dist.tracking.kept_lines import KeptLines
from cait_dist.tracking.metrics import MetricsWriter, attempt_metrics, series
from cait_dist.tracking.run_directory import read_json, write_json
from cait_dist.tracking.storage import explain
from cait_dist.training.recording.output import LossyFile

STEPS = range(1, 400)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "256k") as place:
        yield place


def write(writer: MetricsWriter, steps: range) -> None:
    for step in steps:
        writer.append(step, 1000.0, {"train/loss": float(step)})


def assert_all_there(folder: Path, steps: range) -> None:
    assert series(attempt_metrics(folder), "train/loss") == [(step, float(step)) for step in steps]


def test_lines_that_a_full_disk_does_not_take_are_there_once_it_does(disk: Path) -> None:
    said: list[str] = []
    writer = MetricsWriter(disk, 0, said.append)
    write(writer, range(1, 10))
    ballast = Ballast(disk)
    write(writer, range(10, 300))
    there = attempt_metrics(disk)
    assert 9 <= len(there) < 200, "the disk was full"
    assert len(said) == 1
    assert f"{disk / 'metrics.jsonl'} cannot be written (No space left on device)" in said[0]
    ballast.lift()
    write(writer, range(300, STEPS.stop))
    assert "is written again" in said[1]
    assert f": {299 - len(there)} lines that were kept are there" in said[1]
    writer.close()
    assert len(said) == 2
    assert_all_there(disk, STEPS)
    assert all(
        line.startswith("{") and line.endswith("}") for line in (disk / "metrics.jsonl").read_text().splitlines()
    )
    assert read_digest(disk).covered == (disk / "metrics.jsonl").stat().st_size


def test_a_writer_that_dies_on_a_full_disk_leaves_whole_lines_and_at_most_a_torn_last_one(disk: Path) -> None:
    write(MetricsWriter(disk, 0, lambda text: None), range(1, 10))
    ballast = Ballast(disk)
    write(MetricsWriter(disk, 9, lambda text: None), range(10, 300))
    found = series(attempt_metrics(disk), "train/loss")
    assert found == [(step, float(step)) for step in range(1, len(found) + 1)]
    ballast.lift()
    write(MetricsWriter(disk, len(found), lambda text: None), range(len(found) + 1, STEPS.stop))
    assert_all_there(disk, STEPS)


def test_a_torn_last_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    write(MetricsWriter(tmp_path, 0), range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')
    write(MetricsWriter(tmp_path, 3), range(4, 7))
    assert_all_there(tmp_path, range(1, 7))


def test_what_stays_unwritten_at_the_end_is_told_with_its_steps(disk: Path) -> None:
    said: list[str] = []
    writer = MetricsWriter(disk, 0, said.append)
    ballast = Ballast(disk)
    write(writer, STEPS)
    there = len(attempt_metrics(disk))
    writer.close()
    ballast.lift()
    assert f"{len(STEPS) - there} lines of {disk / 'metrics.jsonl'} are lost (steps {there + 1} to 399)" in said[-1]
    assert "No space left on device" in said[-1]
    assert [path.name for path in disk.iterdir()] == ["metrics.jsonl"], "and no half of its short form"


def test_a_read_only_file_system_is_waited_for(disk: Path) -> None:
    said: list[str] = []
    set_writable(disk, False)
    writer = MetricsWriter(disk, 0, said.append)
    write(writer, range(1, 10))
    assert "Read-only file system" in said[0]
    with pytest.raises(OSError, match=r"Read-only.*run\.json"):
        write_json(disk / "run.json", {})
    set_writable(disk, True)
    write(writer, range(10, 20))
    writer.close()
    assert len(said) == 2
    assert_all_there(disk, range(1, 20))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_limit_of_the_size_of_files_loses_nothing_either(tmp_path: Path) -> None:
    said: list[str] = []
    writer = MetricsWriter(tmp_path, 0, said.append)
    write_json(tmp_path / "run.json", {"old": 1})
    with files_of_at_most(3000):
        write(writer, range(1, 300))
        with pytest.raises(OSError, match=r"too large.*run\.json"):
            write_json(tmp_path / "run.json", {"new": "x" * 5000})
        assert (tmp_path / "metrics.jsonl").stat().st_size <= 3000
    assert read_json(tmp_path / "run.json") == {"old": 1}
    write(writer, range(300, STEPS.stop))
    writer.close()
    assert_all_there(tmp_path, STEPS)
    assert "File too large" in said[0]


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.ESTALE])
def test_after_a_failure_of_the_server_the_file_is_opened_anew_and_nothing_is_lost(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a server: some writes fail, having written half."""
    opened: list[Any] = []

    class Failing(kept_lines.FileIO):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            opened.append(self)

        def write(self, data: Any) -> int:
            if fails:
                super().write(data[: len(data) // 2])
                raise OSError(number, "as said")
            return super().write(data)

    fails = False
    monkeypatch.setattr(kept_lines, "FileIO", Failing)
    writer = MetricsWriter(tmp_path, 0, lambda text: None)
    for begin in range(1, 40, 10):
        write(writer, range(begin, begin + 5))
        fails = True
        write(writer, range(begin + 5, begin + 10))
        fails = False
    writer.close()
    assert len(opened) > 4
    assert_all_there(tmp_path, range(1, 41))


def test_of_too_many_kept_lines_a_coarser_curve_is_left_and_every_evaluation(disk: Path) -> None:
    said: list[str] = []
    lines = KeptLines(
        disk / "lines.jsonl", said.append, lambda row, size: None, lambda row: "train" in row, most_bytes=3000
    )
    ballast = Ballast(disk)
    for step in range(2000):
        lines.append({"step": step, **({"val": 1} if step % 100 == 0 else {"train": 1})})
    ballast.lift()
    lines.append({"step": 2000})
    lines.close()
    rows = [json.loads(line) for line in (disk / "lines.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    assert [row["step"] for row in rows if "val" in row] == list(range(0, 2000, 100))
    assert 30 < len(rows) < 600
    assert int(said[-1].split(": ")[1].split()[0]) + int(said[-1].split(", ")[1].split()[0]) <= 2001
    assert "had become too many and are lost" in said[-1]


def test_a_record_and_answers_on_a_full_disk_stay_as_they_were(disk: Path) -> None:
    run, kept = disk / "run.json", disk / "val-raw.npz"
    write_json(run, {"attempts": [1]})
    answers = Answers(2000)
    answers.table[:] = 1
    answers.save(kept, 1, "d")
    before = {path: path.read_bytes() for path in (run, kept)}
    ballast = Ballast(disk)
    with pytest.raises(OSError, match=r"No space left on device.*run\.json"):
        write_json(run, {"attempts": list(range(10_000))})
    answers.table[:, :3] = torch.rand(2000, 3)
    with pytest.raises(OSError, match="No space left on device"):
        answers.save(kept, 2, "d")
    assert {path: path.read_bytes() for path in (run, kept)} == before
    ballast.lift()
    assert sorted(path.name for path in disk.iterdir()) == ["run.json", "val-raw.npz"], "nothing half-written is left"
    with np.load(kept) as found:
        assert int(found["step"]) == 1


def test_a_log_on_a_full_disk_loses_lines_and_keeps_the_others_whole(disk: Path) -> None:
    with LossyFile(disk / "rank-1.log", "w") as log:
        log.write(b"first\n")
        ballast = Ballast(disk)
        for _ in range(300):
            log.write(b"a line that may be lost, or half of it\n")
        ballast.lift()
        log.write(b"last\n")
    lines = (disk / "rank-1.log").read_bytes().splitlines()
    assert (lines[0], lines[-1]) == (b"first", b"last")
    assert len(lines) < 300
    with LossyFile("/dev/full", "w") as full:
        assert full.write(b"abc") == 3


@pytest.mark.parametrize(
    ("number", "says", "remedy"),
    [
        (errno.ENOSPC, "No space left on device", "free space"),
        (errno.EDQUOT, "Disk quota exceeded", "quota"),
        (errno.EROFS, "Read-only file system", "mounted to be written"),
        (errno.EFBIG, "File too large", "ulimit -f"),
        (errno.EIO, "Input/output error", "file system"),
    ],
)
def test_the_line_names_the_file_what_the_system_said_and_what_to_do(number: int, says: str, remedy: str) -> None:
    line = explain(OSError(number, os.strerror(number), "runs/a/run.json"), Path("runs/a"), 30)
    assert line.startswith(f"runs/a/run.json cannot be written ({says}): ")
    assert remedy in line
    assert "the last checkpoint is step 30" in line
    assert "\n" not in line
    assert explain(OSError(number, says), Path("runs/a"), None).startswith("runs/a cannot be written")
